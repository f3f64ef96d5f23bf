import json

import pytest
import torch
from run_outcomes import At, equal, last_state, points
from toy_problem import plane

from accelerator.errors import CheckpointError, ConfigError, DataError, RunDirectoryError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import read_meta
from accelerator.runtime.run import check_config, dry_run, execute, import_modules


def test_a_right_config_has_no_mistake(tiny_config):
    check_config(tiny_config())


def test_every_mistake_is_reported_at_once(tiny_config):
    config = tiny_config(
        model={"name": "mlp", "hiden": [4]},
        loss={"name": "mes"},
        optimizer={"name": "Adam", "lr": "fast"},
        scheduler={"name": "StepLR", "interval": "epoch"},
        metrics={"m": {"name": "acuracy"}},
        transform={"inputs": {}, "input": {"n": {"name": "normalize", "pre": "all"}}},
        callbacks={"e": {"name": "early_stoping"}, "metric_loger": {"flush": 1}},
        trainer={"max_epochs": 0, "max_steps": 0, "validate_every": 0, "clip_norm": 0.0},
        checkpoint={"every_steps": 0},
    )
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    found = caught.value.problems
    for fragment in (
        "model.hiden",
        "did you mean 'mse'",
        "optimizer.lr='fast'",
        "scheduler.step_size is required",
        "did you mean 'accuracy'",
        "transform.inputs: no such role of a transform — did you mean 'input'",
        "transform.input.n.pre: 'normalize' has no such argument — did you mean 'per'",
        "did you mean 'early_stopping'",
        "callbacks.metric_loger: there is none of that name — did you mean 'metric_logger'",
        "trainer.max_epochs=0",
        "trainer.max_steps=0",
        "trainer.validate_every=0",
        "trainer.clip_norm=0.0: expected a number above 0",
        "checkpoint.every_steps=0",
    ):
        assert sum(fragment in problem for problem in found) == 1, fragment
    assert len(found) == 14


def test_an_import_that_fails_is_told(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "raises_when_imported.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="imports: raises_when_imported could not be imported: ZeroDivisionError"):
        check_config(tiny_config(imports=["raises_when_imported"]))


def test_a_wrong_registration_is_told_with_the_users_own_line(tmp_path, monkeypatch):
    (tmp_path / "registers_wrongly.py").write_text(
        "from accelerator import register\n\n\n@register('losss', 'mine')\ndef mine():\n    return 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        import_modules(["registers_wrongly"])
    assert caught.value.problems == [
        "imports: registers_wrongly could not be imported: unknown kind of component 'losss' — did you mean 'loss'? "
        f"({tmp_path / 'registers_wrongly.py'}, line 4)"
    ]


def test_a_result_says_what_was_reached_and_where_it_is(tiny_config, tmp_path):
    result = execute(tiny_config(), tmp_path)
    assert (result.steps, result.work, result.run_dir) == (6, 6.0, tmp_path)
    assert result.last == tmp_path / "checkpoints" / "step-00000006.safetensors"
    assert set(result.metrics) == {"train/epoch_loss", "val/loss", "test/loss"}
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["metrics"] == result.metrics
    assert written["last"] == str(result.last)


def test_a_seed_decides_everything(tiny_config, tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        torch.rand(3)
        execute(tiny_config(seed=seed, model={"name": "mlp", "hidden": [4], "dropout": 0.3}), folder)
    assert equal(last_state(folders[0]), last_state(folders[1]))
    assert points(folders[0]) == points(folders[1]) != points(folders[2])


def test_the_best_checkpoint_is_tested_and_not_the_last(tiny_config, tmp_path):
    class Score(Callback):
        def validation_end(self, context):
            context.state.metrics["val/score"] = float(context.state.step == 3)

    config = tiny_config(
        metrics={"score": {"_target_": "toy_problem.shifted_error"}},
        checkpoint={"monitor": "val/score", "mode": "max"},
        trainer={"max_epochs": 3},
    )
    result = execute(config, tmp_path, callbacks={"score": Score()})
    assert result.best.stem == "step-00000003"
    weights = CheckpointHandler(tmp_path / "checkpoints").load(result.best)[0]["model"]
    inputs, targets = plane()["test"]
    hidden = torch.nn.functional.gelu(inputs @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    prediction = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    assert result.metrics["test/loss"] == pytest.approx((prediction - targets).square().mean().item(), rel=1e-5)


def test_a_folder_with_an_earlier_run_is_not_written_over(tiny_config, tmp_path):
    execute(tiny_config(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=f"{tmp_path} holds an earlier run: go on with it"):
        execute(tiny_config(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_file_starts_a_run_of_its_own(tiny_config, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    first = execute(tiny_config(), old)
    result = execute(tiny_config(trainer={"max_epochs": 4}), new, resume=first.last)
    assert result.steps == 12
    assert [step for step, _ in points(new, "train/loss")] == list(range(7, 13))
    assert [step for step, _ in points(old, "train/loss")] == list(range(1, 7))


def test_a_checkpoint_that_is_not_there_is_told_and_no_other_is_taken(tiny_config, tmp_path):
    first = execute(tiny_config(), tmp_path / "old")
    with pytest.raises(CheckpointError, match="step-00000099"):
        execute(tiny_config(), tmp_path / "new", resume=first.last.with_name("step-00000099.safetensors"))


def test_what_a_killed_save_left_is_removed_at_the_start(tiny_config, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / ".step-00000001.safetensors.77.tmp").write_bytes(b"half")
    seen = []
    look = At("run_start", lambda context: seen.append(list(checkpoints.iterdir())))
    execute(tiny_config(), tmp_path, callbacks={"look": look})
    assert seen == [[]]


def test_points_after_the_checkpoint_are_cut_before_they_are_measured_again(tiny_config, tmp_path):
    def fail(context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(tiny_config(), tmp_path, callbacks={"fails": At("step_end", fail, number=5)})
    assert len(points(tmp_path, "train/loss")) == 5
    execute(tiny_config(), tmp_path, resume=tmp_path / "checkpoints")
    assert [step for step, _ in points(tmp_path, "train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"loss": {"name": "cross_entropy"}}, ConfigError),
        ({"data": {"_target_": "toy_problem.refuse"}}, ConfigError),
        ({"loader": {"batch_size": 64, "drop_last": True}}, DataError),
    ],
)
def test_nothing_is_written_until_everything_is_built(tiny_config, tmp_path, sections, error):
    with pytest.raises(error):
        execute(tiny_config(**sections), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_takes_one_step_and_writes_nothing(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config(metrics={"r2": {"name": "r2"}})
    context = dry_run(config)
    assert context.run_dir is None
    assert context.optimizer.state_dict()["state"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_measures_in_evaluation_mode(tiny_config):
    context = dry_run(
        tiny_config(
            data={"_target_": "toy_problem.plane", "val": 1, "test": 1},
            model={"name": "mlp", "hidden": [4], "layer_norm": True},
        )
    )
    assert not context.model.training


def test_a_run_is_compared_by_its_best_value_not_by_its_last(tiny_config, tmp_path):
    result = execute(tiny_config(optimizer={"name": "SGD", "lr": 0.05}, trainer={"max_epochs": 4}), tmp_path)
    assert result.best_metrics == read_meta(result.best).metrics
    assert result.objective("val/loss") == result.best_metrics["val/loss"] <= result.metrics["val/loss"]
    result.best_metrics["val/loss"] = 0.25
    assert result.objective("val/loss") == 0.25
    assert result.objective("nothing") is None
