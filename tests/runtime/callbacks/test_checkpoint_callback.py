import signal
import time
from types import SimpleNamespace

import pytest
from run_outcomes import At, equal, last_state, points, saved_steps, send

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.callbacks.checkpoint import CheckpointCallback
from accelerator.runtime.checkpoint import checkpoint_handler
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.context.training import TrainingState
from accelerator.runtime.run import check_config, execute

KEEP_ALL = {"keep": 1000}


def metrics_of(folder):
    handler = CheckpointHandler(folder / "checkpoints")
    return {handler.load(path)[1].step: handler.load(path)[1].metrics for path in handler.paths()}


@pytest.mark.parametrize(
    ("checkpoint", "trainer", "expected"),
    [
        ({}, {"max_epochs": 3}, [3, 6, 9]),
        ({"every_steps": 2}, {"max_epochs": 2}, [2, 3, 4, 6]),
        ({"every_steps": 3}, {"max_epochs": 2}, [3, 6]),
        ({}, {"max_steps": 4}, [3, 4]),
    ],
)
def test_it_saves_when_asked_to(tiny_config, tmp_path, checkpoint, trainer, expected):
    execute(tiny_config(checkpoint={**KEEP_ALL, **checkpoint}, trainer=trainer), tmp_path)
    assert saved_steps(tmp_path) == expected


def test_between_the_passes_asked_for_it_saves_what_is_better_than_ever(tiny_config, tmp_path):
    config = tiny_config(
        checkpoint={**KEEP_ALL, "every_epochs": 4, "monitor": "val/score"},
        metrics={"score": {"_target_": "toy_problem.shifted_error"}},
        trainer={"max_epochs": 6},
    )
    values = {3: 5.0, 6: 4.0, 9: 4.0, 12: 6.0, 15: 3.0, 18: 9.0}

    def score(context):
        context.state.metrics["val/score"] = values[context.state.step]

    callbacks = {f"score {number}": At("validation_end", score, number=number) for number in range(1, 7)}
    execute(config, tmp_path, callbacks=callbacks)
    # Better at 3, 6 and 15; due at 12; the end at 18.
    assert saved_steps(tmp_path) == [3, 6, 12, 15, 18]
    assert CheckpointHandler(tmp_path / "checkpoints", monitor="val/score").best().stem == "step-00000015"


def test_a_pass_that_was_not_validated_has_no_metrics_and_is_not_better(tiny_config, tmp_path):
    config = tiny_config(checkpoint={**KEEP_ALL, "every_epochs": 3}, trainer={"max_epochs": 6, "validate_every": 2})
    execute(config, tmp_path)
    metrics = metrics_of(tmp_path)
    assert list(metrics) == [6, 9, 12, 18]
    assert [bool(values) for values in metrics.values()] == [True, False, True, True]
    assert [step for step, _ in points(tmp_path, "val/loss")] == [6, 12, 18]


def test_a_checkpoint_knows_the_config_the_commit_and_the_versions(tiny_config, tmp_path):
    execute(tiny_config(), tmp_path, fingerprint="abc", commit="0123")
    handler = CheckpointHandler(tmp_path / "checkpoints")
    meta = handler.load_last()[1]
    assert (meta.fingerprint, meta.commit, meta.epoch, meta.work, meta.level) == ("abc", "0123", 2, 6.0, 0)
    assert set(meta.versions) == {"torch", "accelerator"}


@pytest.mark.parametrize("key", ["every_epochs", "every_steps"])
def test_settings_out_of_range_are_told_before_anything_is_built(tiny_config, key):
    with pytest.raises(ConfigError, match=f"^checkpoint.{key}=0: expected at least 1$"):
        check_config(tiny_config(checkpoint={key: 0}))


MOMENTS = {
    "the first step": ("after_backward", 1, 1),
    "a step inside a pass": ("step_end", 5, 5),
    "between gradient and step": ("after_backward", 5, 5),
    "the last step of a pass": ("after_backward", 3, 3),
    "the last step of all": ("after_backward", 9, 9),
    "validation": ("validation_start", 2, 6),
    "the last validation": ("validation_start", 3, 9),
    "a save": ("save_start", 1, 4),
    "the test": ("test_start", 1, 9),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_loses_no_step_and_the_resumed_run_is_the_uninterrupted_one(tiny_config, tmp_path, moment, number):
    hook, count, step = MOMENTS[moment]
    whole, parts, handler = tmp_path / "whole", tmp_path / "parts", signal.getsignal(number)
    config = tiny_config(
        trainer={"max_epochs": 3},
        checkpoint={"every_epochs": 3},
        callbacks={"early_stopping": {"name": "early_stopping", "patience": 50}},
        transform={"input": {"noise": {"name": "noise", "std": 0.1}}},
        model={"name": "mlp", "hidden": [4], "dropout": 0.2},
        scheduler={"name": "ReduceLROnPlateau", "patience": 0, "interval": "epoch"},
    )
    expected = execute(config, whole)
    with pytest.raises(Terminated, match=number.name) as caught:
        execute(config, parts, callbacks={"signal": At(hook, send(number), number=count)})
    assert caught.value.exit_code == 128 + number
    assert saved_steps(parts)[-1] == step
    assert signal.getsignal(number) is handler
    found = execute(config, parts, resume=parts / "checkpoints")
    assert equal(last_state(parts), last_state(whole))
    assert points(parts) == points(whole)
    assert found.metrics == expected.metrics


@pytest.mark.parametrize(("validated", "expected"), [(6, 1), (3, 0)])
def test_a_value_measured_at_an_earlier_step_is_no_improvement_of_this_one(tmp_path, validated, expected):
    # After a change of level the last value may be that of the coarse network.
    callback, saves = CheckpointCallback(), []
    callback._save = saves.append
    context = SimpleNamespace(
        config={"checkpoint": {"every_epochs": 10, "every_steps": None}},
        state=TrainingState(step=6, epoch=2, validated=validated, metrics={"val/loss": 0.1}),
        checkpoints=CheckpointHandler(tmp_path),
        level=0,
    )
    callback.run_start(context)
    callback.epoch_end(context)
    assert len(saves) == expected


def test_a_run_is_not_over_before_its_last_checkpoint_is_whole(tiny_config, tmp_path, monkeypatch):
    write = checkpoint_handler.write_steps

    def slow(path, parts):
        time.sleep(0.3)
        return write(path, parts)

    monkeypatch.setattr(checkpoint_handler, "write_steps", slow)
    context_of = []
    callbacks = {"context": At("run_start", context_of.append)}
    execute(tiny_config(trainer={"max_epochs": 1, "test": False}), tmp_path, callbacks=callbacks)
    assert context_of[0].checkpoints._background._thread is None
    assert saved_steps(tmp_path) == [3]


def test_top_k_and_the_names_come_from_the_config(tiny_config, tmp_path):
    config = tiny_config(
        checkpoint={"monitor": "val/score", "top_k": 2, "filename": "epoch-{epoch}-{val/score:.1f}"},
        metrics={"score": {"_target_": "toy_problem.shifted_error"}},
        trainer={"max_epochs": 6},
    )
    values = {3: 2.0, 6: 5.0, 9: 1.0, 12: 6.0, 15: 3.0, 18: 9.0}

    def score(context):
        context.state.metrics["val/score"] = values[context.state.step]

    result = execute(config, tmp_path, callbacks={f"{n}": At("validation_end", score, number=n) for n in range(1, 7)})
    found = [path.stem for path in CheckpointHandler(tmp_path / "checkpoints").paths()]
    assert found == ["epoch-1-2.0", "epoch-3-1.0", "epoch-5-3.0", "epoch-6-9.0"]
    assert (result.best.stem, result.last.stem) == ("epoch-3-1.0", "epoch-6-9.0")


def test_a_name_that_cannot_be_filled_in_is_told_before_training(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint.filename=\{val/los\}: there is no .* did you mean 'val/loss'"):
        execute(tiny_config(checkpoint={"filename": "{val/los}"}), tmp_path)
    assert not list(tmp_path.iterdir())
