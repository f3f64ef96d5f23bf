"""``accelerator checkpoint list|show|verify``: nothing is written."""

from __future__ import annotations

import json
import math
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from accelerator.cli.which_run import find, run_id
from accelerator.errors import CheckpointError, UserError
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import Meta, read_meta, sidecar
from accelerator.runtime.checkpoint.operation import TEMPORARY, is_ours
from accelerator.runtime.run_directory import CHECKPOINTS
from accelerator.runtime.trained import handler_of
from accelerator.utilities import quantities
from accelerator.utilities.files import short

UNFINISHED = "unfinished: its save was killed; it does not count"


@dataclass
class Entry:
    """A file among a run's checkpoints.

    Attributes:
        path: the file.
        meta: its sidecar; None if there is none that can be read.
        problem: why it cannot be used, as far as a look at names and sizes tells; None if nothing speaks against it.
        best: the run's best.
        last: the newest finished one.
    """

    path: Path
    meta: Meta | None
    problem: str | None
    best: bool = False
    last: bool = False


def list_runs(options: Namespace) -> int:
    """Print the checkpoints of each run asked for."""
    runs = [source for source in _sources(options.sources) if source.is_dir()]
    if not runs:
        raise CheckpointError(f"{options.sources[0]} is a file; accelerator checkpoint show tells what it holds")
    listed = [(run, handler_of(run)) for run in runs]
    if options.json:
        print(json.dumps([_as_plain(run, handler, entries(handler)) for run, handler in listed], indent=1))
        return 0
    console = _console()
    for run, handler in listed:
        _print_list(console, run, handler, entries(handler))
    return 0


def show(options: Namespace) -> int:
    """Print what a checkpoint holds."""
    path = checkpoint_file(options.source)
    meta = read_meta(path)
    tensors = _tensors(path)
    if options.json:
        print(json.dumps({"file": str(path), **asdict(meta), "tensors": tensors}, indent=1))
        return 0
    console = _console()
    for name, value in _facts(path, meta).items():
        console.print(Text.assemble((f"{name:<12} ", "bold"), value))
    console.print()
    table = Table(box=None)
    if options.tensors:
        for name in ("name", "shape", "type", "values"):
            table.add_column(name, justify="right" if name == "values" else "left")
        for tensor in tensors:
            table.add_row(tensor["name"], str(tuple(tensor["shape"])), tensor["dtype"], f"{tensor['values']:,}")
    else:
        for name in ("part", "tensors", "values", "bytes", "types"):
            table.add_column(name, justify="left" if name in ("part", "types") else "right")
        for part in dict.fromkeys(tensor["part"] for tensor in tensors):
            own = [tensor for tensor in tensors if tensor["part"] == part]
            values, size = (sum(tensor[key] for tensor in own) for key in ("values", "bytes"))
            types = ", ".join(sorted({tensor["dtype"] for tensor in own}))
            table.add_row(part, f"{len(own):,}", f"{values:,}", quantities.size(size), types)
    console.print(table)
    return 0


def verify_all(options: Namespace) -> int:
    """Compare every checkpoint asked for with its sidecar; the exit code of a damaged one if any is."""
    console, bad, count = _console(), 0, 0
    for source in _sources(options.sources):
        found = entries(handler_of(source)) if source.is_dir() else [Entry(source, None, None)]
        for entry in found:
            if entry.problem == UNFINISHED:
                console.print(Text.assemble(("unfinished  ", "yellow"), f"{short(entry.path)}: it does not count"))
                continue
            count += 1
            try:
                size = _verified(entry.path)
            except CheckpointError as error:
                bad += 1
                console.print(Text.assemble(("damaged     ", "bold red"), str(error)))
            else:
                console.print(Text.assemble(("whole       ", "green"), f"{short(entry.path)}  {quantities.size(size)}"))
    if bad:
        print(f"error: {bad} of {count} checkpoints cannot be used", file=sys.stderr)
    return UserError.exit_code if bad else 0


def checkpoint_file(source: str) -> Path:
    """The file meant: itself, or a run's best checkpoint, its newest if none was rated.

    Raises:
        CheckpointError: there is none.
    """
    found = find(source, source)
    if found.is_file():
        _check_ours(found)
        return found
    handler = handler_of(found)
    if (path := handler.best()) is not None:
        return path
    if not (paths := handler.paths()):
        raise CheckpointError(f"{handler.directory} holds no finished checkpoint")
    return paths[-1]


def entries(handler: CheckpointHandler) -> list[Entry]:
    """Every checkpoint in a run's folder, finished or not, by step."""
    files = {*handler.directory.glob("*.safetensors")}
    files |= {path.with_suffix(".safetensors") for path in handler.directory.glob("*.json")}
    found = [Entry(path, *_looked_at(path)) for path in sorted(files)]
    found.sort(key=lambda entry: (entry.meta.step, entry.meta.created) if entry.meta else (sys.maxsize, ""))
    finished, best = [entry for entry in found if entry.meta], handler.best()
    for entry in finished:
        entry.best, entry.last = entry.path == best, entry is finished[-1]
    left = sorted(handler.directory.glob(f".*{TEMPORARY}"))
    return found + [Entry(path, None, UNFINISHED) for path in left]


def _looked_at(path: Path) -> tuple[Meta | None, str | None]:
    if not sidecar(path).exists():
        return None, UNFINISHED
    try:
        meta = read_meta(path)
    except CheckpointError as error:
        return None, str(error).removeprefix(f"{sidecar(path)} is ").removeprefix(f"{path} ")
    if not path.exists():
        return meta, "damaged: the tensors are missing"
    if (size := path.stat().st_size) != meta.bytes:
        return meta, f"damaged: {size:,} of {meta.bytes:,} bytes"
    return meta, None


def _verified(path: Path) -> int:
    """The size of a checkpoint whose every bit is as it was saved.

    Raises:
        CheckpointError: it is not.
    """
    _check_ours(path)
    state, meta = CheckpointHandler(path.parent).load(path)
    # What any training leaves; a file that hashes well may still have been put together wrongly.
    expected = ("state", "level", "model", "network", "transforms", "facts", "optimizer", "scheduler", "rng")
    if missing := [name for name in expected if name not in state]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    if (state["state"]["step"], state["level"]) != (meta.step, meta.level):
        raise CheckpointError(
            f"{path} is of step {state['state']['step']:,} and level {state['level']}, its sidecar of step "
            f"{meta.step:,} and level {meta.level}"
        )
    return meta.bytes


def _check_ours(path: Path) -> None:
    """Told before a missing sidecar is: that of a foreign file was never there."""
    if not sidecar(path).exists() and not is_ours(path):
        raise CheckpointError(
            f"{path} is not a checkpoint of this platform, which is a .safetensors file with a .json beside it; other "
            "files are not read (a pickle could run code)"
        )


def _sources(wanted: Sequence[str]) -> list[Path]:
    """Run folders and files; a folder of runs stands for all below it."""
    sources: list[Path] = []
    for source in wanted or ["last"]:
        folder = Path(source).absolute()
        if folder.is_dir() and folder.name != CHECKPOINTS and not (folder / CHECKPOINTS).is_dir():
            below = sorted(path.parent for path in folder.rglob(CHECKPOINTS) if path.is_dir())
            if not below:
                raise CheckpointError(f"{source}: no run with a checkpoint in or below this folder")
            sources += below
        else:
            sources.append(find(source, source))
    return sources


def _as_plain(run: Path, handler: CheckpointHandler, found: Sequence[Entry]) -> dict[str, Any]:
    return {
        "run": str(run),
        "run_id": run_id(run),
        "monitor": handler.monitor,
        "mode": handler.mode,
        "checkpoints": [
            {
                "file": str(entry.path),
                "best": entry.best,
                "last": entry.last,
                "problem": entry.problem,
                **(asdict(entry.meta) if entry.meta else {}),
            }
            for entry in found
        ],
    }


def _print_list(console: Console, run: Path, handler: CheckpointHandler, found: Sequence[Entry]) -> None:
    console.print(Text(short(run), "bold"), Text(f"MLflow run {id}" if (id := run_id(run)) else "no MLflow run"))
    table = Table(box=None)
    table.add_column("file", no_wrap=True)
    for name in ("step", "epoch", "level", handler.monitor, "size", "age"):
        table.add_column(name, justify="right")
    table.add_column("", style="bold")
    for entry in found:
        meta = entry.meta
        facts = ["", "", "", "", "", ""]
        if meta is not None:
            value = meta.metrics.get(handler.monitor, math.nan)
            facts = [f"{meta.step:,}", f"{meta.epoch:,}", str(meta.level), "–" if math.isnan(value) else f"{value:.5g}"]
            facts += [quantities.size(meta.bytes), _age(meta.created)]
        marks = [mark for mark, is_so in (("best", entry.best), ("last", entry.last)) if is_so]
        note = Text(" ".join(marks)) if entry.problem is None else Text(entry.problem, "red")
        table.add_row(entry.path.name, *facts, note)
    if found:
        console.print(table)
    else:
        console.print("nothing was saved")


def _facts(path: Path, meta: Meta) -> dict[str, str]:
    run = path.absolute().parent.parent
    _, problem = _looked_at(path)
    rows: Mapping[str, str | None] = {
        "file": short(path),
        "problem": problem,
        "MLflow run": run_id(run),
        "step, epoch": f"{meta.step:,}, {meta.epoch:,}",
        "level": f"{meta.level}" + (" (a coarse network was being trained)" if meta.level else ""),
        "work units": f"{meta.work:,.6g}",
        "metrics": "  ".join(f"{name} {value:.5g}" for name, value in sorted(meta.metrics.items())) or "not measured",
        "saved": f"{meta.created[:19].replace('T', ' ')} UTC, {_age(meta.created)} ago",
        "by": ", ".join(f"{name} {number}" for name, number in meta.versions.items()),
        "commit": meta.commit,
        "config": f"fingerprint {meta.fingerprint[:12]}" if meta.fingerprint else None,
        "format": str(meta.schema),
        "SHA-256": f"{meta.sha256[:12]}…, {meta.bytes:,} bytes",
    }
    return {name: value for name, value in rows.items() if value}


def _tensors(path: Path) -> list[dict[str, Any]]:
    """Name, part, shape and type of every tensor, from the file's header alone."""
    found = []
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no dict
                piece = file.get_slice(key)
                shape, dtype = list(piece.get_shape()), piece.get_dtype()
                values = math.prod(shape)
                size = values * int("".join(filter(str.isdigit, dtype.partition("_")[0])) or 8) // 8
                found.append(
                    {
                        "name": key.removeprefix("/"),
                        "part": _part(key),
                        "shape": shape,
                        "dtype": dtype,
                        "values": values,
                        "bytes": size,
                    }
                )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    # As one counts: layer 2 before layer 10.
    return sorted(found, key=lambda tensor: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", tensor["name"])])


def _part(key: str) -> str:
    first, *rest = key.removeprefix("/").split("/")
    return f"network, level {rest[1]}" if first == "network" and rest[0] == "levels" else first


def _age(created: str) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    except ValueError:
        return "?"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _console() -> Console:
    # Piped into a file or a pager, a table is as wide as it needs to be.
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
