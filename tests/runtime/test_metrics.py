import math

import pytest
import torch
from torch import nn

from accelerator.errors import ConfigError
from accelerator.runtime.metrics import Average, build_metrics, check_metrics, kind_of

CPU = torch.device("cpu")


def test_an_average_weighs_samples_and_not_batches():
    metric = Average(nn.functional.mse_loss)
    metric.update(torch.full((3, 1), 2.0), torch.zeros(3, 1))  # 4 for each of 3 samples
    metric.update(torch.full((1, 1), 4.0), torch.zeros(1, 1))  # 16 for one
    assert metric.compute() == (3 * 4 + 16) / 4


def test_an_average_over_any_batches_is_that_over_all_samples():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    metric = Average(nn.functional.l1_loss)
    for part in (slice(0, 7), slice(7, 8), slice(8, 50)):
        metric.update(prediction[part], target[part])
    assert metric.compute() == pytest.approx((prediction - target).abs().mean().item(), rel=1e-12)


def test_an_average_is_summed_in_double_precision():
    metric, value = Average(lambda prediction, target: prediction.mean()), torch.tensor([0.1])
    for _ in range(1000):
        metric.update(value, torch.zeros(1))
    assert metric.compute() == pytest.approx(value.item(), rel=1e-12)


def test_of_no_samples_there_is_no_average_and_reset_forgets_all():
    metric = Average(nn.functional.mse_loss)
    assert math.isnan(metric.compute())
    metric.update(torch.ones(2), torch.zeros(2))
    metric.reset()
    assert math.isnan(metric.compute())


def test_an_average_keeps_no_graph():
    metric = Average(nn.functional.mse_loss)
    metric.update(torch.ones(2, requires_grad=True), torch.zeros(2))
    assert not metric._sum.requires_grad


def test_a_metric_is_found_by_name_or_torchmetrics_path_and_a_loss_will_do():
    sections = {
        "accuracy": {"name": "accuracy"},
        "top": {"_target_": "torchmetrics.classification.MulticlassAccuracy", "average": "micro"},
        "mae": {"_target_": "torchmetrics.functional.mean_absolute_error"},
        "ce": {"name": "cross_entropy"},
        "removed": None,
    }
    assert check_metrics(sections) == []
    metrics = build_metrics(sections, CPU, num_classes=3)
    assert list(metrics) == ["accuracy", "top", "mae", "ce"]
    scores = torch.eye(3)[[0, 1, 2, 2]]
    labels = torch.tensor([0, 1, 2, 0])
    for name in ("accuracy", "top", "ce"):
        metrics[name].update(scores, labels)
    metrics["mae"].update(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]))
    assert float(metrics["accuracy"].compute()) == float(metrics["top"].compute()) == 0.75
    assert metrics["mae"].compute() == 1.5
    assert metrics["ce"].compute() == pytest.approx(nn.functional.cross_entropy(scores, labels).item())


def test_a_loss_that_is_a_module_goes_to_the_device():
    metrics = build_metrics({"scale": {"_target_": "toy_problem.Scale"}}, torch.device("meta"), ("toy_problem",))
    assert metrics["scale"].function.factor.device.type == "meta"


@pytest.mark.parametrize(("name", "kind"), [("accuracy", "metric"), ("mse", "loss"), (None, "metric")])
def test_a_name_stands_among_the_metrics_or_the_losses(name, kind):
    assert kind_of({"name": name}, "metrics.x") == kind


def test_every_mistake_is_told_with_its_key():
    sections = {
        "a": {"name": "acuracy"},
        "b": {"name": "mse", "reducton": 1},
        "c": "accuracy",
        "loss": {"name": "mae"},
        "ok": {"name": "r2"},
    }
    found = check_metrics(sections)
    assert len(found) == 4
    assert "metrics.a.name: unknown metric 'acuracy' — did you mean 'accuracy'" in found[0]
    assert found[1].startswith("metrics.b.reducton: 'mse' has no such argument")
    assert found[2] == "metrics.c='accuracy' names no metric: set metrics.c.name=…"
    assert "metrics.loss" in found[3]
    with pytest.raises(ConfigError, match="unknown metric"):
        build_metrics({"a": sections["a"]}, CPU)
