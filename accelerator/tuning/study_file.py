"""The file a study is told in, whole, for programs: ``study.json``.

It is made from the storage, whenever the study begins, stops or ends, and is nobody's source: one that is missing or
damaged is written again by the next command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerator.runtime.checkpoint.operation import write_bytes
from accelerator.tuning.base import Plan, TrialOutcome, best_of

STUDY = "study.json"


def write_study(
    path: Path,
    plan: Plan,
    outcomes: Sequence[TrialOutcome],
    *,
    storage: str,
    shares: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write the study, whole or not at all.

    Args:
        path: of the file.
        plan: of the study.
        outcomes: its trials.
        storage: where it is kept.
        shares: how much each parameter mattered, by objective.
    """
    told = {
        "name": plan.name,
        **plan.described(),
        "storage": storage,
        "trials": [asdict(one) for one in outcomes],
        "best": [one.number for one in best_of(outcomes, plan.objectives)],
        "importances": dict(shares or {}),
    }
    write_bytes(path, json.dumps(told, indent=1, ensure_ascii=False).encode())


def stored(folder: Path, name: str, storage: str) -> Mapping[str, Any] | None:
    """What the study in a storage is, as `Plan.described` says it; None where there is none of that name.

    Raises:
        ConfigError: the storage cannot be opened.
    """
    import optuna

    from accelerator.tuning.choosing import quiet
    from accelerator.tuning.optuna_tuner import DESCRIBED
    from accelerator.tuning.storage import JOURNAL, JOURNAL_FILE, open_storage

    if storage == JOURNAL and not (folder / JOURNAL_FILE).exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with quiet():
        opened = open_storage(storage, folder)
        if name not in optuna.get_all_study_names(opened):
            return None
        return optuna.load_study(study_name=name, storage=opened).user_attrs.get(DESCRIBED)
