"""Runs that are trained together, against the same runs alone: folders, checkpoints, metrics, callbacks, ends."""

import json
import signal
import sys
from types import ModuleType

import pytest
import torch
from run_outcomes import At, equal, last_state, points, saved_steps, send
from torch import nn
from torch.utils.data import TensorDataset

from accelerator.errors import ConfigError, NonFiniteLossError, Terminated
from accelerator.runtime.callbacks.base import HOOKS, Callback
from accelerator.runtime.run import execute
from accelerator.runtime.vectorized.fitness import decides, why_alone, why_apart
from accelerator.runtime.vectorized.stack import CannotStackError
from accelerator.runtime.vectorized.together import Plan, execute_together

ADAM = {"name": "Adam", "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "fused": True}
COSINE = {"name": "CosineAnnealingLR", "T_max": 4, "interval": "epoch"}


def close(ours, theirs, path=""):
    """The same but for rounding: assert_close of everything that is a float, equality of the rest."""
    if isinstance(ours, torch.Tensor) and ours.is_floating_point():
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=path)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7), path
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            close(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), path
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            close(one, other, f"{path}.{number}")
    else:
        assert equal(ours, theirs), path


def folder_of(root, number):
    folder = root / str(number)
    folder.mkdir(parents=True)
    return folder


def alone(root, configs, **options):
    return [execute(config, folder_of(root, number), **options) for number, config in enumerate(configs)]


def together(root, configs, callbacks=None, watch=None):
    plans = [
        Plan(config, folder_of(root, number), callbacks=callbacks(number) if callbacks else {})
        for number, config in enumerate(configs)
    ]
    return execute_together(plans, watch)


def assert_same_runs(one, other):
    """Journals, checkpoints and results of two runs are the same to rounding."""
    assert [point[:2] for point in points(one)] == [point[:2] for point in points(other)]
    close([value for _, _, value in points(one)], [value for _, _, value in points(other)])
    assert saved_steps(one) == saved_steps(other)
    close(last_state(one), last_state(other))
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (one, other))
    close(ours["metrics"], theirs["metrics"])
    assert (ours["steps"], ours["work"]) == (theirs["steps"], theirs["work"])
    assert ours["best"].removeprefix(str(one)) == theirs["best"].removeprefix(str(other))


SECTIONS = {
    "seeds and rates": [{"seed": seed, "optimizer": {**ADAM, "lr": lr}} for seed in (0, 1) for lr in (0.01, 0.1)],
    "schedules": [
        {"scheduler": {"name": "OneCycleLR", "max_lr": 0.1, "interval": "step"}, "seed": 3},
        {"scheduler": {"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "epoch"}},
        {"scheduler": {"name": "ReduceLROnPlateau", "mode": "min", "factor": 0.1, "patience": 0}},
        {"scheduler": {**COSINE, "eta_min": 0.001}},
    ],
    "what each run has for itself": [
        {"trainer": {"clip_norm": 0.1}, "checkpoint": {"every_steps": 2}},
        {"trainer": {"max_steps": 7, "clip_value": 0.01}, "seed": 1},
        {"trainer": {"validate_every": 3}, "checkpoint": {"every_epochs": 3}},
        {"trainer": {"test": False}, "metrics": {"m": {"name": "mae"}}},
        {"callbacks": {"ema": {"name": "ema", "decay": 0.9}}},
    ],
}


@pytest.mark.parametrize("case", SECTIONS)
def test_every_run_leaves_what_it_would_leave_alone(case, tiny_config, tmp_path):
    defaults = {"optimizer": ADAM, "scheduler": COSINE}
    configs = [
        tiny_config(**{**defaults, **sections, "trainer": {"max_epochs": 4, **sections.get("trainer", {})}})
        for sections in SECTIONS[case]
    ]
    expected = alone(tmp_path / "alone", configs)
    results = together(tmp_path / "together", configs)
    for one, other in zip(results, expected, strict=True):
        assert_same_runs(one.run_dir, other.run_dir)


def test_random_transforms_and_labels_are_those_of_each_run(tiny_config, tmp_path):
    noise = {"input": {"n": {"name": "normalize"}, "noise": {"name": "noise", "std": 0.1}}, "target": {}, "loss": {}}
    sections = {
        "imports": ["labelled"],
        "data": {"_target_": "labelled.labelled"},
        "loss": {"name": "cross_entropy"},
        "metrics": {"accuracy": {"name": "accuracy"}},
        "transform": noise,
    }
    sys.modules["labelled"] = module = ModuleType("labelled")
    module.labelled, labelled.__module__ = labelled, "labelled"
    try:
        configs = [tiny_config(seed=seed, **sections) for seed in (0, 1)]
        expected = alone(tmp_path / "alone", configs)
        for one, other in zip(together(tmp_path / "together", configs), expected, strict=True):
            assert_same_runs(one.run_dir, other.run_dir)
    finally:
        del sys.modules["labelled"]


def labelled():
    """60 points in one set, in 3 classes: the seed decides what is validated."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    return TensorDataset(x, x.argmax(1))


class Notes(Callback):
    """Takes down which hook was called at which step."""

    def __init__(self):
        self.calls = []


for hook in HOOKS:
    if hook != "after_backward":
        setattr(Notes, hook, lambda self, context, hook=hook: self.calls.append((hook, context.state.step)))


def test_callbacks_are_called_as_the_train_loop_calls_them(tiny_config, tmp_path):
    configs = [
        tiny_config(seed=seed, trainer={"max_epochs": 3, "validate_every": 2, "max_steps": 8}) for seed in (0, 1)
    ]
    notes, ours = Notes(), [Notes(), Notes()]
    execute(configs[0], folder_of(tmp_path, "alone"), callbacks={"notes": notes})
    together(tmp_path, configs, lambda number: {"notes": ours[number]})
    assert ours[0].calls == ours[1].calls == notes.calls
    assert {hook for hook, _ in notes.calls} == set(HOOKS) - {"after_backward", "failed"}


def test_a_run_that_diverges_fails_alone(tiny_config, tmp_path):
    configs = [tiny_config(seed=n, optimizer={**ADAM, "lr": lr}) for n, lr in enumerate((0.01, 1e30, 0.02))]
    expected = alone(tmp_path / "alone", [configs[0], configs[2]])
    first, failed, last = together(tmp_path / "together", configs)
    assert isinstance(failed, NonFiniteLossError)
    assert str(failed).startswith("the loss is nan at step 2 (batch 2 of pass 1, learning rate 1e+30)")
    assert not (tmp_path / "together" / "1" / "result.json").exists()
    assert_same_runs(first.run_dir, expected[0].run_dir)
    assert_same_runs(last.run_dir, expected[1].run_dir)


def test_the_users_own_exception_is_written_into_its_runs_folder(tiny_config, tmp_path):
    def divide(context):
        raise ZeroDivisionError("by zero")

    outcomes = together(
        tmp_path,
        [tiny_config(seed=seed) for seed in (0, 1)],
        lambda number: {"fails": At("step_end", divide, number=2)} if number == 0 else {},
    )
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert "ZeroDivisionError: by zero" in (tmp_path / "0" / "error.txt").read_text()
    assert outcomes[1].steps == 6


def test_a_run_that_stops_early_leaves_the_others(tiny_config, tmp_path):
    early = {"stop": {"name": "early_stopping", "patience": 1, "min_delta": 1000.0}}
    configs = [
        tiny_config(seed=seed, trainer={"max_epochs": 6}, callbacks=early if seed == 1 else {}) for seed in (0, 1, 2)
    ]
    expected = alone(tmp_path / "alone", configs)
    results = together(tmp_path / "together", configs)
    assert [result.steps for result in results] == [18, 6, 18]
    for one, other in zip(results, expected, strict=True):
        assert_same_runs(one.run_dir, other.run_dir)


def test_a_run_that_has_had_enough_ends_in_the_midst_of_a_pass(tiny_config, tmp_path):
    def enough(number):
        return {"enough": At("step_end", lambda context: context.ask_to_stop("enough"), number=4)} if number else {}

    configs = [tiny_config(seed=seed) for seed in (0, 1)]
    alone_ended = execute(configs[1], folder_of(tmp_path, "alone"), callbacks=enough(1))
    whole, ended = together(tmp_path, configs, enough)
    assert (whole.steps, ended.steps) == (6, 4)
    assert_same_runs(ended.run_dir, alone_ended.run_dir)


def test_a_run_that_cannot_be_built_leaves_the_others(tiny_config, tmp_path):
    configs = [tiny_config(seed=0), tiny_config(seed=1, checkpoint={"monitor": "val/nothing"}), tiny_config(seed=2)]
    first, failed, last = together(tmp_path, configs)
    assert isinstance(failed, ConfigError)
    assert "checkpoint.monitor=val/nothing" in str(failed)
    assert (first.steps, last.steps) == (6, 6)


def test_a_signal_stops_all_and_each_goes_on_alone(tiny_config, tmp_path):
    configs = [tiny_config(seed=seed, optimizer=ADAM, trainer={"max_epochs": 4}) for seed in (0, 1)]
    expected = alone(tmp_path / "alone", configs)
    stopped = together(
        tmp_path / "together",
        configs,
        lambda number: {"kill": At("step_end", send(signal.SIGTERM), number=5)} if number == 0 else {},
    )
    for number, outcome in enumerate(stopped):
        folder = tmp_path / "together" / str(number)
        assert isinstance(outcome, Terminated)
        assert str(outcome).endswith(f"saved up to step 5; go on with: accelerator train resume={folder}")
        execute(configs[number], folder, resume=folder / "checkpoints")
        close(last_state(folder), last_state(expected[number].run_dir))
        assert [step for step, _ in points(folder, "train/loss")] == list(range(1, 13))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_ctrl_c_ends_all_at_once(tiny_config, tmp_path):
    def interrupt(context):
        raise KeyboardInterrupt

    ends = [Notes(), Notes()]
    with pytest.raises(KeyboardInterrupt):
        together(
            tmp_path,
            [tiny_config(seed=seed) for seed in (0, 1)],
            lambda number: {
                "notes": ends[number],
                **({"stop": At("step_end", interrupt, number=2)} if number == 1 else {}),
            },
        )
    assert [notes.calls[-1] for notes in ends] == [("run_end", 2), ("run_end", 2)]


def test_a_fault_of_all_is_the_end_of_each(tiny_config, tmp_path):
    def fail(contexts):
        raise RuntimeError("no memory")

    outcomes = together(tmp_path, [tiny_config(seed=seed) for seed in (0, 1)], watch=fail)
    assert [str(outcome) for outcome in outcomes] == ["no memory"] * 2
    assert all("no memory" in (tmp_path / str(number) / "error.txt").read_text() for number in (0, 1))


def test_data_that_is_the_same_is_kept_once(tiny_config, tmp_path):
    seen = []
    together(tmp_path, [tiny_config(seed=seed) for seed in (0, 1, 2)], watch=seen.append)
    places = {context.data.train.inputs.data_ptr() for context in seen[0]}
    assert len(seen[0]) == 3
    assert len(places) == 1


def test_runs_that_cannot_be_stacked_are_left_as_they_were(tiny_config, tmp_path):
    configs = [tiny_config(seed=seed, model={"name": "mlp", "hidden": [4], "dropout": 0.5}) for seed in (0, 1)]
    with pytest.raises(CannotStackError, match="model: it draws random numbers"):
        together(tmp_path, configs)
    for number, config in enumerate(configs):
        assert (tmp_path / str(number) / "journal.jsonl").read_bytes() == b""
        assert execute(config, tmp_path / str(number)).steps == 6


def test_runs_of_data_of_other_sizes_cannot_be_stacked(tiny_config, tmp_path):
    plane = {"_target_": "toy_problem.plane"}
    configs = [tiny_config(data={**plane, "samples": samples}) for samples in (20, 24)]
    with pytest.raises(CannotStackError, match="data: the jobs have different numbers of training samples: 20, 24"):
        together(tmp_path, configs)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, None),
        ({"resume": "/there"}, "resume=/there: a run goes on alone"),
        ({"multilevel": {"name": "cascade", "levels": 2}}, "multilevel=cascade: levels change while they are trained"),
        ({"engine": {"name": "accelerate"}}, "engine=accelerate: expected vanilla_torch or single_gpu"),
        ({"engine": {"precision": "bf16"}}, "engine.precision=bf16: expected 32"),
        ({"engine": {"compile": "default"}}, "engine.compile=default: expected null"),
        ({"engine": {"devices": 2}}, "engine.devices=2: expected one"),
        ({"engine": {"gradient_checkpointing": True}}, "engine.gradient_checkpointing=True: expected false"),
        ({"optimizer": {"name": "RMSprop", "lr": 0.1}}, "optimizer=RMSprop: expected one of SGD, Adam, AdamW"),
        ({"optimizer": {**ADAM, "differentiable": True}}, "optimizer.differentiable=true: expected false"),
        (
            {"callbacks": {"norm": {"name": "gradient_norm"}}},
            "callbacks.norm: it works on the gradients of each step",
        ),
    ],
)
def test_why_a_run_is_trained_alone(sections, expected, tiny_config):
    assert why_alone(tiny_config(**sections)) == expected


def test_runs_may_differ_in_all_but_what_is_computed_in_a_step(tiny_config):
    base = tiny_config(optimizer=ADAM)
    free = {"seed": 1, "optimizer": {**ADAM, "lr": 1.0}, "scheduler": COSINE, "trainer": {"clip_norm": 1.0}}
    assert why_apart(base, tiny_config(**{"optimizer": ADAM, **free})) is None
    for name, section in {"model": {"hidden": [5]}, "loss": {"name": "mae"}, "loader": {"batch_size": 4}}.items():
        assert (
            why_apart(base, tiny_config(optimizer=ADAM, **{name: section})) == f"{name}: it is not the same in all jobs"
        )
    other = tiny_config(optimizer={**ADAM, "amsgrad": True})
    assert why_apart(base, other) == "optimizer.amsgrad: it is not the same in all jobs"
    assert [key for key in ("model.hidden", "seed", "optimizer", "optimizer.lr", "loss") if decides(key)] == [
        *("model.hidden", "optimizer", "loss")
    ]


def test_a_convolutional_network_with_batch_norm(tmp_path, tiny_config):
    sys.modules["pictures_of_noise"] = module = ModuleType("pictures_of_noise")
    module.pictures, module.Small = pictures, Small
    pictures.__module__ = Small.__module__ = "pictures_of_noise"
    try:
        sections = {
            "imports": ["pictures_of_noise"],
            "data": {"_target_": "pictures_of_noise.pictures"},
            "model": {"_target_": "pictures_of_noise.Small"},
        }
        configs = [tiny_config(seed=seed, **sections) for seed in (0, 1)]
        expected = alone(tmp_path / "alone", configs)
        for one, other in zip(together(tmp_path / "together", configs), expected, strict=True):
            assert_same_runs(one.run_dir, other.run_dir)
        state = last_state(tmp_path / "together" / "0")["model"]
        assert int(state["norm.num_batches_tracked"]) == 4
    finally:
        del sys.modules["pictures_of_noise"]


def pictures():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 1, 6, 6, generator=generator)
    return {name: (x, x.mean((1, 2, 3))[:, None]) for name in ("train", "val", "test")}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Linear(3 * 16, 1)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).flatten(1))
