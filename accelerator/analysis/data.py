"""From a config to a report on its data."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerator.analysis.advice import advise, suggest
from accelerator.analysis.data_report import describe, draw
from accelerator.analysis.look import PARTS, Options, look
from accelerator.analysis.report import Report
from accelerator.runtime.context.component import build, find
from accelerator.runtime.data.pipeline import check_alike, first_sample
from accelerator.runtime.data.splits import Split, as_splits, check_lengths
from accelerator.utilities.seed import seed_everything

# What a data component is asked to do for a look, where it can and its config leaves it open.
LENIENT: dict[str, Any] = {"missing": "keep", "memory_map": "auto"}


def splits_of(config: Mapping[str, Any]) -> tuple[dict[str, Split], set[str]]:
    """The splits of a run's data as they come, and the arguments of its component.

    Gaps are let through where the component can, to be counted; everything else that a training refuses is refused.

    Args:
        config: resolved and checked.

    Raises:
        DataError: the data cannot be read, a split is empty, or inputs and targets differ in number.
    """
    imports = tuple(config["imports"])
    takes = set(inspect.signature(find("data", config["data"], "data", imports)).parameters)
    seed_everything(config["seed"])
    source = build("data", config["data"], "data", imports=imports, **LENIENT)
    splits = as_splits(source, config["loader"]["split"], config["seed"])
    for name, part in splits.items():
        if isinstance(part, tuple):
            check_lengths(part, name)
    first = {name: first_sample(part, name) for name, part in splits.items()}
    check_alike(first)
    return splits, takes


def report_on(
    splits: Mapping[str, Split],
    config: Mapping[str, Any],
    *,
    takes: Collection[str] = (),
    typed: Collection[str] = (),
    folder: Path,
) -> Report:
    """Look, and say what was found.

    Args:
        splits: of the data.
        config: resolved and checked.
        takes: the arguments of the data component.
        typed: keys and groups that the user chose.
        folder: where pictures are written.
    """
    section, data = config["analysis"], config["data"]
    options = Options(**{each.name: section[each.name] for each in fields(Options)})
    looked = look(splits, options, _column_names(data))
    report = Report(f"Data: {data.get('name') or data['_target_'].rpartition('.')[2]}")
    describe(looked, report)
    advise(looked, report, data, takes)
    suggest(looked, report, config, typed)
    report.pictures = draw(looked, folder)
    return report


def _column_names(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the columns, where the config chooses them by name."""
    found = {}
    for part in PARTS:
        chosen = data.get(part)
        names = [chosen] if isinstance(chosen, str) else chosen
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[part] = names
    return found
