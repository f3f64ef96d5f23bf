"""``accelerator train``: check a composed config, train it, and say where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerator.cli.compose.composed import Composed, removed_if_unused
from accelerator.cli.composed_command import ComposedCommand
from accelerator.tracking.tracker import Tracker

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from accelerator.cli.record import About
    from accelerator.runtime.run import Result


def train_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    return TRAIN.main(arguments)


def train(overrides: Sequence[str] = ()) -> Result:
    """Train from Python what ``accelerator train <overrides>`` trains.

    >>> result = train(["model=mlp", "trainer.max_epochs=1"])  # doctest: +SKIP
    >>> result.metrics["test/loss"]  # doctest: +SKIP

    Raises:
        AcceleratorError: as the command line would report; the user's own exceptions pass through.
    """
    return TRAIN(overrides)


def _train(composed: Composed) -> Result:
    """Check a composed config, train it in its folder, keep its record, and print where to look."""
    from accelerator.cli.compose.compose import plain
    from accelerator.cli.load import check_not_accelerated
    from accelerator.cli.record import about_of, check_store
    from accelerator.cli.resume import check_unchanged
    from accelerator.runtime.engine.device import count_of
    from accelerator.runtime.run import check_config
    from accelerator.runtime.run_directory import owned
    from accelerator.utilities import distributed

    with removed_if_unused(composed.run_dir):
        values = plain(composed.config)
        check_not_accelerated(values, "train")
        check_config(values)
        about = about_of("train", composed, values)
        job = Job(values, about, composed.run_dir, composed.tracker)
        if distributed.launched() is not None:
            job = _agreed(Job(values, about, composed.run_dir))
        with owned(job.run_dir) if distributed.rank() == 0 else nullcontext():
            if distributed.rank() == 0:
                check_store(values)
            if not (values["resume"] or values["load"] or values["tracking"]["parent"]) and distributed.rank() == 0:
                from accelerator.cli.hydra_utils.logger import since_the_last_run

                if told := since_the_last_run(values, about.unresolved, job.run_dir):
                    print(told)
            if job.in_place and distributed.rank() == 0:
                check_unchanged(values, about.unresolved, job.run_dir)
            engine = values["engine"]
            ranks = count_of(engine.get("devices"))
            if ranks == 1 or distributed.launched() is not None:
                return job()
            from accelerator.cli.launch import on_ranks

            waiting = {key: engine[key] for key in ("restarts", "timeout") if key in engine}
            # The fleet of a sweep is this process's; a rank has an uploader of its own.
            return on_ranks(replace(job, tracker=Tracker), ranks, run_dir=job.run_dir, **waiting)


@dataclass(frozen=True)
class Job:
    """A run, composed and checked: what each of its ranks is given.

    Args:
        values: the config, resolved, plain.
        about: what else its record tells.
        run_dir: the run's folder; somebody else sees to it that it is no other's.
        tracker: makes what keeps the record.
    """

    values: dict[str, Any]
    about: About
    run_dir: Path
    tracker: Callable[..., Tracker] = Tracker

    @property
    def resume(self) -> Path | None:
        """The run directory or checkpoint to go on from."""
        return Path(self.values["resume"]) if self.values["resume"] else None

    @property
    def in_place(self) -> bool:
        """Whether the run goes on in its own folder."""
        return self.resume is not None and self.resume.is_dir()

    def __call__(self, again: bool = False) -> Result:
        """Train, and keep the record.

        Args:
            again: go on from the folder's own newest checkpoint, after a restart.
        """
        from accelerator.cli.record import Record
        from accelerator.runtime.run import execute
        from accelerator.runtime.run_directory import CHECKPOINTS
        from accelerator.tracking.provenance import git_tags
        from accelerator.utilities import distributed

        record = Record(self.values, self.about, self.run_dir, tracker=self.tracker)
        assert self.resume is None or self.resume.is_absolute()
        result = execute(
            self.values,
            self.run_dir,
            resume=self.run_dir / CHECKPOINTS if self.in_place or again else self.resume,
            fingerprint=self.about.fingerprint,
            commit=git_tags().get("git.commit"),
            callbacks={"record": record},
        )
        if distributed.rank() == 0:
            record.print_summary(result)
        return result


def _agreed(job: Job) -> Job:
    """Rank 0's job, for all that torchrun started: each has composed its own, in a folder of its own."""
    from accelerator.runtime.engine.device import backend_of, find_device
    from accelerator.utilities import distributed

    engine = job.values["engine"]
    device = find_device(engine.get("device", "auto"), engine.get("devices"))
    distributed.start(backend_of(device), engine.get("timeout", 120.0))
    agreed = distributed.from_main(job)
    if distributed.rank() > 0 and job.run_dir != agreed.run_dir:
        with suppress(OSError):
            job.run_dir.rmdir()
    return agreed


def _dry_run(config: DictConfig) -> None:
    from rich.console import Console

    from accelerator.cli.compose.compose import plain
    from accelerator.runtime.run import check_config, dry_run

    values = plain(config)
    check_config(values)
    context = dry_run(values)
    parameters = [sum(p.numel() for p in level.parameters()) for level in context.levels]
    console = Console(highlight=False)
    console.print(f"{values['model'].get('name') or values['model']['_target_']}: {parameters[0]:,} parameters")
    console.print(f"data: inputs {context.data.input_shape}, targets {context.data.output_shape} a sample")
    if context.network is not None:
        for level, cost in enumerate(context.costs):
            console.print(f"level {level}: {parameters[level]:,} parameters, a step costs {cost:.3g} of the full one")
    visits: list[list[str]] = []  # a cycle in one line
    for stage in context.stages:
        if not stage.cycle:
            visits.append([])
        visits[-1].append(f"level {stage.level}: {stage.steps:,} steps")
    for visit, same in groupby(visits):
        times = len(list(same))
        console.print(" · ".join(visit) + (f", {times:,} times over" if times > 1 else ""))
    console.print("dry run: everything fits; nothing was written")


def _help() -> str:
    from accelerator.cli.help import train_help

    return train_help()


TRAIN = ComposedCommand("train", _train, _help, _dry_run)
