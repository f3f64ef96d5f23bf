"""One run from a checked config to a result."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerator.errors import ConfigError, RunDirectoryError, Terminated, did_you_mean
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import read_meta
from accelerator.runtime.checkpoint.operation import remove_temporary, write_bytes
from accelerator.runtime.context.build import build_context
from accelerator.runtime.context.component import check, is_component, present
from accelerator.runtime.context.context import Context
from accelerator.runtime.context.scheduler import check_scheduler
from accelerator.runtime.data.pipeline import ROLES
from accelerator.runtime.engine.base import Clip
from accelerator.runtime.engine.device import count_of
from accelerator.runtime.journal import Journal, truncate
from accelerator.runtime.loop.evaluation import evaluate
from accelerator.runtime.loop.train import train
from accelerator.runtime.metrics import check_metrics
from accelerator.runtime.run_directory import CHECKPOINTS, ERROR, JOURNAL, RESULT, write_fault
from accelerator.runtime.signals import stop_on_signals
from accelerator.runtime.start import Start, start_again, start_of
from accelerator.utilities import distributed
from accelerator.utilities.places import where_raised

_POSITIVE = (
    ("trainer", "accumulate"),
    ("trainer", "max_epochs"),
    ("trainer", "max_steps"),
    ("trainer", "validate_every"),
    ("checkpoint", "every_epochs"),
    ("checkpoint", "every_steps"),
    ("checkpoint", "top_k"),
    ("sweep", "vectorize"),
)


@dataclass
class Result:
    """What a finished run leaves behind.

    Attributes:
        metrics: last values; ``test/…`` are those of the best checkpoint.
        best_metrics: what was measured when the best checkpoint was saved; empty if none was rated.
        run_dir: the run's folder.
        best: the best checkpoint; None if none was saved or measured.
        last: the newest checkpoint.
        steps: optimizer steps done, all levels.
        work: work units done.
        seconds: of this process's training, from the first step to the end of the test.
        run_id: of the record in MLflow; None if it was not kept there.
    """

    metrics: dict[str, float]
    run_dir: Path
    best: Path | None
    last: Path | None
    steps: int
    work: float
    seconds: float
    run_id: str | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)

    def objective(self, monitor: str) -> float | None:
        """What a sweep compares runs by: the monitored value at its best, not the last one.

        Args:
            monitor: the metric's name.
        """
        return self.best_metrics.get(monitor, self.metrics.get(monitor))


def check_config(config: Mapping[str, Any]) -> None:
    """Compare every open section with the signature of what it names, before anything is built.

    Raises:
        ConfigError: holds every mistake found.
    """
    import_modules(config["imports"])
    imports = tuple(config["imports"])
    offered = ("memory_limit_gb", "input_shape", "output_shape", "num_classes", "params")
    problems = []
    for kind in ("engine", "data", "model", "loss", "optimizer", "multilevel"):
        problems += check(kind, config[kind], kind, offered=offered, imports=imports)
    if config.get("acceleration"):
        problems += check("acceleration", config["acceleration"], "acceleration", imports=imports)
    problems += check_scheduler(config["scheduler"], imports)
    problems += check_metrics(config["metrics"], imports)
    problems += _check_named("callback", present(config["callbacks"]), "callbacks", imports)
    for role, sections in config["transform"].items():
        if role not in ROLES:
            problems.append(f"transform.{role}: no such role of a transform{did_you_mean(role, ROLES)}")
        else:
            problems += _check_named("transform", present(sections), f"transform.{role}", imports)
    for section, key in _POSITIVE:
        value = config[section][key]
        if value is not None and value < 1:
            problems.append(f"{section}.{key}={value}: expected at least 1")
    for key in ("clip_norm", "clip_value"):
        value = config["trainer"][key]
        if value is not None and not value > 0:
            problems.append(f"trainer.{key}={value}: expected a number above 0, or null for no clipping")
    if problems:
        raise ConfigError(problems)


def import_modules(names: Iterable[str]) -> None:
    """Import the user's own modules: what they register then has a name.

    Raises:
        ConfigError: one of them fails.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(_not_imported(name, error)) from error


def _not_imported(name: str, error: Exception) -> str:
    """Why one of the imports failed: at its root, where it is another module that fails."""
    said = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    told = f"imports: {name} could not be imported: {said}"
    if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]:
        here = [path.stem for path in Path.cwd().iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
        return f"{told}{did_you_mean(name, here, show=0)}; it is looked for in {Path.cwd()} and in what is installed"
    return f"{told} {where_raised(error)}".rstrip()


def _check_named(kind: str, sections: Mapping[str, Any], key: str, imports: tuple[str, ...]) -> list[str]:
    """The mistakes in a mapping of components, each under a name of the user's choice."""
    problems = []
    whole = [name for name, section in sections.items() if is_component(section)]
    for name, section in sections.items():
        if not is_component(section):
            near = did_you_mean(name, whole, most=1, show=0)
            problems.append(f"{key}.{name}: there is none of that name{near}; to add one, set {key}.{name}.name=…")
        else:
            problems += check(kind, section, f"{key}.{name}", imports=imports)
    return problems


def execute(
    config: Mapping[str, Any],
    run_dir: Path,
    *,
    resume: Path | None = None,
    fingerprint: str = "",
    commit: str | None = None,
    callbacks: Mapping[str, Callback] | None = None,
) -> Result:
    """Build, train, test; the caller owns the folder, and nothing is written to it until everything is built.

    Args:
        config: resolved and checked.
        run_dir: an existing folder of this run alone.
        resume: a checkpoint file, or a folder of checkpoints whose newest whole one is meant.
        fingerprint: of the config, for checkpoints.
        commit: of the user's git repository, for checkpoints.
        callbacks: more of them, beside the config's.

    Raises:
        Terminated: a signal stopped the run; its last step is saved.
        AcceleratorError: any of this package's errors. The user's own exceptions pass through unchanged, after
            their traceback was written to ``error.txt``.
    """
    context = opened(config, run_dir, resume=resume, fingerprint=fingerprint, commit=commit, callbacks=callbacks)
    begin = time.perf_counter()
    with stop_on_signals(context), closing(context):
        context.callbacks("run_start", context)
        train(context)
        conclude(context)
        seconds = time.perf_counter() - begin
    return left(context, seconds)


def opened(
    config: Mapping[str, Any],
    run_dir: Path,
    *,
    resume: Path | None = None,
    fingerprint: str = "",
    commit: str | None = None,
    callbacks: Mapping[str, Callback] | None = None,
) -> Context:
    """Build a run, load the state it goes on from, and open its journal; see `execute` for arguments and errors."""
    saved = meta = None
    main = distributed.rank() == 0
    own = CheckpointHandler(run_dir / CHECKPOINTS)
    if main:
        remove_temporary(own.directory)
        (run_dir / ERROR).unlink(missing_ok=True)
    if resume is not None:
        handler = CheckpointHandler(resume if resume.is_dir() else resume.parent)
        saved, meta = handler.load_last()[:2] if resume.is_dir() else handler.load(resume)
    in_place = resume == own.directory
    if not in_place and own.paths():
        raise RunDirectoryError(
            f"{run_dir} holds an earlier run: go on with it (resume={run_dir}), or set hydra.run.dir to another folder"
        )
    if saved is not None:
        start = start_again(saved)
    else:
        start = start_of(Path(config["load"])) if config.get("load") else Start()
    context = build_context(config, run_dir, callbacks=callbacks, fingerprint=fingerprint, commit=commit, start=start)
    if saved is not None and meta is not None:
        context.load_state_dict(saved, same_config=in_place or meta.fingerprint == fingerprint)
    if main:
        truncate(run_dir / JOURNAL, saved["journal"] if saved is not None and in_place else 0)
        context.journal = Journal(run_dir / JOURNAL)
    return context


@contextmanager
def closing(context: Context) -> Iterator[None]:
    """While inside, the run is on: what ends it is written down, and its callbacks are told."""
    run_dir = context.run_dir
    assert run_dir is not None
    try:
        yield
    except BaseException as error:
        context.error = error
        if isinstance(error, Terminated):
            where = f"saved up to step {context.state.step:,}; go on with: accelerator train resume={run_dir}"
            error.args = (f"{error}; {where}",)
        write_fault(run_dir, error)
        context.callbacks("failed", context)
        raise
    finally:
        try:
            context.callbacks("run_end", context)
        finally:
            if context.journal is not None:
                context.journal.close()


def conclude(context: Context) -> None:
    """What comes after the training: everything is on the disk, and the best of it is tested."""
    if context.checkpoints is not None:
        context.checkpoints.wait()
    if context.config["trainer"]["test"] and "test" in context.data.feeds:
        test(context)


def left(context: Context, seconds: float) -> Result:
    """What a run that ended well leaves behind, written into its folder too."""
    checkpoints, run_dir = context.checkpoints, context.run_dir
    assert checkpoints is not None
    assert run_dir is not None
    paths = checkpoints.paths()
    best = checkpoints.best()
    result = Result(
        metrics=dict(context.state.metrics),
        run_dir=run_dir,
        best=best,
        last=paths[-1] if paths else None,
        steps=context.state.step,
        work=context.state.work,
        seconds=seconds,
        run_id=context.run_id,
        best_metrics={} if best is None else dict(read_meta(best).metrics),
    )
    if context.main:
        write_result(result)
    return result


def write_result(result: Result) -> None:
    """Leave the result in the run's folder: the mark of a run that ended well."""
    write_bytes(result.run_dir / RESULT, json.dumps(asdict(result), default=str, indent=1).encode())


def test(context: Context) -> None:
    """Measure the best checkpoint (the network as it is, if none was kept) on the test split."""
    best = context.checkpoints.best() if context.checkpoints is not None and context.main else None
    best = distributed.from_main(best)
    if best is not None:
        assert context.checkpoints is not None
        context.load_weights(context.checkpoints.load(best)[0], averaged=True)
    context.level = 0
    context.engine.bind(context.model, context.objective, context.optimizer, Clip())
    context.callbacks("test_start", context)
    context.state.metrics.update(evaluate(context, "test"))
    context.callbacks("test_end", context)


def dry_run(config: Mapping[str, Any]) -> Context:
    """Build everything and take one step and one validation batch; nothing is written.

    Returns:
        The context, for a look at what would run.
    """
    count_of(config["engine"].get("devices"))  # told here too; the ranks themselves are not started
    alone = {key: value for key, value in config["engine"].items() if key != "devices"}
    start = start_of(Path(config["load"])) if config.get("load") else Start()
    context = build_context({**config, "engine": alone}, None, start=start)
    context.engine.forward_backward(context.level_batch(context.level, next(iter(context.data.train.epoch(0)))))
    context.engine.optimizer_step()
    context.model.eval()
    for split in ("val", "test"):
        if split in context.data.feeds:
            batch = context.level_batch(context.level, next(iter(context.data.feeds[split].epoch(0))))
            prediction, target = context.engine.predict(batch)
            for metric in context.metrics.values():
                metric.update(context.data.transforms.original(prediction), context.data.transforms.original(target))
    return context
