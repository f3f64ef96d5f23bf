"""A trained model as an ONNX file of floating point and as one of integers, measured side by side.

Shape legend: B batch, … the sample's own dimensions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from accelerator.errors import ConfigError
from accelerator.runtime.acceleration_method import FileMethod, Outcome
from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.runtime.context.build import objective_of, told_as
from accelerator.runtime.context.component import build
from accelerator.runtime.data.splits import Split, as_splits, first_inputs
from accelerator.runtime.export import ExportError, export_model
from accelerator.runtime.metrics import Average, build_metrics
from accelerator.runtime.trained import checkpoint_of, load_finest, model_of, recipe_of

BEFORE, AFTER = "model.fp32.onnx", "model.int8.onnx"
BATCHES = (1, 64)
"""Samples at a time, of which the time is taken."""

_NEEDS = ("onnx", "onnxruntime", "onnxscript")
_ROUNDS, _SECONDS = 15, 0.5  # timings of each at least, and for how long


class FilePlan:
    """Two files of one trained model, transforms included.

    Args:
        config: resolved and checked.
        method: makes the second of the first.
    """

    def __init__(self, config: Mapping[str, Any], method: FileMethod) -> None:
        if missing := [name for name in _NEEDS if find_spec(name) is None]:
            raise ConfigError(
                f"acceleration=quantize needs {', '.join(missing)}: install them with "
                "pip install 'accelerator-platform[onnx]'"
            )
        self.config, imports = config, tuple(config["imports"])
        path = checkpoint_of(Path(config["load"]))
        saved, _ = load_finest(path)
        self.model, self.facts = model_of(config, saved, path), saved["facts"]
        source = build("data", config["data"], "data", imports=imports)
        self.splits = as_splits(source, config["loader"]["split"], config["seed"])
        inputs = first_inputs(self.splits)
        try:
            self.before = export_model(self.model, recipe_of(config, saved), inputs, "onnx").data
        except ExportError as error:
            raise ConfigError(
                f"acceleration=quantize works on an ONNX file: {str(error).partition('; use --format')[0]}"
            ) from error
        calibration = _spread(self.splits["train"], method.samples)
        with told_as("acceleration", config["acceleration"], imports):
            self.after = method.convert(self.before, calibration, root="network")

    def carry_out(self, run_dir: Path) -> Outcome:
        """Write both, and compare what they predict, how large they are and how long they take."""

        files = {BEFORE: self.before, AFTER: self.after}
        for name, data in files.items():
            write_bytes(run_dir / name, data)
        runs = [_session(data) for data in files.values()]
        split = self.config["evaluate"]["split"]
        split = split if split in self.splits else list(self.splits)[-1]
        before, after = (
            self._measure(run, split) | {"bytes": len(data)} for run, data in zip(runs, files.values(), strict=True)
        )
        outcome = Outcome(files=[run_dir / name for name in files])
        outcome.rows = [
            *((name, f"{before[name]:.5g} → {value:.5g}") for name, value in after.items() if name != "bytes"),
            ("bytes", f"{before['bytes']:,} → {after['bytes']:,} ({after['bytes'] / before['bytes']:.0%})"),
        ]
        for count in BATCHES:
            was, now = latencies(runs, _spread(self.splits[split], count, exactly=True))
            before[f"latency_ms/batch_{count}"], after[f"latency_ms/batch_{count}"] = was, now
            told = f"{was / now:.2f} times as fast" if now <= was else f"SLOWER by {now / was - 1:.0%} on this machine"
            samples = "a sample" if count == 1 else f"{count} samples"
            outcome.rows.append((samples, f"{was:.3g} ms → {now:.3g} ms, one thread: {told}"))
        outcome.metrics = after | {f"before/{name}": value for name, value in before.items()}
        return outcome

    def _measure(self, run: Callable[[Tensor], Tensor], split: str) -> dict[str, float]:
        """Loss in the units trained on, metrics in the data's own, as an evaluation of the network has them."""
        config, transforms, imports = self.config, self.model.transforms, tuple(self.config["imports"])
        loss = Average(objective_of(build("loss", config["loss"], "loss", imports=imports), transforms))
        metrics = build_metrics(config["metrics"], torch.device("cpu"), imports, **self.facts)
        size = config["loader"]["eval_batch_size"] or 4 * config["loader"]["batch_size"]
        for inputs, targets in _batches(self.splits[split], size):
            prediction = run(inputs)
            loss.update(transforms.targets(prediction), transforms.targets(targets))
            for metric in metrics.values():
                metric.update(prediction, targets)
        return {f"{split}/{name}": float(metric.compute()) for name, metric in {"loss": loss, **metrics}.items()}


def latencies(runs: list[Callable[[Tensor], Tensor]], inputs: Tensor) -> list[float]:
    """Median milliseconds of each, taken in turns: what else the machine does meets all of them alike.

    Args:
        runs: functions from inputs to predictions.
        inputs: (B, …).
    """
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run(inputs)
    end = time.perf_counter() + _SECONDS
    while len(taken[0]) < _ROUNDS or time.perf_counter() < end:
        for run, times in zip(runs, taken, strict=True):
            begin = time.perf_counter()
            run(inputs)
            times.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(times) for times in taken]


def _session(data: bytes) -> Callable[[Tensor], Tensor]:
    """Runs an ONNX file on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def _batches(part: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A split's raw inputs and targets, (B, …) each."""
    if isinstance(part, tuple):
        yield from zip(part[0].cpu().split(size), part[1].cpu().split(size), strict=True)
        return
    for inputs, targets in DataLoader(_dataset(part), batch_size=size):
        yield torch.as_tensor(inputs), torch.as_tensor(targets)


def _spread(part: Split, count: int, *, exactly: bool = False) -> Tensor:
    """Raw inputs spread over a split, (count, …); fewer if it has fewer, unless as many are wanted exactly."""
    held = len(part[0]) if isinstance(part, tuple) else len(_dataset(part))
    rows = torch.linspace(0, held - 1, count if exactly else min(count, held)).long()
    if isinstance(part, tuple):
        return part[0].cpu()[rows]
    dataset = _dataset(part)
    return default_collate([torch.as_tensor(dataset[row][0]) for row in rows.tolist()])


def _dataset(part: Any) -> Any:
    return part.dataset if isinstance(part, DataLoader) else part
