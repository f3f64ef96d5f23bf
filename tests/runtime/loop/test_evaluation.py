import pytest
import torch
from run_outcomes import send
from torch import nn
from toy_problem import plane

from accelerator.errors import Terminated
from accelerator.runtime.context.build import build_context
from accelerator.runtime.loop.evaluation import evaluate
from accelerator.runtime.signals import stop_on_signals

SQUARED = {"_target_": "toy_problem.shifted_error", "shift": 0.0}


def context_of(tiny_config, **sections):
    return build_context(tiny_config(**sections), None)


def test_loss_and_metrics_are_those_of_the_whole_split_at_once(tiny_config):
    context = context_of(
        tiny_config,
        metrics={"shifted": {"_target_": "toy_problem.shifted_error", "shift": 1.0}},
        data={"_target_": "toy_problem.plane", "val": 45},
        loader={"eval_batch_size": 7},
    )
    inputs, targets = plane(val=45)["val"]
    with torch.no_grad():
        prediction = context.model(inputs)
    found = evaluate(context, "val")
    assert found == {
        "val/loss": pytest.approx((prediction - targets).square().mean().item()),
        "val/shifted": pytest.approx((prediction - targets + 1).square().mean().item()),
    }


def test_the_size_of_the_batches_does_not_matter(tiny_config):
    values = [evaluate(context_of(tiny_config, loader={"eval_batch_size": n}), "val")["val/loss"] for n in (1, 3, 8)]
    assert values == [pytest.approx(values[0])] * 3


def test_metrics_are_in_the_datas_own_units_and_the_loss_in_those_trained_on(tiny_config):
    context = context_of(
        tiny_config,
        metrics={"squared": SQUARED},
        transform={"target": {"normalize": {"name": "normalize", "per": "all"}}},
    )
    found = evaluate(context, "val")
    variance = plane()["train"][1].var(correction=0).item()
    assert found["val/squared"] == pytest.approx(found["val/loss"] * variance, rel=1e-5)
    assert abs(variance - 1) > 0.1


def test_a_second_pass_starts_anew(tiny_config):
    context = context_of(tiny_config, metrics={"squared": SQUARED, "r2": {"name": "r2"}})
    first = evaluate(context, "val")
    evaluate(context, "test")
    assert evaluate(context, "val") == first


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_comes_back_also_after_an_error(tiny_config, training):
    context = context_of(tiny_config)
    context.model.train(training)
    evaluate(context, "val")
    assert context.model.training is training
    context.engine.predict = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(context, "val")
    assert context.model.training is training


def test_nothing_of_the_network_changes(tiny_config):
    context = context_of(tiny_config)
    norm = nn.BatchNorm1d(3)
    context.model.layers.insert(0, norm)
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    generator = torch.get_rng_state()
    evaluate(context, "val")
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in context.model.parameters())


def test_a_signal_ends_it_after_the_batch_at_hand(tiny_config):
    context = context_of(tiny_config, loader={"eval_batch_size": 1})
    predict, seen = context.engine.predict, []

    def count(batch):
        seen.append(batch)
        if len(seen) == 2:
            send()(context)
        return predict(batch)

    context.engine.predict = count
    with stop_on_signals(context), pytest.raises(Terminated, match="SIGTERM"):
        evaluate(context, "val")
    assert len(seen) == 2
