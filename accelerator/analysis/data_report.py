"""A look at data as tables, values and pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accelerator.analysis import pictures
from accelerator.analysis.labels import Counts
from accelerator.analysis.look import PARTS, Looked
from accelerator.analysis.report import Picture, Report, Table
from accelerator.analysis.statistics import LISTED, Statistics


def describe(looked: Looked, report: Report) -> None:
    """Tables, facts and values."""
    reading, duplicates = looked.reading, looked.duplicates
    for split, count in reading.counts.items():
        report.metrics[f"data/{split}/samples"] = float(count)
    for part in PARTS:
        first = next(iter(looked.part(part).values()))
        report.facts.append((part, f"{tuple(first.shape)} {first.dtype} a sample"))
    rows = []
    for split, count in reading.counts.items():
        seen = reading.looked_at[split]
        bad = sum(
            each.bad_samples for part in PARTS if isinstance(each := looked.part(part)[split], Statistics)
        )  # fmt: skip
        leaks = sum(found for (_, other), found in duplicates.leaks.items() if other == split)
        rows.append([split, count, seen, duplicates.copies.get(split, 0), leaks, bad, _outliers(looked, split)])
    report.tables.append(
        Table(
            "Splits",
            ("split", "samples", "looked at", "copies in it", "also in a split above", "with NaN or Inf", "outliers"),
            rows,
        )
    )
    report.metrics |= {
        "data/copies": float(sum(duplicates.copies.values())),
        "data/leaks": float(sum(duplicates.leaks.values())),
        "data/contradictions": float(duplicates.contradictions),
        "data/non_finite_samples": float(sum(row[5] for row in rows)),
        "data/outlier_samples": float(sum(row[6] for row in rows)),
    }
    if looked.near is not None:
        report.metrics["data/near_duplicates"] = float(looked.near.pairs)
    for part in PARTS:
        _describe_part(looked, part, report)
    if (classes := looked.classes) is not None and next(iter(looked.targets.values())).shape == ():
        names = list(looked.targets)
        report.tables.append(
            Table(
                "Classes",
                ("class", *names),
                [[str(number), *map(int, classes[:, number])] for number in range(classes.shape[1])],
                bars=names,
            )
        )
    report.values |= _values(looked)


def _outliers(looked: Looked, split: str) -> int:
    return sum(
        each.outliers.samples for part in PARTS if isinstance(each := looked.part(part)[split], Statistics)
    )  # fmt: skip


def _describe_part(looked: Looked, part: str, report: Report) -> None:
    found = looked.part(part)
    first = next(iter(found.values()))
    if isinstance(first, Counts):
        rows = [[split, each.low, each.high, each.distinct] for split, each in found.items()]
        report.tables.append(Table(f"{part.title()}: whole numbers", ("split", "least", "largest", "distinct"), rows))
        return
    names = looked.names[part]
    rows = [
        [
            name,
            split,
            *(_told(x[channel], each.std[channel]) for x in (each.low, each.high, each.mean)),
            float(each.std[channel]),
            *(int(x[channel]) for x in (each.nan, each.infinite, each.outliers.by_channel)),
        ]
        for channel, name in enumerate(names[:LISTED])
        for split, each in found.items()
    ]
    more = f"the first {LISTED} of {len(names)}; " if len(names) > LISTED else ""
    columns = ("channel", "split", "least", "largest", "mean", "std", "NaN", "Inf", "outliers")
    report.tables.append(Table(f"{part.title()}", columns, rows, note=f"{more}mean and std of the finite values"))


def _told(value: float, std: float) -> float:
    """A value to four digits of what differs: 1000000.12, where the standard deviation is 1."""
    if not (math.isfinite(value) and math.isfinite(std) and std > 0):
        return float(value)
    return float(round(value, 3 - math.floor(math.log10(std))))


def _values(looked: Looked) -> dict[str, Any]:
    duplicates, near = looked.duplicates, looked.near
    parts = {}
    for part in PARTS:
        found = looked.part(part)
        parts[part] = {"names": looked.names[part][:LISTED]}
        for split, each in found.items():
            parts[part][split] = each.values()
    classes = looked.classes
    if classes is not None:
        parts["classes"] = {split: classes[number] for number, split in enumerate(looked.targets)}
    return {
        "splits": {
            split: {"samples": count, "looked_at": looked.reading.looked_at[split]}
            for split, count in looked.reading.counts.items()
        },
        **parts,
        "duplicates": {
            "share_looked_at": duplicates.share,
            "copies": duplicates.copies,
            "groups": duplicates.groups,
            "leaks": {f"{one} in {other}": count for (one, other), count in duplicates.leaks.items()},
            "leaked": {f"{one} in {other}": pairs for (one, other), pairs in duplicates.leaked.items()},
            "contradictions": duplicates.contradictions,
            "contradicting": duplicates.contradicting,
        },
        "near_duplicates": None
        if near is None
        else {
            "compared": near.compared,
            "tolerance": near.tolerance,
            "pairs": near.pairs,
            "across": {f"{one} in {other}": count for (one, other), count in near.across.items()},
            "examples": near.examples,
            "complete": near.complete,
        },
        "spectra": looked.spectra,
        "unreadable": {
            split: {"count": len(each.rows), "examples": each.examples}
            for split, each in looked.reading.unreadable.items()
        },
        "rows": "of the file" if looked.reading.files else "of the split",
    }


def draw(looked: Looked, folder: Path) -> list[Picture]:
    """Write the pictures, and say what each shows."""
    made: list[Picture] = []

    def add(name: str, title: str) -> Path:
        made.append(Picture(title, folder / f"{name}.png"))
        return made[-1].path

    pilots = looked.pilots
    for part in PARTS:
        values = {split: getattr(pilot, part) for split, pilot in pilots.items()}
        if values["train"].is_floating_point():
            path = add(f"{part}_histograms", f"{part.title()}: how values are distributed")
            pictures.draw_histograms(values, looked.names[part], path, part)
        if pictures.is_grid(values["train"].shape[1:]) and values["train"].is_floating_point():
            path = add(f"{part}_samples", f"{part.title()}: samples of the training split")
            chosen = torch.linspace(0, len(values["train"]) - 1, min(pictures.GRID, len(values["train"]))).long()
            targets = pilots["train"].targets
            labels = [str(int(targets[i])) for i in chosen] if targets.dim() == 1 and _whole(targets) else []
            pictures.draw_samples(values["train"][chosen], labels, path, part)
    classes = looked.classes
    if classes is not None and classes.shape[1] <= 200:
        pictures.draw_classes(classes, list(looked.targets), add("classes", "Classes"))
    if looked.spectra:
        pictures.draw_spectra(looked.spectra, add("spectra", "Spectra of the fields"))
    return made


def _whole(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex())
