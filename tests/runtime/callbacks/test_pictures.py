import subprocess
import sys

import numpy as np
import pytest
import torch
from run_outcomes import At, equal, last_state, points, send
from torch import nn

from accelerator.errors import Terminated
from accelerator.runtime.callbacks.early_stopping import EarlyStopping
from accelerator.runtime.callbacks.pictures import Pictures
from accelerator.runtime.journal import read
from accelerator.runtime.pictures import fields, loss
from accelerator.runtime.run import execute

CASCADE = {"model": {"name": "mlp", "hidden": [16, 16]}, "multilevel": {"name": "cascade", "levels": 2}}
ON = {"callbacks": {"pictures": {"name": "pictures"}}}


def waves(samples=6, val=4, test=2, channels=1):
    """(samples, 1, 8, 8) noise, and twice that."""
    generator = torch.Generator().manual_seed(0)
    counts = {"train": samples, "val": val, "test": test}
    inputs = {name: torch.randn(count, channels, 8, 8, generator=generator) for name, count in counts.items() if count}
    return {name: (values, 2 * values) for name, values in inputs.items()}


class Half(nn.Module):
    """x times a number that starts at 1: half of what is right."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.factor * x)


def drawn(folder):
    return sorted(path.name for path in (folder / "plots").glob("*")) if (folder / "plots").exists() else []


def artifacts(folder):
    lines = [line for line, _ in read(folder / "journal.jsonl")]
    return [(line["path"], line["artifact_path"]) for line in lines if line.get("event") == "artifact"]


@pytest.fixture
def histories(monkeypatch):
    """The histories that were drawn."""
    seen, draw = [], loss.draw_loss
    monkeypatch.setattr(loss, "draw_loss", lambda history, path: seen.append(history) or draw(history, path))
    return seen


def test_a_multilevel_run_leaves_two_pictures_and_puts_them_on_record(tiny_config, tmp_path):
    execute(tiny_config(**CASCADE, **ON), tmp_path)
    assert drawn(tmp_path) == ["hierarchy.png", "loss_vs_work.png"]
    assert artifacts(tmp_path) == [("plots/loss_vs_work.png", "plots"), ("plots/hierarchy.png", "plots")]


def test_a_plain_run_has_no_hierarchy_to_draw(tiny_config, tmp_path):
    execute(tiny_config(**ON), tmp_path)
    assert drawn(tmp_path) == ["loss_vs_work.png"]


@pytest.mark.parametrize("off", [{}, {"pictures": None}])
def test_pictures_can_be_turned_off(tiny_config, tmp_path, off):
    config = tiny_config()
    config["callbacks"] = {"metric_logger": {"name": "metric_logger"}} | off
    execute(config, tmp_path)
    assert drawn(tmp_path) == []


@pytest.mark.parametrize(("test", "split", "rows"), [(2, "test", 2), (0, "val", 3)])
def test_fields_are_those_of_the_network_as_it_is_used(tiny_config, tmp_path, monkeypatch, test, split, rows):
    seen = []
    monkeypatch.setattr(fields, "draw_fields", lambda *args, name: seen.append((*args, name)))
    config = tiny_config(
        imports=[__name__],
        data={"_target_": f"{__name__}.waves", "test": test},
        model={"_target_": f"{__name__}.Half"},
        optimizer={"name": "SGD", "lr": 0.0},
        transform={"target": {"normalize": {"name": "normalize", "per": "all"}}},
        **ON,
    )
    execute(config, tmp_path)
    ((prediction, target, _, name),) = seen
    inputs, targets = waves(test=test)[split]
    truth = waves()["train"][1]
    # In the data's own units, and without dropout.
    expected = inputs[:rows] * truth.std(unbiased=False) + truth.mean()
    assert name == split
    torch.testing.assert_close(target, targets[:rows])
    torch.testing.assert_close(prediction, expected)


def test_after_a_resume_the_whole_run_is_drawn(tiny_config, tmp_path, histories):
    stop = At("step_end", send(), number=4)
    with pytest.raises(Terminated):
        execute(tiny_config(**CASCADE, **ON), tmp_path, callbacks={"stop": stop})
    assert histories == []
    assert drawn(tmp_path) == []
    result = execute(tiny_config(**CASCADE, **ON), tmp_path, resume=tmp_path / "checkpoints")
    (history,) = histories
    assert history.training.steps.tolist() == list(range(1, result.steps + 1))
    assert history.levels.tolist() == [1, 0]
    assert history.work(np.array([result.steps]))[0] == pytest.approx(result.work)


def test_a_run_that_stops_early_is_drawn(tiny_config, tmp_path, histories):
    config = tiny_config(trainer={"max_epochs": 9}, optimizer={"name": "SGD", "lr": 0.0}, **ON)
    execute(config, tmp_path, callbacks={"stop": EarlyStopping(patience=2)})
    assert [history.span for history in histories] == [(0, 9)]


def test_a_failed_run_is_not_drawn(tiny_config, tmp_path):
    def fail(context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(tiny_config(**ON), tmp_path, callbacks={"fails": At("step_end", fail, number=5)})
    assert drawn(tmp_path) == []


def test_a_picture_that_fails_is_named_and_the_others_are_drawn(tiny_config, tmp_path, monkeypatch):
    def broken(history, path):
        raise ValueError("no ink")

    monkeypatch.setattr(loss, "draw_loss", broken)
    with pytest.warns(
        RuntimeWarning, match=r"the picture plots/loss_vs_work.png could not be drawn: ValueError: no ink"
    ):
        result = execute(tiny_config(**CASCADE, **ON), tmp_path)
    assert result.steps > 0
    assert (tmp_path / "result.json").exists()
    assert drawn(tmp_path) == ["hierarchy.png"]
    assert artifacts(tmp_path) == [("plots/hierarchy.png", "plots")]


def test_drawing_changes_nothing_that_was_trained_or_measured(tiny_config, tmp_path):
    folders = [tmp_path / "with", tmp_path / "without"]
    for folder, sections in zip(folders, (ON, {"callbacks": {"pictures": None}}), strict=True):
        folder.mkdir()
        execute(tiny_config(**CASCADE, **sections), folder)
    assert equal(last_state(folders[0]), last_state(folders[1]))
    assert points(folders[0]) == points(folders[1])


def test_matplotlib_is_not_imported_before_there_is_something_to_draw():
    look = "import sys, accelerator.runtime.callbacks.pictures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_they_are_drawn_after_the_last_loss_is_written_and_before_the_record_is_closed():
    from accelerator.cli.record import Record
    from accelerator.runtime.callbacks.logger import MetricLogger

    assert Record.priority < Pictures.priority < MetricLogger.priority
