"""Runs side by side: in which params they differ, and whose metrics are better.

Which of two values is the better one is told by the run's own config, else by the metric's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from accelerator.tracking.difference import difference

Mode = Literal["min", "max"]

_LOWER = re.compile(
    r"loss|error|errors|mse|rmse|mae|mape|nll|perplexity|l1|l2|distance|divergence|residual|gap|eer|wer|cer"
)
_HIGHER = re.compile(
    r"accuracy|precision|recall|specificity|f1|fbeta|auroc|auc|ap|map|iou|jaccard|dice|psnr|ssim|r2|bleu|rouge|kappa"
    r"|matthews|correlation|pearson|spearman|score"
)
_MEASURED = ("train", "val", "test", "eval")


def better(metric: str, monitor: str | None = None, mode: str | None = None) -> Mode | None:
    """Whether small or large values of a metric are good; None where that cannot be told, or means nothing.

    Args:
        metric: its name, such as ``test/relative_l2``.
        monitor: the metric its run was rated by; ``test/accuracy`` is rated as ``val/accuracy`` is.
        mode: how the monitored one is rated, ``min`` or ``max``.
    """
    split, _, name = metric.rpartition("/")
    if monitor is not None and mode in ("min", "max") and name == monitor.rpartition("/")[2]:
        return "min" if mode == "min" else "max"
    if split.partition("/")[0] not in _MEASURED:  # lr, epoch, work, speed/…
        return None
    words = re.split(r"[^a-z0-9]+", name.lower())
    if any(map(_LOWER.fullmatch, words)):
        return "min"
    return "max" if any(map(_HIGHER.fullmatch, words)) else None


def best(values: Iterable[float], mode: Mode) -> float | None:
    """The best of them; None where none is a number."""
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        return None
    return min(numbers) if mode == "min" else max(numbers)


def side_by_side(
    runs: Sequence[Mapping[str, float]], monitors: Sequence[tuple[str, str] | None]
) -> dict[str, tuple[list[float | None], list[int]]]:
    """Every metric's value in each run, and the places of the best.

    There is no best where all values are the same, or nobody can tell.

    Args:
        runs: the metrics of each.
        monitors: the metric each was rated by, and how; None where that is not known.
    """
    found = {}
    for name in sorted({name for run in runs for name in run}, key=rank):
        values = [run.get(name) for run in runs]
        numbers = [value for value in values if value is not None]
        mode = None
        for monitor in (*filter(None, monitors), ()):  # a run that says how it was rated knows better than a name
            # A step's own loss depends on its batch: the least of them says nothing.
            mode = None if name == "train/loss" else mode or better(name, *monitor)
        top = best(numbers, mode) if mode else None
        places = [at for at, value in enumerate(values) if value == top and top is not None]
        found[name] = (values, places if len(places) < len(numbers) else [])
    return found


def rank(metric: str) -> tuple[int, str]:
    """To sort by: what a run is judged by comes first."""
    order = ("test/", "val/", "train/")
    return next((at for at, split in enumerate(order) if metric.startswith(split)), len(order)), metric


def differing(runs: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """The params that are not the same in all runs: the value of each run, None where it has none.

    Where a run stands and how it is called are left out; so is a run without any params, such as a sweep's own.
    """
    configs = [run for run in runs if run]
    names = {name for run in configs[1:] for kind in difference(configs[0], run).values() for name in kind}
    return {name: [run.get(name) for run in runs] for name in sorted(names)}
