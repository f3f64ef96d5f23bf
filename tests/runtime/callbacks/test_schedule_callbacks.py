import pytest
import torch
from run_outcomes import At, equal, last_state, points, send
from torch import nn
from toy_problem import CASCADE, V_CYCLE

from accelerator.errors import ConfigError, Terminated
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.schedules import AccumulationSchedule, Freeze
from accelerator.runtime.run import execute


class Normed(nn.Module):
    """A batch norm without weights between two linear maps."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.body(x).relu())


NORMED = {"imports": ["toy_problem", __name__], "model": {"_target_": f"{__name__}.Normed"}}
ADAMW = {"optimizer": {"name": "AdamW", "lr": 0.01, "weight_decay": 0.1}}


class Weights(Callback):
    """The tensors of the network at the start and after each step, each with its level and pass."""

    def __init__(self):
        self.seen = []

    def stage_start(self, context):
        self.note(context)

    def step_end(self, context):
        self.note(context)

    def note(self, context):
        copy = {name: value.clone() for name, value in context.model.state_dict().items()}
        self.seen.append((context.level, context.state.epoch, copy))

    def changes(self):
        """For each step the names of the tensors it changed."""
        return [
            (epoch, {name for name in new if not torch.equal(old[name], new[name])})
            for (before, _, old), (level, epoch, new) in zip(self.seen, self.seen[1:], strict=False)
            if before == level
        ]


def frozen(patterns, until_epoch=None):
    return {"callbacks": {"freeze": {"name": "freeze", "patterns": patterns, "until_epoch": until_epoch}}}


def test_frozen_parameters_and_statistics_keep_every_bit_and_the_others_are_trained(tiny_config, tmp_path):
    weights = Weights()
    config = tiny_config(**NORMED, **ADAMW, **frozen(["body.*"]))
    execute(config, tmp_path, callbacks={"weights": weights})
    assert [changed for _, changed in weights.changes()] == [{"head.weight", "head.bias"}] * 6


def test_from_a_pass_on_they_are_trained(tiny_config, tmp_path):
    weights = Weights()
    config = tiny_config(**NORMED, **ADAMW, **frozen(["body.*"], until_epoch=1), trainer={"max_epochs": 3})
    execute(config, tmp_path, callbacks={"weights": weights})
    for epoch, changed in weights.changes():
        assert ("body.0.weight" in changed) == ("body.1.running_mean" in changed) == (epoch >= 1)
        assert "head.weight" in changed


def test_a_norm_whose_statistics_match_no_pattern_goes_on_measuring(tiny_config, tmp_path):
    weights = Weights()
    execute(tiny_config(**NORMED, **frozen(["body.0.*"])), tmp_path, callbacks={"weights": weights})
    for _, changed in weights.changes():
        assert "body.1.running_mean" in changed
        assert "body.0.weight" not in changed


@pytest.mark.parametrize("sections", [CASCADE, V_CYCLE])
def test_on_each_level_its_own_parameters_are_frozen(tiny_config, tmp_path, sections):
    weights = Weights()
    execute(tiny_config(**sections, **frozen(["layers.0.*"])), tmp_path, callbacks={"weights": weights})
    assert {level for level, _, _ in weights.seen} == {0, 1}
    # A correction may come between two notes on a level; it moves the trained parameters alone, too.
    assert set().union(*(changed for _, changed in weights.changes())) == {
        f"layers.{i}.{kind}" for i in (2, 4) for kind in ("weight", "bias")
    }


def test_in_a_cycle_frozen_parameters_of_the_full_network_never_change(tiny_config, tmp_path):
    weights = Weights()
    execute(tiny_config(**V_CYCLE, **frozen(["layers.0.*"])), tmp_path, callbacks={"weights": weights})
    fine = [copy["layers.0.weight"] for level, _, copy in weights.seen if level == 0]
    assert all(torch.equal(weight, fine[0]) for weight in fine)


@pytest.mark.parametrize("sections", [NORMED, V_CYCLE])
@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_run_killed_anywhere_goes_on_to_the_last_bit(tiny_config, tmp_path, sections, step):
    patterns = ["body.*"] if sections is NORMED else ["layers.0.*"]
    config = tiny_config(**{"trainer": {"max_epochs": 3}, **sections}, **ADAMW, **frozen(patterns, until_epoch=2))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    execute(config, whole)
    with pytest.raises(Terminated):
        execute(config, parts, callbacks={"stop": At("step_end", send(), number=step)})
    execute(config, parts, resume=parts / "checkpoints")
    assert equal(last_state(parts), last_state(whole))


@pytest.mark.parametrize(
    ("patterns", "until", "message"),
    [
        (["layers.0.*", "body.*"], None, r"the pattern 'body\.\*' matches no parameter.*layers\.0\.weight"),
        (["*"], None, "leave no parameter to train"),
    ],
)
def test_patterns_that_cannot_be_meant_are_told(tiny_config, tmp_path, patterns, until, message):
    with pytest.raises(ConfigError, match=message):
        execute(tiny_config(**frozen(patterns, until)), tmp_path)


def accumulated(**options):
    return {"callbacks": {"pieces": {"name": "accumulation_schedule", **options}}}


class Pieces(Callback):
    priority = 60

    def __init__(self):
        self.seen = []

    def after_backward(self, context):
        self.seen.append((context.level, context.state.epoch, context.engine.accumulate))


@pytest.mark.parametrize(
    ("epochs", "usual", "expected"),
    [({0: 4}, 1, [4, 4, 4, 4]), ({1: 2, 3: 8}, 1, [1, 2, 2, 8]), ({2: 1}, 3, [3, 3, 1, 1])],
)
def test_the_pieces_of_a_pass_are_those_of_the_last_number_given(tiny_config, tmp_path, epochs, usual, expected):
    pieces = Pieces()
    config = tiny_config(trainer={"max_epochs": 4, "accumulate": usual}, **accumulated(epochs=epochs))
    execute(config, tmp_path, callbacks={"look": pieces})
    assert [count for _, _, count in pieces.seen] == [count for count in expected for _ in range(3)]


def test_a_level_has_its_own_number(tiny_config, tmp_path):
    pieces = Pieces()
    config = tiny_config(**CASCADE, callbacks={"schedule": {"name": "accumulation_schedule", "levels": {0: 4}}})
    execute(config, tmp_path, callbacks={"look": pieces})
    assert {(level, count) for level, _, count in pieces.seen} == {(1, 1), (0, 4)}


def test_the_steps_are_the_same_but_for_rounding(tiny_config, tmp_path):
    for name, sections in (("whole", {}), ("pieces", accumulated(epochs={0: 2, 1: 8}))):
        (tmp_path / name).mkdir()
        execute(tiny_config(**sections), tmp_path / name)
    whole, pieces = (points(tmp_path / name, "train/loss") for name in ("whole", "pieces"))
    assert pieces == [(step, pytest.approx(value, rel=1e-5)) for step, value in whole]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Freeze(patterns="body.*"), r"patterns=body\.\*: expected a list"),
        (lambda: Freeze(patterns=[]), "expected a list"),
        (lambda: Freeze(patterns=["*"], until_epoch=0), "until_epoch=0: expected at least 1"),
        (lambda: AccumulationSchedule(), "has no numbers: set epochs="),
        (lambda: AccumulationSchedule(epochs={0: 0}), "epochs={0: 0}: expected at least 0 before each colon"),
        (lambda: AccumulationSchedule(levels={-1: 2}), "levels={-1: 2}"),
    ],
)
def test_settings_out_of_range_are_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
