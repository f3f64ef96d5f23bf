import math

import pytest
import torch

from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.checkpoint import checkpoint_handler, meta_handler, operation
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import sidecar

FACTS = {"epoch": 0, "work": 0.0, "fingerprint": "f", "versions": {}, "commit": None}


def save(handler, step, loss=None, level=0):
    metrics = {} if loss is None else {"val/loss": loss}
    return handler.save({"w": torch.full((3,), float(step))}, step=step, level=level, metrics=metrics, **FACTS)


def steps(handler):
    return [int(path.stem.removeprefix("step-")) for path in handler.paths()]


def step_of(path):
    return int(path.stem.removeprefix("step-"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_saved_is_loaded(tmp_path):
    handler = CheckpointHandler(tmp_path / "made" / "at the first save")
    path = save(handler, 12, 0.5)
    state, meta = handler.load(path)
    assert state["w"].tolist() == [12.0, 12.0, 12.0]
    assert (meta.step, meta.level, meta.metrics) == (12, 0, {"val/loss": 0.5})
    assert meta.bytes == path.stat().st_size


def test_the_newest_and_the_best_are_kept_and_nothing_else(tmp_path):
    handler = CheckpointHandler(tmp_path, keep=2)
    for step, loss in enumerate([0.9, 0.3, 0.8, 0.7, 0.6, 0.5], 1):
        save(handler, step, loss)
    assert steps(handler) == [2, 5, 6]
    assert step_of(handler.best()) == 2
    assert len(list(tmp_path.iterdir())) == 6


def test_the_best_may_be_among_the_newest(tmp_path):
    handler = CheckpointHandler(tmp_path, keep=3)
    for step in range(1, 7):
        save(handler, step, 1 / step)
    assert steps(handler) == [4, 5, 6]


def test_newest_is_by_step_also_beyond_eight_digits(tmp_path):
    handler = CheckpointHandler(tmp_path)
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        save(handler, step)
    assert steps(handler) == [100_000_000, 100_000_001]
    assert handler.load_last()[1].step == 100_000_001


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [0.5, 0.2, 0.4], 2),
        ("max", [0.5, 0.2, 0.4], 1),
        ("min", [0.2, 0.2], 1),
        ("max", [-0.5, -0.2], 2),
        ("min", [math.nan, 0.9], 2),
        ("max", [math.nan, 0.1], 2),
        ("min", [0.9, math.nan], 1),
        ("min", [None, 0.9], 2),
    ],
)
def test_best_is_by_mode_the_first_of_equals_and_never_nan(tmp_path, mode, values, best):
    handler = CheckpointHandler(tmp_path, mode=mode, keep=5)
    for step, value in enumerate(values, 1):
        save(handler, step, value)
    assert step_of(handler.best()) == best


@pytest.mark.parametrize("value", [math.nan, None])
def test_without_a_number_there_is_no_best(tmp_path, value):
    handler = CheckpointHandler(tmp_path)
    assert handler.best() is None
    save(handler, 1, value)
    assert handler.best() is None


def test_a_coarse_network_is_never_the_best(tmp_path):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.001, level=1)
    assert handler.best() is None
    save(handler, 2, 0.9)
    assert step_of(handler.best()) == 2
    assert not handler.improves({"val/loss": 0.0}, level=1)


def test_an_improvement_is_a_better_value_and_nothing_else(tmp_path):
    handler = CheckpointHandler(tmp_path)
    assert handler.improves({"val/loss": 5.0}, 0)
    save(handler, 1, 0.5)
    assert handler.improves({"val/loss": 0.49}, 0)
    for metrics in ({"val/loss": 0.5}, {"val/loss": 0.6}, {"val/loss": math.nan}, {}, {"val/other": 0.0}):
        assert not handler.improves(metrics, 0)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "sidecar"])
def test_a_damaged_newest_is_passed_over_with_a_warning_that_names_both(tmp_path, damage):
    handler = CheckpointHandler(tmp_path)
    good, bad = save(handler, 1), save(handler, 2)
    if damage == "flip":
        flip(bad)
    elif damage == "cut":
        bad.write_bytes(bad.read_bytes()[:-7])
    elif damage == "empty":
        bad.write_bytes(b"")
    else:
        sidecar(bad).write_text("{")
    with pytest.warns(RuntimeWarning) as caught:
        state, meta, path = handler.load_last()
    assert path == good
    assert (meta.step, state["w"][0]) == (1, 1.0)
    message = str(caught[0].message)
    assert message.startswith(f"falling back to {good}: ")
    assert bad.stem in message
    assert "damaged" in message


def test_a_damaged_file_is_refused_when_asked_for(tmp_path):
    handler = CheckpointHandler(tmp_path)
    path = save(handler, 1)
    flip(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        handler.load(path)


def test_a_damaged_best_sidecar_does_not_stop_a_save(tmp_path):
    handler = CheckpointHandler(tmp_path)
    sidecar(save(handler, 1, 0.1)).write_text("{")
    save(handler, 2, 0.5)
    assert step_of(handler.best()) == 2


def test_with_nothing_whole_every_reason_is_given(tmp_path):
    handler = CheckpointHandler(tmp_path)
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}: nothing to resume from"):
        handler.load_last()
    for step in (1, 2):
        flip(save(handler, step))
    with pytest.raises(CheckpointError, match=r"step-00000002.*damaged.*step-00000001.*damaged"):
        handler.load_last()


def test_an_unfinished_save_never_counts_and_is_removed_by_the_next(tmp_path):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.5)
    unfinished = save(handler, 2, 0.1)
    sidecar(unfinished).unlink()
    assert steps(handler) == [1]
    assert step_of(handler.best()) == 1
    assert handler.load_last()[1].step == 1
    with pytest.raises(CheckpointError, match="its save never finished"):
        handler.load(unfinished)
    save(handler, 3, 0.4)
    assert not unfinished.exists()


@pytest.mark.parametrize("failing", ["tensors", "sidecar"])
def test_a_save_that_fails_leaves_the_earlier_ones(tmp_path, monkeypatch, failing):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.5)

    def full(path, data):
        raise CheckpointError(f"could not write {path}")

    monkeypatch.setattr(checkpoint_handler if failing == "tensors" else meta_handler, "write_bytes", full)
    with pytest.raises(CheckpointError, match="could not write"):
        save(handler, 2, 0.1)
    assert steps(handler) == [1]
    assert handler.load_last()[1].step == 1


def test_an_old_checkpoint_goes_only_after_the_new_one_counts(tmp_path, monkeypatch):
    handler = CheckpointHandler(tmp_path)
    for step in (1, 2):
        save(handler, step)
    seen = []
    write = operation.write_bytes
    monkeypatch.setattr(
        meta_handler, "write_bytes", lambda path, data: (seen.append(steps(handler)), write(path, data))
    )
    save(handler, 3)
    assert seen == [[1, 2]]
    assert steps(handler) == [2, 3]


def test_looking_at_the_checkpoints_of_a_run_does_not_disturb_what_it_writes(tmp_path):
    being_written = tmp_path / ".step-00000001.safetensors.99.tmp"
    being_written.write_bytes(b"half")
    CheckpointHandler(tmp_path).paths()
    assert being_written.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mode": "least"}, "checkpoint.mode=least: expected min or max"), ({"keep": 1}, "checkpoint.keep=1.*at least 2")],
)
def test_settings_out_of_range_are_told(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        CheckpointHandler(tmp_path, **options)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not make .*file"):
        save(CheckpointHandler(tmp_path / "file" / "checkpoints"), 1)
