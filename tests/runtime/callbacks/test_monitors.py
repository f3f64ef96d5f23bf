import math
from types import SimpleNamespace

import pytest
import torch
from run_outcomes import At, points
from toy_problem import plane

from accelerator.errors import ConfigError
from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.callbacks.monitors import GeneralizationGap, GradientNorm, LRMonitor, ParameterStatistics
from accelerator.runtime.run import execute

SCALE = {"_target_": "toy_problem.Scale", "start": 0.5}
SQUARES = {"_target_": "toy_problem.shifted_error"}


def with_callback(name, **options):
    return {"callbacks": {name: {"name": name, **options}}}


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [(1, 0.1), (2, 0.05), (3, 0.025), (4, 0.0125), (5, 0.00625), (6, 0.003125)]),
        (2, [(2, 0.05), (4, 0.0125), (6, 0.003125)]),
        (None, [(3, 0.025), (6, 0.003125)]),
    ],
)
def test_the_rate_on_record_is_the_one_the_step_was_taken_with(tiny_config, tmp_path, every, expected):
    config = tiny_config(
        optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.75},
        scheduler={"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "step"},
        **with_callback("lr_monitor", every=every),
    )
    execute(config, tmp_path)
    assert points(tmp_path, "optimizer/lr/0") == [(step, pytest.approx(rate)) for step, rate in expected]
    assert points(tmp_path, "optimizer/momentum/0") == [(step, 0.75) for step, _ in expected]


def test_the_momentum_of_adam_is_its_first_beta_and_an_optimizer_without_one_has_none(tiny_config, tmp_path):
    for name in ("Adam", "Adagrad"):
        (tmp_path / name).mkdir()
        execute(tiny_config(optimizer={"name": name}, **with_callback("lr_monitor")), tmp_path / name)
    assert points(tmp_path / "Adam", "optimizer/momentum/0") == [(3, 0.9), (6, 0.9)]
    assert points(tmp_path / "Adagrad", "optimizer/momentum/0") == []
    assert len(points(tmp_path / "Adagrad", "optimizer/lr/0")) == 2


class Gradients(Callback):
    """The gradient of each parameter, straight from the network, after all that changes gradients."""

    priority = 31

    def __init__(self):
        self.seen = []

    def after_backward(self, context):
        self.seen.append({name: p.grad.clone() for name, p in context.model.named_parameters()})


def two_norm(tensors):
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))


@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_gradient_norm_is_that_of_all_entries_before_clipping(tiny_config, tmp_path, clip):
    gradients = Gradients()
    config = tiny_config(trainer={"clip_norm": clip}, **with_callback("gradient_norm"))
    execute(config, tmp_path, callbacks={"gradients": gradients})
    expected = [(step, pytest.approx(two_norm(seen.values()))) for step, seen in enumerate(gradients.seen, 1)]
    assert points(tmp_path, "gradient_norm") == expected
    assert max(value for _, value in points(tmp_path, "gradient_norm")) > 0.01


def test_parts_of_the_gradient_add_up_to_the_whole(tiny_config, tmp_path):
    gradients = Gradients()
    execute(
        tiny_config(**with_callback("gradient_norm", per="module", every=2)),
        tmp_path,
        callbacks={"gradients": gradients},
    )
    children = {name.split(".")[0] for name in gradients.seen[0]}
    for step, whole in points(tmp_path, "gradient_norm"):
        parts = [dict(points(tmp_path, f"gradient_norm/{name}"))[step] for name in children]
        assert math.hypot(*parts) == pytest.approx(whole)
    assert [step for step, _ in points(tmp_path, "gradient_norm")] == [2, 4, 6]


def test_the_gradient_norm_of_the_one_group_is_the_whole_one(tiny_config, tmp_path):
    execute(tiny_config(**with_callback("gradient_norm", per="group")), tmp_path)
    assert points(tmp_path, "gradient_norm/0") == points(tmp_path, "gradient_norm")


def test_parameters_are_described_by_their_entries_and_their_last_update(tiny_config, tmp_path):
    seen = {}

    def copy(context):
        return {key: value.clone() for key, value in context.model.state_dict().items()}

    before = At("after_backward", lambda context: seen.update(before=copy(context)), number=6)
    after = At("step_end", lambda context: seen.update(after=copy(context)), number=6)
    config = tiny_config(trainer={"max_epochs": 3}, **with_callback("parameter_statistics", every=2))
    execute(config, tmp_path, callbacks={"before": before, "after": after})
    for name, old in seen["before"].items():
        new = seen["after"][name]
        for key, expected in {
            "norm": new.norm(),
            "mean": new.mean(),
            "std": new.std(correction=0),
            "update": (new - old).norm() / old.norm(),
        }.items():
            assert points(tmp_path, f"parameters/{key}/{name}") == [(6, pytest.approx(expected.item(), abs=1e-7))]


def test_the_gap_is_validation_less_the_mean_of_the_pass(tiny_config, tmp_path):
    execute(tiny_config(**with_callback("generalization_gap")), tmp_path)
    val, train = dict(points(tmp_path, "val/loss")), dict(points(tmp_path, "train/epoch_loss"))
    expected = [(step, pytest.approx(val[step] - train[step])) for step in (3, 6)]
    assert points(tmp_path, "generalization_gap") == expected


def test_a_pass_that_is_not_validated_has_no_gap(tiny_config, tmp_path):
    config = tiny_config(trainer={"validate_every": 2}, **with_callback("generalization_gap"))
    execute(config, tmp_path)
    assert [step for step, _ in points(tmp_path, "generalization_gap")] == [6]


@pytest.mark.parametrize(("samples", "rows"), [(1, 8), (9, 16), (20, 20), (500, 20)])
def test_the_gap_can_be_measured_on_the_very_network_that_is_validated(tiny_config, tmp_path, samples, rows):
    config = tiny_config(
        optimizer={"name": "SGD", "lr": 0.0},
        model=SCALE,
        loss=SQUARES,
        loader={"shuffle": False},
        **with_callback("generalization_gap", samples=samples),
    )
    execute(config, tmp_path)
    inputs, targets = plane()["train"]
    expected = (0.5 * inputs - targets)[:rows].square().mean().item()
    assert points(tmp_path, "train_eval/loss") == [(step, pytest.approx(expected)) for step in (3, 6)]
    val = points(tmp_path, "val/loss")[0][1]
    assert points(tmp_path, "generalization_gap") == [(step, pytest.approx(val - expected)) for step in (3, 6)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LRMonitor(every=0), "every=0: expected at least 1"),
        (lambda: GradientNorm(every=0), "every=0: expected at least 1"),
        (lambda: GradientNorm(per="layer"), "per=layer: expected none, group or module"),
        (lambda: ParameterStatistics(every=-1), "every=-1: expected at least 1"),
        (lambda: GeneralizationGap(samples=0), "samples=0: expected at least 1"),
    ],
)
def test_settings_out_of_range_are_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_norms_wait_on_the_device_until_the_journal_writes():
    class Journal:
        def metrics(self, values, step):
            self.values = values

    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    context = SimpleNamespace(
        state=SimpleNamespace(step=0), journal=Journal(), model=model, optimizer=torch.optim.SGD(model.parameters())
    )
    GradientNorm().after_backward(context)
    value = context.journal.values["gradient_norm"]
    assert isinstance(value, torch.Tensor)
    assert value.item() == pytest.approx(math.sqrt(3))
