"""``accelerator model list|show|load``: the registry is not changed."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from accelerator.cli.tables import Column, clean, console, fitted
from accelerator.errors import ConfigError, UserError
from accelerator.runtime.model_manifest import PICKLE, PT2, WEIGHTS, Manifest
from accelerator.tracking.locations import locate
from accelerator.tracking.model_files import DATA_TAG, DIGEST_TAG, FORMATS_TAG, INPUTS_TAG, OUTPUTS_TAG, array
from accelerator.tracking.model_registry import CHALLENGER, CHAMPION, METRIC_TAG, ModelVersion, Registry
from accelerator.tracking.model_sources import fetched, in_store
from accelerator.tracking.query import open_store, when
from accelerator.utilities.files import short
from accelerator.utilities.quantities import number, size

DIGITS = 8  # of an id, where it is shown in a table

_MOST_METRICS = 4  # columns
_COLOURS = {CHAMPION: "bold green", CHALLENGER: "cyan"}
_SUFFIXES = {".safetensors": WEIGHTS, ".pt2": PT2, ".pth": PICKLE}


def list_models(options: Namespace) -> None:
    """Print the models of the store."""
    registry = Registry(open_store(options.uri))
    models = {name: registry.versions(name) for name in registry.names()}
    if options.json:
        print(json.dumps({name: [as_plain(version) for version in found] for name, found in models.items()}, indent=1))
        return
    if not models:
        print(f"no model is registered in {registry.store.uri}; accelerator model register RUN NAME registers one")
        return
    rows: list[list[str | Text]] = []
    for name, found in models.items():
        of = {alias: version for version in found for alias in version.aliases}
        others = (f"{alias} {of[alias].number}" for alias in sorted(of) if alias not in _COLOURS)
        named = [Text(str(of[alias].number), _COLOURS[alias]) if alias in of else "–" for alias in _COLOURS]
        newest = f"{found[0].number}, {when(found[0].created)}" if found else "–"
        rows.append([clean(name), str(len(found)), *named, clean(", ".join(others)), newest, _measured(found[:1])])
    cells = list(map(list, zip(*rows, strict=True)))
    columns = [
        Column("name", cells[0]),
        Column("versions", cells[1], right=True, rank=2),
        Column("champion", cells[2]),
        Column("challenger", cells[3], rank=1),
        *([Column("other aliases", cells[4], rank=4, least=14)] if any(cells[4]) else []),
        Column("newest", cells[5], rank=3),
        Column("its metrics", cells[6], rank=5),
    ]
    _print_fitted(console(), columns)


def show(options: Namespace) -> None:
    """Print the versions of a model, or one of them."""
    registry = Registry(open_store(options.uri))
    if "/" in options.model.removeprefix("models:/") or "@" in options.model:
        _show_version(registry, registry.find(options.model), as_json=options.json)
        return
    name = options.model.removeprefix("models:/")
    versions = registry.versions(name)
    if options.json:
        print(json.dumps([as_plain(version) for version in versions], indent=1))
        return
    out = console()
    if said := registry.description(name):
        out.print(clean(said), "", sep="\n")
    metrics = _common(versions)
    aliases = [
        Text(" ").join(Text(clean(alias), _COLOURS.get(alias, "")) for alias in version.aliases) for version in versions
    ]
    columns = [
        Column("version", [str(version.number) for version in versions]),
        Column("aliases", aliases),
        Column("stage", [version.stage for version in versions], rank=1),
        Column("run", [(version.run_id or "–")[:DIGITS] for version in versions]),
        Column("created", [when(version.created) for version in versions], rank=2),
        *(
            Column(clean(metric), [number(version.metrics.get(metric)) for version in versions], right=True, rank=rank)
            for rank, metric in enumerate(metrics, 3)
        ),
    ]
    _print_fitted(out, columns)


def load(options: Namespace) -> None:
    """Compare a model's files with their checksums, and write them where they are wanted."""
    out = options.out
    store = open_store(options.uri)
    source = options.model if in_store(options.model) else f"models:/{options.model}"
    with fetched(store, source) as found:
        manifest = found.check()
        total = sum(facts["bytes"] for facts in manifest.files.values())
        print(
            f"{found.said}: {len(manifest.files)} files, {size(total)}, every one as it was written"
            + ("" if found.recorded else "; the store itself keeps no checksum of them")
        )
        if out is not None:
            _write(found.folder, manifest, out, force=options.force)
        _print_use(source, manifest, out, options.uri)


def as_plain(version: ModelVersion) -> dict[str, Any]:
    """A version for programs."""
    told = {name: value for name, value in asdict(version).items() if name != "tags"}
    tags = {name: text for name, text in version.tags.items() if not name.startswith(METRIC_TAG)}
    return {**told, "stage": version.stage, "metrics": version.metrics, "tags": tags, "uri": f"models:/{version}"}


def _show_version(registry: Registry, version: ModelVersion, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(as_plain(version), indent=1))
        return
    tags = version.tags
    facts = {
        "model": str(version),
        "aliases": ", ".join(version.aliases),
        "stage": version.stage if version.stage != "None" else "",
        "description": version.description,
        "created": when(version.created),
        "network": tags.get("model"),
        "inputs": tags.get(INPUTS_TAG),
        "predictions": tags.get(OUTPUTS_TAG),
        "formats": tags.get(FORMATS_TAG),
        "run": " ".join(filter(None, (version.run_id, tags.get("run")))),
        "experiment": tags.get("experiment"),
        "run directory": tags.get("run_dir"),
        "data": tags.get(DATA_TAG),
        "config": tags.get("config.fingerprint", "")[:12],
        "commit": tags.get("git.commit"),
        "manifest": tags.get(DIGEST_TAG, "")[:12],
        "MLflow model": version.model_id,
    }
    out = console()
    for name, value in facts.items():
        if value:
            out.print(Text.assemble((f"{name:<14} ", "bold"), clean(value)))
    if metrics := sorted(version.metrics):
        values = [number(version.metrics[name]) for name in metrics]
        out.print()
        _print_fitted(out, [Column("metric", list(map(clean, metrics))), Column("value", values, right=True)])
    known = {"model", "run", "experiment", "run_dir", "config.fingerprint", "git.commit", "stage"}
    rest = {
        name: text
        for name, text in tags.items()
        if name not in known and not name.startswith((METRIC_TAG, "accelerator.", "mlflow."))
    }
    if names := sorted(rest):
        out.print()
        _print_fitted(
            out, [Column("tag", list(map(clean, names))), Column("value", [clean(rest[name]) for name in names])]
        )


def _print_fitted(out: Console, columns: Sequence[Column]) -> None:
    made, hidden = fitted(out, columns)
    out.print(made)
    if hidden:
        out.print(f"no room here for {', '.join(hidden)}; --json has everything")


def _write(folder: Path, manifest: Manifest, out: Path, *, force: bool) -> None:
    """Copy one file of a model, or all of them, whole or not at all."""
    from accelerator.runtime.checkpoint.operation import write_bytes

    if out.exists() and not force:
        raise ConfigError(f"{out} exists; give another name, or --force to replace it")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}")
    if (name := _SUFFIXES.get(out.suffix)) is not None:
        if name not in manifest.files:
            notes = "".join(f"; {note}" for note in manifest.notes if note.startswith(("pt2", "pickle")))
            raise UserError(f"{out}: the model has no {name}; it was kept as {', '.join(manifest.formats)}{notes}")
        if out.is_dir():
            raise ConfigError(f"{out} is a folder; give the name of a file")
        write_bytes(out, (folder / name).read_bytes())
    elif out.suffix:
        raise ConfigError(f"{out}: name it {', '.join(_SUFFIXES)}, or without an ending for a folder with everything")
    else:
        if out.exists() and not (out / "MLmodel").is_file():
            raise ConfigError(f"{out} is not a model's folder; --force replaces models only")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
    print(f"wrote {short(out)}")


def _print_use(source: str, manifest: Manifest, out: Path | None, uri: str | None) -> None:
    print(f"inputs {array(manifest.inputs)} → predictions {array(manifest.outputs)}")
    arguments = [repr(source if out is None else str(out))]
    if out is not None and out.suffix == ".pt2":
        print(f"in Python: torch.export.load({arguments[0]}).module()(inputs)")
        return
    if manifest.imports:
        arguments.append(f"imports={manifest.imports!r}")
    if uri is not None and out is None:
        arguments.append(f"uri={locate(uri).uri!r}")
    print(f"in Python: accelerator.load_model({', '.join(arguments)})(inputs)")


def _common(versions: Sequence[ModelVersion]) -> list[str]:
    """The metrics that are shown: those of the test, and of the validation, that most versions have."""
    counted: dict[str, int] = {}
    for version in versions:
        for name in version.metrics:
            counted[name] = counted.get(name, 0) + 1
    wanted = [name for name in counted if name.startswith(("test/", "val/"))]
    return sorted(wanted, key=lambda name: (-counted[name], name))[:_MOST_METRICS]


def _measured(versions: Sequence[ModelVersion]) -> str:
    return "  ".join(f"{clean(name)} {number(versions[0].metrics[name])}" for name in _common(versions))
