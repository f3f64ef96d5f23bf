"""What a look at the data means: problems by severity, and where to start."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from accelerator.analysis.labels import Counts
from accelerator.analysis.look import PARTS, Looked, memory_of
from accelerator.analysis.pictures import is_grid, resolved_modes
from accelerator.analysis.report import Report, counted, listed
from accelerator.analysis.statistics import Reference, Statistics
from accelerator.utilities.quantities import number

MANY_LEAKS = 0.01  # of a split: its measurement is no longer one of unseen data
MANY_COPIES = 0.01
FEW_OUTLIERS = 0.01  # more of them are how the values are distributed
IMBALANCE = 10.0  # largest class over smallest
DRIFT = 0.5  # of a median between splits, in standard deviations of the training split
UNEQUAL_SCALES = 100.0  # largest over smallest standard deviation of the columns
OFF_CENTRE = 10.0  # |mean| over standard deviation
FEW_DIGITS = 1e4  # |mean| over standard deviation at which float32 keeps three digits of what differs
FEW_SAMPLES = 30  # in a split that something is measured on
_MOST_WEIGHTS = 50  # classes for which weights are typed


def advise(looked: Looked, report: Report, data: Mapping[str, Any], takes: Collection[str]) -> None:
    """Add findings.

    Args:
        looked: at the data.
        report: they are added to.
        data: the config's section.
        takes: the arguments of the data component.
    """
    _unreadable(looked, report)
    for part in PARTS:
        for split, each in looked.part(part).items():
            if isinstance(each, Statistics):
                _gaps(looked, report, part, split, each, data, takes)
    _leaks(looked, report)
    _copies(looked, report)
    _near(looked, report)
    _classes(looked, report)
    _channels(looked, report)
    _drift(looked, report)
    _outliers(looked, report)
    for split, count in looked.reading.counts.items():
        if split != "train" and count < FEW_SAMPLES:
            report.find("note", f"{split} has only {counted(count, 'sample')}: what is measured on it is mostly chance")
    if missing := [split for split in ("val", "test") if split not in looked.reading.counts]:
        report.find("warning", f"there is no {' and no '.join(missing)} split: nothing tells how good a network is")
    if looked.duplicates.share < 1:
        share = number(100 * looked.duplicates.share)
        report.find("note", f"copies and leaks were counted among {share} % of the samples, chosen by their hash")


def _rows(looked: Looked, rows: list[int]) -> str:
    word = "row" if looked.reading.files else "sample"
    return f"{word if len(rows) == 1 else word + 's'} {listed(rows)}"


def _unreadable(looked: Looked, report: Report) -> None:
    for split, each in looked.reading.unreadable.items():
        row, said = each.examples[0]
        report.find(
            "error", f"{counted(len(each.rows), 'sample')} of {split} cannot be read; the first, {row}, raised {said}"
        )


def _gaps(
    looked: Looked,
    report: Report,
    part: str,
    split: str,
    each: Statistics,
    data: Mapping[str, Any],
    takes: Collection[str],
) -> None:
    if not each.bad_samples:
        return
    kinds = [
        counted(int(count.sum()), name, name)
        for name, count in (("NaN", each.nan), ("infinite value", each.infinite))
        if count.sum()
    ]
    names = looked.names[part]
    where = [names[channel] for channel in np.flatnonzero(each.nan + each.infinite)]
    droppable = "missing" in takes and data.get("missing") != "drop" and not data.get("memory_map")
    report.find(
        "error",
        f"the {split} {part} hold {' and '.join(kinds)} in {counted(each.bad_samples, 'sample')} "
        f"({listed(where)}; {_rows(looked, each.bad_rows)}): training refuses them",
        *(("data.missing=drop",) if droppable else ()),
    )
    if each.empty:
        report.find("error", f"the {split} {part} have no value at all in {listed([names[i] for i in each.empty])}")


def _leaks(looked: Looked, report: Report) -> None:
    for (one, other), count in looked.duplicates.leaks.items():
        if not count:
            continue
        share = count / max(1, looked.reading.looked_at[other] * looked.duplicates.share)
        pairs = listed([f"{other} {b} = {one} {a}" for a, b in looked.duplicates.leaked[one, other]], 4)
        report.find(
            "error" if share > MANY_LEAKS else "warning",
            f"{counted(count, 'sample')} of {other} ({100 * share:.2g} %) {'is' if count == 1 else 'are'} in {one} too "
            f"({pairs}): what {other} measures is partly memory; take them out of one of the two",
        )


def _copies(looked: Looked, report: Report) -> None:
    for split, count in looked.duplicates.copies.items():
        if count:
            share = count / max(1, looked.reading.looked_at[split] * looked.duplicates.share)
            groups = "; ".join(_rows(looked, group) for group in looked.duplicates.groups[split][:3])
            report.find(
                "warning" if share > MANY_COPIES else "note",
                f"{counted(count, 'sample')} of {split} ({100 * share:.2g} %) repeat the inputs of others ({groups}): "
                "they count double in every pass",
            )
    if count := looked.duplicates.contradictions:
        example = " and ".join(f"{split} {row}" for split, row in looked.duplicates.contradicting[0][:4])
        report.find(
            "warning",
            f"{counted(count, 'input')} {'has' if count == 1 else 'have'} more than one target ({example}): no network "
            "can be right on all of them",
        )


def _near(looked: Looked, report: Report) -> None:
    near = looked.near
    if near is None or not near.pairs:
        return
    among = f"among {near.compared:,} samples" + ("" if near.complete else ", of the nearest candidates")
    across = sum(near.across.values())
    (one, a), (other, b), distance = near.examples[0]
    report.find(
        "warning" if across else "note",
        f"{counted(near.pairs, 'pair')} of samples {'is' if near.pairs == 1 else 'are'} nearly the same, "
        f"{across:,} of them across splits ({among}; nearest: {one} {a} and {other} {b}, "
        f"{100 * distance:.2g} % of a usual distance apart; tolerance {100 * near.tolerance:g} %)",
    )


def _classes(looked: Looked, report: Report) -> None:
    for split, each in looked.targets.items():
        if isinstance(each, Counts) and each.low < 0:
            report.find("error", f"the {split} labels go down to {each.low}: class labels start at 0")
    classes = looked.classes
    first = next(iter(looked.targets.values()))
    if classes is None or first.shape != ():
        return
    splits = list(looked.targets)
    train = classes[0]
    for number_, split in enumerate(splits[1:], 1):
        unseen = np.flatnonzero((classes[number_] > 0) & (train == 0))
        if len(unseen):
            report.find("error", f"{split} has classes that train has not: {listed(unseen.tolist())}")
        absent = np.flatnonzero((classes[number_] == 0) & (train > 0))
        if len(absent):
            report.find("warning", f"{split} has no sample of {listed([f'class {each}' for each in absent])}")
    seen = train[train > 0]
    if len(seen) == 1:
        report.find("error", f"train has a single class, {int(np.flatnonzero(train)[0])}: there is nothing to learn")
    elif len(seen) and seen.max() > IMBALANCE * seen.min():
        report.find(
            "warning",
            f"classes are unbalanced: class {int(train.argmax())} has {counted(int(train.max()), 'sample')} in train, "
            f"class {int(np.where(train > 0, train, train.max() + 1).argmin())} has {int(seen.min()):,}",
            *_class_weights(train),
        )


def _class_weights(train: Any) -> tuple[str, ...]:
    """Weights by which all classes count alike; their mean over the samples is 1."""
    if len(train) > _MOST_WEIGHTS:
        return ()
    share = train.sum() / (np.count_nonzero(train) * np.maximum(train, 1))
    return (f"loss.class_weights=[{','.join(f'{each:.4g}' for each in np.where(train > 0, share, 1.0))}]",)


def _channels(looked: Looked, report: Report) -> None:
    for part in PARTS:
        train = looked.part(part)["train"]
        if not isinstance(train, Statistics):
            continue
        names = looked.names[part]
        if train.constant:
            constant = [f"{names[channel]} = {train.low[channel]:.6g}" for channel in train.constant]
            report.find("warning", f"the {part} do not change in train: {listed(constant)}")
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(train.std > 0, np.abs(train.mean) / train.std, 0.0)
        if (worst := int(np.nanargmax(ratio))) >= 0 and ratio[worst] > FEW_DIGITS:
            report.find(
                "warning",
                f"the {part} of {names[worst]} lie around {train.mean[worst]:.6g} and differ by {train.std[worst]:.3g} "
                f"only: of that, float32 keeps about {counted(max(0, int(7.2 - np.log10(ratio[worst]))), 'digit')}; "
                "subtract the mean before storing them",
            )
    for one, other in looked.twins:
        leak = other.startswith("target")
        report.find(
            "warning",
            f"{one} is {other} times a number plus another (correlation 1)"
            + (": the network sees the answer, if that is not known when it is used" if leak else ": one is enough"),
        )


def unscaled(looked: Looked, part: str) -> str | None:
    """Why values should be normalised; None if they are about right already, or no numbers."""
    train = looked.part(part)["train"]
    if not isinstance(train, Statistics):
        return None
    std = train.std[train.std > 0]
    if len(std) == 0:
        return None
    if std.max() > UNEQUAL_SCALES * std.min():
        return f"standard deviations from {std.min():.3g} to {std.max():.3g}"
    middle = float(np.median(std))
    if not 0.1 <= middle <= 10:
        return f"a standard deviation of {middle:.3g}"
    centre = float(np.nanmax(np.abs(train.mean[train.std > 0]) / std))
    return f"means up to {centre:.3g} standard deviations from 0" if centre > OFF_CENTRE else None


def _drift(looked: Looked, report: Report) -> None:
    """By medians: one value far away moves a mean."""
    for part in PARTS:
        if not isinstance(looked.part(part)["train"], Statistics):
            continue
        train = Reference.of(getattr(looked.pilots["train"], part))
        for split, pilot in list(looked.pilots.items())[1:]:
            median = Reference.of(getattr(pilot, part)).median
            away = np.abs(median - train.median) / np.where(train.scale > 0, train.scale, np.inf)
            worst = int(np.argmax(away))
            # A median of few samples is off by chance: its standard error is 1.25 σ / √n.
            if away[worst] > max(DRIFT, 4 / np.sqrt(max(1, len(pilot.rows)))):
                report.find(
                    "warning",
                    f"the {part} of {split} are not like those of train: {looked.names[part][worst]} has median "
                    f"{median[worst]:.4g} there and {train.median[worst]:.4g} in train, {away[worst]:.2g} standard "
                    "deviations away; shuffle before splitting, unless it is meant so",
                )


def _outliers(looked: Looked, report: Report) -> None:
    for part in PARTS:
        seen = {
            split: each
            for split, each in looked.part(part).items()
            if isinstance(each, Statistics) and each.outliers.samples
        }
        if not seen:
            continue
        split = max(seen, key=lambda name: seen[name].outliers.farthest[0][3])
        row, channel, value, distance = seen[split].outliers.farthest[0]
        few = all(each.outliers.samples <= max(3, FEW_OUTLIERS * each.samples) for each in seen.values())
        where = listed([f"{counted(each.outliers.samples, 'sample')} of {name}" for name, each in seen.items()])
        report.find(
            "warning" if few else "note",
            f"the {part} hold outliers in {where}: the farthest is {value:.5g} in {looked.names[part][channel]}, "
            f"{split} {_rows(looked, [row])}, {distance:.3g} robust standard deviations from the median"
            + ("" if few else "; so many are rather a distribution with long tails"),
        )


def suggest(looked: Looked, report: Report, config: Mapping[str, Any], typed: Collection[str]) -> None:
    """Where to start a training from: overrides beside what was typed, which name nothing that was.

    Args:
        looked: at the data.
        report: it is added to.
        config: composed.
        typed: the keys and groups that the user chose.
    """
    found: list[str] = []
    inputs, targets = looked.inputs["train"], looked.targets["train"]
    classes = looked.classes
    labels = isinstance(targets, Counts) and classes is not None
    tokens = isinstance(inputs, Counts) and len(inputs.shape) == 1
    per_label = labels and targets.shape == ()

    def propose(group: str, override: str) -> None:
        if group not in typed:
            found.append(override)

    if model := _model(looked, tokens=tokens, labels=per_label):
        propose("model", f"model={model}")
        if model == "fno" and "model.modes" not in typed and "model" not in typed:
            found.append(f"model.modes={_modes(looked)}")
    if labels:
        if config["loss"].get("name") != "cross_entropy":
            propose("loss", "loss=cross_entropy")
        kind = "classification" if per_label else "language"
        if not config["metrics"].get("accuracy"):
            propose("metrics", f"metrics={kind}")
        if (
            not all(isinstance(part, tuple) for part in looked.reading.splits.values())
            and per_label
            and classes is not None
        ):
            found.append(f"model.output_shape=[{classes.shape[1]}]")
    why = unscaled(looked, "inputs")
    held = {role: bool(config["transform"].get(role)) for role in ("input", "target")}
    if labels and held["target"]:
        propose("transform", f"transform={'normalize_input' if isinstance(inputs, Statistics) else 'none'}")
    elif why and not held["input"]:
        propose("transform", "transform=normalize_input" if labels else "transform=normalize")
    if why:
        more = "" if held["input"] and not (labels and held["target"]) else f": {_override(found, 'transform')}"
        report.find("note", f"the inputs are to be normalised ({why}){more or '; the config does so'}")
    for finding in report.findings:
        found += [each for each in finding.overrides if each.split("=")[0] not in typed]
    report.suggestion = tuple(dict.fromkeys(found))
    report.facts.append(("in memory", f"all samples take {memory_of(looked)}"))


def _override(found: list[str], group: str) -> str:
    return next((each for each in found if each.startswith(f"{group}=")), "set a transform")


def _model(looked: Looked, *, tokens: bool, labels: bool) -> str | None:
    inputs, targets = looked.inputs["train"], looked.targets["train"]
    if tokens:
        return "transformer" if isinstance(targets, Counts) and targets.shape == inputs.shape else None
    if not isinstance(inputs, Statistics):
        return None
    if len(inputs.shape) == 3 and labels:
        return "cnn"
    same = len(inputs.shape) == 3 and len(targets.shape) == 3 and inputs.shape[1:] == targets.shape[1:]
    if same and is_grid(inputs.shape):
        return "fno"
    return "mlp"


def _modes(looked: Looked) -> int:
    """Frequencies that hold 99 % of the targets' power, at most half the cells."""
    most = min(looked.targets["train"].shape[1:]) // 2
    return max(1, min(most, resolved_modes(looked.spectra["targets"]) + 1)) if "targets" in looked.spectra else most
