"""A study on configs: its plan and what is wrong with it, its trials, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.compose.composed import Composed
from accelerator.cli.resume import computing
from accelerator.cli.run_files import config_in
from accelerator.cli.tune.best_config import CONFIGS, write_best
from accelerator.cli.tune.report import counts, line_of, print_study, said_of
from accelerator.cli.tune.trial import OUTPUT, TrialRun, measurable
from accelerator.cli.tune.trial_config import TrialConfigs
from accelerator.errors import ConfigError, Terminated, did_you_mean
from accelerator.runtime.engine.device import count_of
from accelerator.runtime.run_directory import CONFIG, JOURNAL, PLOTS, RESULT
from accelerator.tracking.fleet import Fleet, FleetTracker, say_dead, told_late
from accelerator.tracking.masking import masked
from accelerator.tuning.base import (
    DIRECTIONS,
    Plan,
    State,
    StudyError,
    TrialOutcome,
    best_of,
    changed_study,
    differences,
    last_attempts,
)
from accelerator.tuning.optuna_tuner import OptunaTuner
from accelerator.tuning.ray_tuner import RayTuner
from accelerator.tuning.search_space import SearchSpace
from accelerator.tuning.study_file import STUDY, stored, write_study
from accelerator.utilities.files import FOLDER_NAME, short

if TYPE_CHECKING:
    from accelerator.cli.task import Task


def plan_of(values: Mapping[str, Any], name: str) -> tuple[Plan, list[str]]:
    """The plan a config makes, and every mistake in it; of the space what can be read is in the plan.

    Args:
        values: the config, resolved, plain.
        name: of the study.
    """
    section = values["tune"]
    problems = []
    if not FOLDER_NAME.fullmatch(name):
        problems.append(f"tune.name={name}: expected letters, digits and . _ + -; it is the name of a folder")
    least = {"trials": 1, "workers": 1, "retries": 0}
    problems += [
        f"tune.{key}={section[key]}: expected at least {number}"
        for key, number in least.items()
        if section[key] < number
    ]
    for key in ("heartbeat", "timeout"):
        if section[key] is not None and not section[key] > 0:
            problems.append(f"tune.{key}={section[key]:g}: expected a number above 0, or null")
    checkpoint = values["checkpoint"]
    objectives = section["objectives"] or {checkpoint["monitor"]: checkpoint["mode"]}
    for metric, mode in objectives.items():
        if mode not in DIRECTIONS:
            near = did_you_mean(str(mode), DIRECTIONS, show=0)
            problems.append(f"tune.objectives.{metric}={mode}: expected min or max{near}")
        if metric not in measurable(values):
            problems.append(
                f"tune.objectives.{metric}: no trial measures that{did_you_mean(metric, measurable(values))}"
            )
    if count_of(values["engine"].get("devices")) > 1:
        problems.append(
            f"engine.devices={values['engine']['devices']}: a trial of a study runs in one process; "
            "use several workers instead: engine.devices=1 tune.workers=…"
        )
    space, unreadable = SearchSpace.read(section["space"])
    kept = ("trials", "workers", "retries", "heartbeat", "seed", "timeout")
    plan = Plan(name, space, dict(objectives), **{key: section[key] for key in kept})
    return plan, [*problems, *unreadable]


def check_same(composed: Composed, values: Mapping[str, Any], plan: Plan) -> None:
    """Compare with the study that is in the folder, if there is one.

    Raises:
        ConfigError: it is another one: each difference is shown. Or its storage is lost, or damaged.
    """
    from accelerator.cli.compose.compose import plain
    from accelerator.tuning.storage import check_known

    if not (composed.run_dir / CONFIG).exists():
        return
    before, storage = config_in(composed.run_dir), values["tune"]["storage"]
    shown = masked(values, plain(composed.config, resolve=False))
    changed = []
    kept = (before.get("tune") or {}).get("storage", storage)
    if kept != shown["tune"]["storage"]:
        changed.append(f"tune.storage was {kept}, is now {shown['tune']['storage']}")
    else:
        check_known(composed.run_dir, plan.name, storage)
        if (study := stored(composed.run_dir, plan.name, storage)) is not None:
            changed += differences(study, plan.described())
    was, now = computing(before), computing(shown)
    changed += [
        f"{key} was {was.get(key, 'not set')}, is now {now.get(key, 'not set')}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(changed_study(plan.name, changed))


def threads_each(workers: int) -> int:
    """CPU threads of each of several workers: its share of the cores, and no more than the environment says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // workers, int(said) if said.isdecimal() else cores))


class Study:
    """Measures the trials of a study, and reports.

    Args:
        task: the study's run.
        plan: what is to be measured.
        configs: composes the trials.
    """

    def __init__(self, task: Task, plan: Plan, configs: TrialConfigs) -> None:
        self.task, self.plan, self.configs = task, plan, configs
        self.folder = task.run_dir
        self.section = task.config["tune"]
        self.done = 0

    def __call__(self) -> None:
        """Go on from where the study stands to its last trial.

        Raises:
            StudyError: no trial has run to its end.
            ConfigError: the same, and each failed of a mistake in config or data.
            Terminated: a signal stopped the study.
        """
        from accelerator.tracking.provenance import git_tags

        section, plan = self.section, self.plan
        tuner = self._tuner()
        self._write(tuner.outcomes())
        if tuner.outcomes():
            print(tuner.standing().said(plan), flush=True)
        if section["backend"] == "optuna":
            warm_up()
        fleet = self._fleet()
        if isinstance(tuner, RayTuner) and fleet is not None:
            tuner.began = lambda number: fleet.announce(self.folder / str(number))
        objective = TrialRun(
            self.configs,
            self.folder,
            plan.name,
            plan.objectives,
            git_tags().get("git.commit"),
            partial(FleetTracker, fleet=fleet),
        )
        stopped = None
        try:
            tuner.run(objective, self._told)
        except Terminated as error:
            stopped = error
        finally:
            if fleet is not None:
                self._arrived(fleet, tuner.outcomes())
        outcomes = [one for one in tuner.outcomes() if one.state is not State.WAITING]
        self._leave(tuner, outcomes, stopped)

    def _tuner(self) -> OptunaTuner:
        section = self.section
        options = (self.plan, self.folder, section["storage"], section["sampler"], section["pruner"])
        if section["backend"] == "ray":
            return RayTuner(*options, **section["ray"])
        return OptunaTuner(*options, begin=self._begin)

    def _begin(self, worker: int) -> None:
        """What a worker does first: take its share of the machine."""
        import torch

        if self.plan.workers > 1 and len(devices := visible_devices()) > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]
        if self.plan.workers > 1:
            torch.set_num_threads(threads_each(self.plan.workers))

    def _fleet(self) -> Fleet | None:
        tracking = self.task.config["tracking"]
        return Fleet(self.folder, tracking["uri"]) if tracking["enabled"] else None

    def _told(self, outcome: TrialOutcome) -> None:
        """A trial has ended: say so, here and on record."""
        print(line_of(outcome, self.plan.objectives), flush=True)
        folder = self.folder / str(outcome.number)
        if outcome.state in (State.FAILED, State.STOPPED) and outcome.error:
            say_dead(folder, folder / JOURNAL, outcome.error, stopped=outcome.state is State.STOPPED)
        if outcome.state is State.COMPLETE and outcome.scores:
            scores = dict(zip(self.plan.objectives, outcome.scores, strict=True))
            self.task.journal.metrics({f"trial/{name}": score for name, score in scores.items()}, outcome.number)
            self.task.journal.flush()

    def _arrived(self, fleet: Fleet, outcomes: list[TrialOutcome]) -> None:
        late = fleet.finish(
            [self.folder / str(one.number) for one in outcomes], self.task.config["tracking"]["timeout"]
        )
        if late:
            print(told_late(late, "trials"), file=sys.stderr)

    def _write(self, outcomes: list[TrialOutcome], shares: Mapping[str, Mapping[str, float]] | None = None) -> None:
        storage = self.section["storage"]
        write_study(self.folder / STUDY, self.plan, outcomes, storage=storage, shares=shares)

    def _leave(self, tuner: OptunaTuner, outcomes: list[TrialOutcome], stopped: Terminated | None) -> None:
        """Report, and leave behind what others go on from."""
        from accelerator.tuning.pictures import draw, importances

        task, plan = self.task, self.plan
        names = list(plan.objectives)
        shares = importances(tuner.study, names) if stopped is None else {}
        self._write(outcomes, shares)
        task.artifact(self.folder / STUDY)
        print_study(outcomes, plan, shares)
        task.metrics["trials"] = float(len(outcomes))
        task.metrics |= {f"trials/{state}": float(number) for state, number in counts(outcomes).items()}
        for name, parts in shares.items():
            prefix = f"importance/{name}" if len(names) > 1 else "importance"
            task.metrics |= {f"{prefix}/{key}": share for key, share in parts.items()}
        best = best_of(outcomes, plan.objectives)
        if len(plan.objectives) > 1:
            self._leave_front(best, configs=stopped is None)
        elif best:
            self._leave_best(best[0])
        if stopped is not None:
            task.journal.metrics(task.metrics, 0)
            where = (
                f"{tuner.standing().done} of {plan.trials} trials are done; "
                f"go on with: accelerator tune resume={shlex.quote(short(self.folder))}"
            )
            stopped.args = (f"{stopped}; {where}",)
            raise stopped
        for picture in draw(tuner.study, names, self.folder / PLOTS):
            task.artifact(picture, PLOTS)
        if not best:
            raise _failure(outcomes, plan)

    def _leave_best(self, best: TrialOutcome) -> None:
        task, plan = self.task, self.plan
        folder = self.folder / str(best.number)
        result = json.loads((folder / RESULT).read_text()) if (folder / RESULT).exists() else {}
        task.best = Path(result["best"]) if result.get("best") else None
        task.metrics |= {f"best/{key}": float(value) for key, value in result.get("metrics", {}).items()}
        scores = dict(zip(plan.objectives, best.scores or (), strict=True))
        task.metrics |= {f"best/{name}": score for name, score in scores.items()} | {"best/trial": float(best.number)}
        path, command, lacking = self._write_config(best, f"best_{plan.name}", {})
        task.rows += [
            ("best trial", f"{short(folder)} ({said_of(best, plan.objectives)})"),
            ("its config", short(path)),
            ("train it again", command),
        ]
        if lacking:
            task.rows.append(("", f"say also: {', '.join(lacking)}"))

    def _leave_front(self, front: list[TrialOutcome], *, configs: bool) -> None:
        """Of several objectives none decides: each trial on the front is left, and none is called the best."""
        if not front or not configs:
            return
        task, name, seen = self.task, f"best_{self.plan.name}", {}
        for old in (self.folder / CONFIGS / "experiment").glob(f"{name}_*.yaml"):
            old.unlink()
        numbers = ", ".join(str(one.number) for one in front)
        task.rows.append(("Pareto front", f"{'trial' if len(front) == 1 else 'trials'} {numbers}"))
        for one in front:
            path, command, lacking = self._write_config(one, f"{name}_{one.number}", seen)
            if one is front[0]:
                task.rows += [("their configs", short(path.parent)), ("train one again", command)]
                task.rows += [("", f"say also: {', '.join(lacking)}")] if lacking else []

    def _write_config(self, one: TrialOutcome, name: str, seen: dict[Any, Any]) -> tuple[Path, str, list[str]]:
        """A trial's config as an experiment, the command that trains it, and what has to be typed besides."""
        command = f"accelerator train -cd {shlex.quote(short(self.folder / CONFIGS))} experiment={name}"
        heading = [f"Trial {one.number} of study {self.plan.name}: {said_of(one, self.plan.objectives)}", command]
        path, lacking = write_best(self.configs, one.values, self.folder, name, heading, seen)
        self.task.artifact(path, "configs/experiment")
        return path, command, lacking


def _failure(outcomes: list[TrialOutcome], plan: Plan) -> Exception:
    """Why a study has nothing to show."""
    failed = [one for one in last_attempts(outcomes) if one.state is State.FAILED]
    if not failed:
        return StudyError(f"study {plan.name}: no trial has run to its end")
    first = failed[0]
    message = (
        f"study {plan.name}: no trial has run to its end, {len(failed)} failed; trial {first.number}: {first.error} "
        f"(what it printed is in {first.number}/{OUTPUT} of the study's folder)"
    )
    return ConfigError(message) if all(one.users for one in failed) else StudyError(message)


def warm_up() -> None:
    """Import what every training imports, once, before workers are forked."""
    import torch._dynamo  # noqa: F401 - by the first optimizer, 0.7 s

    import accelerator.runtime.run  # noqa: F401


def visible_devices() -> list[str]:
    """The GPUs workers may share, without starting CUDA: a process that has cannot be forked."""
    import torch

    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return [device for device in asked.split(",") if device]
    return [str(index) for index in range(torch.cuda.device_count())]
