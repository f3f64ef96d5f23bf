"""Row D2: a monitored value that is NaN is never the best, wherever it comes."""

import math

import pytest

from accelerator.runtime.callbacks.base import Callback
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.run import execute

NAN = math.nan
BATCHES = 3


class Measure(Callback):
    """Puts given values in the place of what a validation measured."""

    priority = 45

    def __init__(self, values):
        self.values = iter(values)

    def validation_end(self, context):
        context.state.metrics["val/loss"] = next(self.values)


@pytest.mark.parametrize("monitor_mode", ["min", "max"])
@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([NAN, 0.5, 0.7], {"min": 2, "max": 3}),
        ([0.5, NAN, 0.7], {"min": 1, "max": 3}),
        ([0.5, 0.7, NAN], {"min": 1, "max": 2}),
        ([0.7, NAN, NAN, NAN, NAN], {"min": 1, "max": 1}),
        ([NAN, NAN, NAN], {"min": None, "max": None}),
    ],
    ids=["first", "middle", "last", "all_but_one", "all"],
)
def test_d2_nan_is_never_the_best(tiny_config, tmp_path, values, best, monitor_mode):
    config = tiny_config(checkpoint={"mode": monitor_mode}, trainer={"max_epochs": len(values)})
    result = execute(config, tmp_path, callbacks={"measure": Measure(values)})
    expected = best[monitor_mode] and f"step-{best[monitor_mode] * BATCHES:08d}"
    assert (result.best and result.best.stem) == expected
    # Told from the files alone, too, and never removed in favour of a NaN.
    from_files = CheckpointHandler(tmp_path / "checkpoints", mode=monitor_mode).best()
    assert from_files == result.best
    assert result.steps == len(values) * BATCHES
    assert math.isfinite(result.metrics["test/loss"])
