"""Solved problems for every split, in parallel processes when that is worth their start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from domain.cross.data.cache import Arrays

log = logging.getLogger(__name__)

# Below this many cells in all, starting processes takes longer than the work (1.7 ms a 32×32 problem).
_CELLS_WORTH_PROCESSES = 2**20
_SAMPLES_PER_TASK = 64


def solve_splits(
    solve_samples: Callable[[dict[str, Any], int, range], Arrays],
    problem: dict[str, Any],
    sizes: Mapping[str, int],
    workers: int | None,
    *,
    name: str,
    cells: int,
) -> Arrays:
    """Solve every sample of every split.

    Args:
        solve_samples: (problem, number of the split, samples) → arrays by kind, sample dimension first; importable.
        problem: its first argument.
        sizes: samples of each split.
        workers: processes; None: one for each core, or none for little work.
        name: of the problem, for the log.
        cells: of the grid solved on, in each direction.

    Returns:
        {"<split>_<kind>": (samples, …)}.
    """
    import joblib
    from joblib.externals.loky import get_reusable_executor

    tasks = [
        (split, index, range(start, min(start + _SAMPLES_PER_TASK, size)))
        for index, (split, size) in enumerate(sizes.items())
        for start in range(0, size, _SAMPLES_PER_TASK)
    ]
    count = sum(sizes.values())
    if workers is None:
        workers = joblib.cpu_count() if count * cells**2 >= _CELLS_WORTH_PROCESSES else 1
    workers = min(workers, len(tasks))
    log.info("solving %d %s problems on a %d×%d grid, %d at a time", count, name, cells, cells, workers)
    if workers == 1:
        parts = [solve_samples(problem, index, samples) for _, index, samples in tasks]
    else:
        # loky starts fresh interpreters: nothing is forked under torch's threads, and no __main__ is imported again.
        with joblib.parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=1):
            parts: Any = joblib.Parallel()(
                joblib.delayed(solve_samples)(problem, index, samples) for _, index, samples in tasks
            )
        # The pool would keep its processes, some 80 MB each, for minutes into the training.
        get_reusable_executor().shutdown(wait=True)
    found = {}
    for split in sizes:
        of_split = [part for task, part in zip(tasks, parts, strict=True) if task[0] == split]
        found |= {f"{split}_{kind}": np.concatenate([part[kind] for part in of_split]) for kind in of_split[0]}
    return found
