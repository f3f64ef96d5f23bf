"""Tuning: what a trial costs beside its training, against Optuna alone, and what several workers bring."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import command, interleaved

TRIALS = 200
NESTED = (8, 40)  # trials of two studies; what one more costs is their difference
BARS = {"overhead": 2.0, "nested": 0.060, "workers": 1.7}
SPACE = {"lr": {"log_uniform": [1e-4, 1e-1]}, "width": {"log_int": [8, 256]}, "kind": {"choice": ["a", "b", "c"]}}

SMALL = [
    *("data=digits", "model=mlp", "model.hidden=[8]", "multilevel=single", "metrics=none", "trainer.max_steps=1"),
    *("loss=cross_entropy", "transform=none", "engine.threads=1", "callbacks.checkpoint=null"),
]


def run(rounds: int = 3) -> str:
    """The section of the report, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overhead = _overhead(folder, rounds)
        nested = _nested(folder, rounds)
        workers = _workers(folder)
    return "\n".join(
        [
            f"What a trial costs beside its training: {TRIALS} trials by TPE that compute nothing, three parameters, "
            f"one worker process; medians of {rounds} interleaved rounds, and the ratio to Optuna's own "
            "`study.optimize` on the same storage (SQLite in WAL mode for both).",
            "",
            "| storage | Optuna ms | ours ms | ratio | bar |",
            "|---|---|---|---|---|",
            *overhead,
            "",
            f"The record of a trial, a nested MLflow run: {nested * 1000:.0f} ms a trial more than without (bar "
            f"≤ {BARS['nested'] * 1000:.0f}), between studies of {NESTED[0]} and {NESTED[1]} trials of one step.",
            "",
            *workers,
        ]
    )


def _overhead(folder: Path, rounds: int) -> list[str]:
    number = iter(range(10_000))
    rows = []
    for storage in ("journal", "sqlite"):
        timings = interleaved(
            {
                "optuna": lambda storage=storage: _optuna(folder / f"{next(number)}", storage),
                "ours": lambda storage=storage: _ours(folder / f"{next(number)}", storage),
            },
            rounds,
        )
        least, middle, largest = timings.ratio("ours", "optuna")
        alone, ours = (timings.median(name) / TRIALS * 1000 for name in ("optuna", "ours"))
        ratio = f"{middle:.2f} ({least:.2f}–{largest:.2f})"
        rows.append(f"| {storage} | {alone:.1f} | {ours:.1f} | {ratio} | ≤ {BARS['overhead']:g} |")
    return rows


def _storage(folder: Path, storage: str) -> str:
    folder.mkdir()
    return storage if storage == "journal" else f"sqlite:///{folder}/study.db"


def _optuna(folder: Path, storage: str) -> float:
    import optuna

    from accelerator.tuning.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened = open_storage(_storage(folder, storage), folder)
    study = optuna.create_study(storage=opened, sampler=optuna.samplers.TPESampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        trial.suggest_int("width", 8, 256, log=True)
        trial.suggest_categorical("kind", ["a", "b", "c"])
        return lr

    begin = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS)
    return time.perf_counter() - begin


def _tuned(folder: Path, storage: str, objective: Callable, *, trials: int, workers: int) -> float:
    from accelerator.tuning.base import Plan, State
    from accelerator.tuning.optuna_tuner import OptunaTuner
    from accelerator.tuning.search_space import SearchSpace

    plan = Plan("study", SearchSpace.parse(SPACE), {"loss": "min"}, trials, workers=workers)
    tuner = OptunaTuner(plan, folder, storage, {"name": "tpe"}, {"name": "none"})
    begin = time.perf_counter()
    tuner.run(objective)
    seconds = time.perf_counter() - begin
    assert [outcome.state for outcome in tuner.outcomes()] == [State.COMPLETE] * trials
    return seconds


def _ours(folder: Path, storage: str) -> float:
    return _tuned(folder, _storage(folder, storage), lambda trial: trial.values["lr"], trials=TRIALS, workers=1)


def _nested(folder: Path, rounds: int) -> float:
    """Seconds by which its record makes a trial longer."""
    program = Path(sys.executable).with_name("accelerator")
    number = iter(range(10_000))

    def study(trials: int, tracking: str) -> float:
        name = f"study-{next(number)}"
        arguments = [
            *(program, "tune", *SMALL, f"tracking={tracking}", f"tune.trials={trials}", f"tune.name={name}"),
            *("tune.space.optimizer.lr={log_uniform:[1e-4,1e-1]}", "tune.sampler.name=random"),
        ]
        return command(arguments, folder)()

    timings = interleaved(
        {
            f"{tracking} {trials}": lambda tracking=tracking, trials=trials: study(trials, tracking)
            for tracking in ("mlflow", "none")
            for trials in NESTED
        },
        rounds,
    )
    few, many = NESTED
    more = {
        tracking: (timings.median(f"{tracking} {many}") - timings.median(f"{tracking} {few}")) / (many - few)
        for tracking in ("mlflow", "none")
    }
    return more["mlflow"] - more["none"]


def _workers(folder: Path) -> list[str]:
    def busy(trial: object) -> float:
        end = time.process_time() + 1.0
        while time.process_time() < end:
            pass
        return 0.0

    def seconds(name: str, workers: int, trials: int, objective: Callable) -> float:
        (folder / name).mkdir()
        return _tuned(folder / name, "journal", objective, trials=trials, workers=workers)

    one, four = (seconds(f"workers-{workers}", workers, 12, busy) for workers in (1, 4))
    fresh = seconds("fresh", 4, 100, lambda trial: 0.0)
    return [
        f"Twelve trials of one second of computing: one worker {one:.1f} s, four workers {four:.1f} s, "
        f"{one / four:.2f} times as fast (bar on two cores ≥ {BARS['workers']:g}). "
        f"Four workers on a fresh study: 100 of 100 trials complete, in {fresh:.1f} s.",
    ]
