"""A look at a network as tables, values and findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from accelerator.analysis.coarsening import Possibilities
from accelerator.analysis.gradients import Flow
from accelerator.analysis.layers import Flops, Layer
from accelerator.analysis.memory import Memory
from accelerator.analysis.receptive import Receptive
from accelerator.analysis.report import Report, Table, counted, listed, scaled
from accelerator.errors import ConfigError
from accelerator.runtime.context.context import Context
from accelerator.utilities.quantities import size

DEAD = 0.5  # of a layer's units: half of what it costs is for nothing
LARGE_LAYER = 0.8  # of all parameters
MANY_PARAMETERS = 1000  # for each sample


def summarise(
    report: Report,
    context: Context,
    layers: list[Layer],
    flops: Flops,
    memory: Memory,
    flow: Flow,
    batch: int,
    piece: int,
) -> None:
    """What one wants to know first, the metrics, and the values for programs."""
    model = context.model
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    report.figures = [
        ("parameters", scaled(parameters)),
        ("FLOPs forward", scaled(flops.forward)),
        ("FLOPs backward", scaled(flops.backward)),
        ("training memory", size(memory.total)),
    ]
    of = f"a batch of {batch:,}" + (f" in pieces of {piece:,}" if piece < batch else "")
    report.facts = [
        ("class", f"{type(model).__module__}.{type(model).__name__}"),
        ("parameters", f"{parameters:,}, {trainable:,} of them trained"),
        (
            "input → output",
            f"{context.data.input_shape} → {layers[-1].shape[1:] if layers and layers[-1].shape else '?'}",
        ),
        ("measured with", f"{of}, on {context.engine.device}"),
        ("loss at the start", f"{flow.loss:.5g}, norm of the gradient {flow.norm:.5g}"),
    ]
    if flops.fft:
        report.facts.append(
            ("Fourier transforms", f"{scaled(flops.fft)} FLOPs beside, forward and backward (5 n log₂ n)")
        )
    seconds = [each.forward_seconds for each in layers if each.forward_seconds is not None]
    if seconds:
        back = sum(each.backward_seconds or 0.0 for each in layers)
        report.facts.append(
            ("time of the layers", f"{1e3 * sum(seconds):.3g} ms forward, {1e3 * back:.3g} ms backward")
        )
    report.metrics |= {
        "model/parameters": float(parameters),
        "model/trainable_parameters": float(trainable),
        "model/flops_forward": float(flops.forward),
        "model/flops_backward": float(flops.backward),
        "model/activation_bytes": float(memory.activations),
        "model/training_bytes": float(memory.total),
        "model/dead_units": float(sum(each.dead for each in flow.dead)),
    }
    report.values |= {
        "batch": batch,
        "piece": piece,
        "device": str(context.engine.device),
        "parameters": parameters,
        "trainable": trainable,
        "flops": {"forward": flops.forward, "backward": flops.backward, "fft": flops.fft},
        "memory": {
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "batch": memory.batch,
            "total": memory.total,
        },
        "gradients": {
            "loss": flow.loss,
            "norm": flow.norm,
            "batches": flow.batches,
            "disconnected": flow.disconnected,
            "zero": flow.zero,
            "frozen": flow.frozen,
            "not_finite": flow.not_finite,
            "dead_units": [{"path": each.path, "dead": each.dead, "units": each.units} for each in flow.dead],
        },
        "layers": [
            {
                "path": each.path,
                "class": each.kind,
                "output": each.shape,
                "parameters": each.parameters,
                "trainable": each.trainable,
                "calls": each.calls,
                "flops_forward": each.forward_flops,
                "flops_backward": each.backward_flops,
                "seconds_forward": each.forward_seconds,
                "seconds_backward": each.backward_seconds,
            }
            for each in layers
        ],
    }


def tabulate(
    report: Report,
    layers: list[Layer],
    memory: Memory,
    can: Possibilities,
    seen: Receptive | str,
    rows: int,
) -> None:
    """Layers, memory, what is seen, and what can be made of the network."""
    timed = any(each.forward_seconds is not None for each in layers)
    columns = ["layer", "class", "output", "parameters", "FLOPs forward", "FLOPs backward"]
    report.tables.append(
        Table(
            "Layers",
            [*columns, *(["forward, µs", "backward, µs"] if timed else [])],
            [
                [
                    each.path or "(itself)",
                    each.kind,
                    "×".join(map(str, each.shape[1:])) or "1" if each.shape else "not called",
                    each.parameters,
                    each.forward_flops,
                    each.backward_flops,
                    *([_micro(each.forward_seconds), _micro(each.backward_seconds)] if timed else []),
                ]
                for each in layers
            ],
            bars=(*columns[3:], "forward, µs", "backward, µs"),
            note=f"of a batch of {rows:,}; output without the batch"
            + ("; times of each layer alone, medians" if timed else ""),
            shown=60,
        )
    )
    report.tables.append(
        Table(
            "Memory of a training step",
            ("what", "size", "bytes"),
            [
                [what, size(count), count]
                for what, count in (
                    ("weights and buffers", memory.weights),
                    ("gradients", memory.gradients),
                    ("optimizer state", memory.optimizer),
                    ("activations", memory.activations),
                    ("batch", memory.batch),
                    ("all", memory.total),
                )
            ],
            bars=("bytes",),
            note="without what a layer takes while it computes, and the library's own",
        )
    )
    if isinstance(seen, Receptive):
        report.tables.append(
            Table(
                "Receptive field",
                ("layer", "sees, points", "from unit to unit"),
                [
                    [each.path, "×".join(map(str, each.field.points)), "×".join(f"{j:g}" for j in each.field.step)]
                    for each in seen.layers
                ],
                note=f"of an input of {'×'.join(map(str, seen.image))}"
                + (f"; followed up to {seen.stopped}" if seen.stopped else ""),
            )
        )
        report.values["receptive_field"] = {
            "points": seen.last.points,
            "step": seen.last.step,
            "image": seen.image,
            "stopped": seen.stopped,
            "layers": [{"path": each.path, "points": each.field.points} for each in seen.layers],
        }
    else:
        report.values["receptive_field"] = {"why_not": seen}
    if can.groups:
        report.tables.append(
            Table(
                "Units that belong together",
                ("made by", "units", "axis", "parameters of one", "can change"),
                [
                    [
                        listed(each.layers, 4),
                        each.width,
                        each.axis,
                        each.parameters,
                        f"no: {each.kept}" if each.kept else "yes",
                    ]
                    for each in can.groups
                ],
                bars=("units", "parameters of one"),
            )
        )
    if can.smaller:
        report.tables.append(
            Table(
                "Smaller networks that can be made of it",
                ("by", "parameters", "cost of a step"),
                [[each.by, each.parameters, each.cost] for each in can.smaller],
                note="one level coarser, each axis alone; of pruning the cost of a forward pass",
            )
        )
    if can.refused:
        report.tables.append(
            Table("What cannot be had", ("what", "why"), [[by, why] for by, reasons in can.refused for why in reasons])
        )
    report.values["coarsening"] = {
        "groups": [
            {"layers": u.layers, "units": u.width, "axis": u.axis, "parameters_of_one": u.parameters, "kept": u.kept}
            for u in can.groups
        ],
        "stacks": [{"path": path, "blocks": count} for path, count in can.stacks],
        "smaller": [{"by": each.by, "parameters": each.parameters, "cost": each.cost} for each in can.smaller],
        "refused": [{"by": by, "reasons": reasons} for by, reasons in can.refused],
    }


def _micro(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds * 1e6:.3g}")


def advise(
    report: Report,
    context: Context,
    config: Mapping[str, Any],
    layers: list[Layer],
    flow: Flow,
    seen: Receptive | str,
    can: Possibilities,
    levels: list[tuple[int, float]] | ConfigError | None,
) -> None:
    """Findings, and the levels of the config's own method."""
    if not math.isfinite(flow.loss):
        report.find("error", f"the loss of the first batch is {flow.loss}: training stops at its first step")
    elif flow.not_finite:
        report.find("error", f"gradients are not finite: {listed(flow.not_finite)}")
    if flow.disconnected:
        report.find(
            "warning",
            f"no gradient reaches {listed(flow.disconnected)}: nothing that the loss sees is computed with "
            f"{'it' if len(flow.disconnected) == 1 else 'them'}",
        )
    if flow.zero:
        report.find(
            "warning",
            f"the gradient of {listed(flow.zero)} is zero in all of {counted(flow.batches, 'batch', 'batches')}",
        )
    if flow.frozen:
        report.find("note", f"not trained: {listed(flow.frozen)}")
    for each in flow.dead:
        report.find(
            "warning" if each.dead > DEAD * each.units else "note",
            f"{each.dead:,} of {each.units:,} units of {each.path or 'the network'} are dead: ReLU lets nothing "
            f"of them through for any sample of {counted(flow.batches, 'batch', 'batches')}",
        )
    if unused := [each.path for each in layers if each.calls == 0 and each.parameters]:
        report.find("note", f"{listed(unused)}: not called by the forward pass, though it may use their parameters")
    total = sum(each.parameters for each in layers)
    largest = max(layers, key=lambda each: each.parameters, default=None)
    if largest is not None and len(layers) > 2 and largest.parameters > LARGE_LAYER * total:
        report.find(
            "note",
            f"{largest.path or 'the network itself'} ({largest.kind}) holds "
            f"{100 * largest.parameters / total:.0f} % of all parameters",
        )
    if (
        isinstance(seen, Receptive)
        and seen.stopped
        and any(r < n for r, n in zip(seen.last.points, seen.image, strict=True))
    ):
        report.find(
            "note",
            f"before {seen.stopped} a unit sees {'×'.join(map(str, seen.last.points))} of "
            f"{'×'.join(map(str, seen.image))} points: nothing larger can be recognised as a whole",
        )
    source = context.data.source
    if source is not None and total > MANY_PARAMETERS * source.samples["train"]:
        share = scaled(total / source.samples["train"])
        report.find(
            "note", f"{scaled(total)} parameters are {share} for each of the {source.samples['train']:,} samples"
        )
    if isinstance(levels, ConfigError):
        name = config["multilevel"].get("name")
        report.find(
            "error",
            f"multilevel={name} cannot be used with this network: {'; '.join(levels.problems)}",
            "multilevel=single",
        )
    elif levels is not None:
        report.tables.append(
            Table(
                f"Levels of multilevel={config['multilevel'].get('name')}",
                ("level", "parameters", "cost of a step"),
                [[f"level {level}", count, float(cost)] for level, (count, cost) in enumerate(levels)],
            )
        )
        report.values["levels"] = [{"parameters": count, "cost": float(cost)} for count, cost in levels]
