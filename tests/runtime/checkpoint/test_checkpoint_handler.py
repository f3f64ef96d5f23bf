import math
import threading

import pytest
import torch
from safetensors.torch import save_file

from accelerator.errors import CheckpointError, ConfigError
from accelerator.runtime.checkpoint import checkpoint_handler, meta_handler
from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import read_meta, sidecar
from accelerator.runtime.checkpoint.operation import encode

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
    handler.wait()
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
    handler.wait()
    flip(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        handler.load(path)


def test_a_damaged_best_sidecar_does_not_stop_a_save(tmp_path):
    handler = CheckpointHandler(tmp_path)
    path = save(handler, 1, 0.1)
    handler.wait()
    sidecar(path).write_text("{")
    handler = CheckpointHandler(tmp_path)
    save(handler, 2, 0.5)
    assert step_of(handler.best()) == 2


def test_with_nothing_whole_every_reason_is_given(tmp_path):
    handler = CheckpointHandler(tmp_path)
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}: nothing to resume from"):
        handler.load_last()
    for step in (1, 2):
        path = save(handler, step)
        handler.wait()
        flip(path)
    with pytest.raises(CheckpointError, match=r"step-00000002.*damaged.*step-00000001.*damaged"):
        handler.load_last()


def test_an_unfinished_save_never_counts_and_is_removed_by_the_next(tmp_path):
    killed = CheckpointHandler(tmp_path)
    save(killed, 1, 0.5)
    unfinished = save(killed, 2, 0.1)
    killed.wait()
    sidecar(unfinished).unlink()
    handler = CheckpointHandler(tmp_path)
    assert steps(handler) == [1]
    assert step_of(handler.best()) == 1
    assert handler.load_last()[1].step == 1
    with pytest.raises(CheckpointError, match="its save never finished"):
        handler.load(unfinished)
    save(handler, 3, 0.4)
    handler.wait()
    assert not unfinished.exists()


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    exported = tmp_path / "exported.safetensors"
    save_file({"w": torch.ones(2)}, exported)
    handler = CheckpointHandler(tmp_path)
    for step in range(1, 5):
        save(handler, step)
    assert steps(handler) == [3, 4]
    assert exported.exists()


@pytest.mark.parametrize("failing", ["write_steps", "write_meta"])
def test_a_save_that_fails_leaves_the_earlier_ones_and_is_forgotten(tmp_path, monkeypatch, failing):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.5)
    handler.wait()

    def full(path, *args, **options):
        raise CheckpointError(f"could not write {path}")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_handler, failing, full)
        save(handler, 2, 0.1)
        with pytest.raises(CheckpointError, match="could not write .*step-00000002"):
            handler.wait()
    assert handler.error is None
    assert steps(handler) == [1]
    assert handler.load_last()[1].step == 1
    assert step_of(handler.best()) == 1
    assert handler.improves({"val/loss": 0.4}, 0)
    assert len(list(tmp_path.iterdir())) == 2
    save(handler, 3, 0.3)
    assert steps(handler) == [1, 3]


def test_an_old_checkpoint_goes_only_after_the_new_one_counts(tmp_path, monkeypatch):
    handler = CheckpointHandler(tmp_path)
    for step in (1, 2):
        save(handler, step)
    handler.wait()
    seen = []
    write = meta_handler.write_bytes

    def watched(path, data):
        seen.append(sorted(path.name for path in tmp_path.glob("*.json")))
        write(path, data)
        seen.append(sorted(path.name for path in tmp_path.glob("*.json")))

    monkeypatch.setattr(meta_handler, "write_bytes", watched)
    save(handler, 3)
    assert steps(handler) == [2, 3]
    names = [f"step-0000000{step}.json" for step in (1, 2, 3)]
    assert seen == [names[:2], names]


def test_looking_at_the_checkpoints_of_a_run_does_not_disturb_what_it_writes(tmp_path):
    being_written = tmp_path / ".step-00000001.safetensors.99.tmp"
    being_written.write_bytes(b"half")
    CheckpointHandler(tmp_path).paths()
    assert being_written.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "least"}, "checkpoint.mode=least: expected min or max"),
        ({"keep": 1}, "checkpoint.keep=1.*at least 2"),
        ({"top_k": 0}, "checkpoint.top_k=0: expected at least 1"),
    ],
)
def test_settings_out_of_range_are_told(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        CheckpointHandler(tmp_path, **options)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not make .*file"):
        save(CheckpointHandler(tmp_path / "file" / "checkpoints"), 1)


@pytest.fixture
def slow_write(monkeypatch):
    """Writes of files wait for the event."""
    go, write = threading.Event(), checkpoint_handler.write_steps

    def slow(path, parts):
        assert go.wait(30)
        return write(path, parts)

    monkeypatch.setattr(checkpoint_handler, "write_steps", slow)
    yield go
    go.set()


def test_a_state_may_change_as_soon_as_save_returns(tmp_path, slow_write):
    state = {"w": torch.arange(4.0), "nested": [torch.tensor(1)], "lr": [0.1], "betas": (0.9, 0.99)}
    handler = CheckpointHandler(tmp_path)
    path = handler.save(state, step=1, level=0, metrics={}, **FACTS)
    assert not path.exists()
    state["w"].zero_()
    state["nested"][0].fill_(7)
    state["lr"][0] = 5.0
    slow_write.set()
    found = handler.load(path)[0]
    assert found["w"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert (found["nested"][0].item(), found["lr"], found["betas"]) == (1, [0.1], [0.9, 0.99])


def test_states_of_any_size_one_after_the_other_share_a_buffer(tmp_path):
    handler = CheckpointHandler(tmp_path, keep=10)
    sizes = [5, 1000, 3, 0, 1000, 1001]
    for step, size in enumerate(sizes, 1):
        handler.save({"w": torch.full((size,), float(step))}, step=step, level=0, metrics={}, **FACTS)
        # 4 bytes a number; never more than the largest state.
        assert handler._snapshot._buffer.numel() == 4 * max(sizes[:step])
    for step, size in enumerate(sizes, 1):
        assert handler.load(tmp_path / f"step-{step:08d}.safetensors")[0]["w"].tolist() == [float(step)] * size


def test_what_is_written_is_what_encode_gives_and_the_sidecar_knows_it(tmp_path):
    state = {"w": torch.randn(100, 7), "n": {0: torch.tensor(3), 1: [torch.randn(3).double(), torch.tensor(True)]}}
    handler = CheckpointHandler(tmp_path)
    path = handler.save(state, step=1, level=0, metrics={}, **FACTS)
    handler.wait()
    assert path.read_bytes() == encode(state)
    assert read_meta(path).bytes == path.stat().st_size


def test_the_next_save_waits_for_the_one_before(tmp_path, slow_write):
    handler = CheckpointHandler(tmp_path)
    first = save(handler, 1)
    threading.Timer(0.2, slow_write.set).start()
    save(handler, 2)
    assert sidecar(first).exists()
    assert steps(handler) == [1, 2]


@pytest.mark.parametrize(
    "look",
    [
        lambda handler: handler.load_last()[1].step,
        lambda handler: step_of(handler.best()),
        lambda handler: steps(handler)[-1],
        lambda handler: handler.load(handler.directory / "step-00000001.safetensors")[1].step,
    ],
    ids=["load_last", "best", "paths", "load"],
)
def test_whoever_looks_waits_for_the_write_and_sees_it(tmp_path, slow_write, look):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.5)
    threading.Timer(0.2, slow_write.set).start()
    assert look(handler) == 1


def test_what_is_best_is_known_without_looking_at_the_disk(tmp_path, slow_write):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.5)
    assert not handler.improves({"val/loss": 0.6}, 0)
    assert handler.improves({"val/loss": 0.4}, 0)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_new_handler_goes_on_with_what_was_best(tmp_path):
    first = CheckpointHandler(tmp_path)
    for step, loss in enumerate([0.9, 0.3, 0.8], 1):
        save(first, step, loss)
    first.wait()
    handler = CheckpointHandler(tmp_path)
    assert handler.look()
    assert not handler.improves({"val/loss": 0.4}, 0)
    for step, loss in enumerate([0.7, 0.6, 0.5], 4):
        save(handler, step, loss)
    assert steps(handler) == [2, 5, 6]
    assert not CheckpointHandler(tmp_path / "empty").look()


@pytest.mark.parametrize(
    ("mode", "top_k", "kept"), [("min", 1, [3, 6, 7]), ("min", 3, [2, 3, 5, 6, 7]), ("max", 2, [1, 4, 6, 7])]
)
def test_the_best_k_are_kept(tmp_path, mode, top_k, kept):
    handler = CheckpointHandler(tmp_path, mode=mode, top_k=top_k)
    for step, loss in enumerate([0.95, 0.3, 0.1, 0.9, 0.2, 0.7, math.nan], 1):
        save(handler, step, loss)
    assert steps(handler) == kept


def test_every_rank_gives_the_same_answers_and_one_writes(tmp_path):
    values = [0.9, 0.3, 0.8, math.nan, 0.2, 0.5, 0.4]
    writes, reads = (CheckpointHandler(tmp_path / name, top_k=2, writes=name == "a") for name in "ab")
    for step, loss in enumerate(values, 1):
        for probe in (0.1, 0.25, 0.35, 1.0, math.nan):
            assert writes.improves({"val/loss": probe}, 0) == reads.improves({"val/loss": probe}, 0)
        assert save(writes, step, loss).name == save(reads, step, loss).name
        assert writes.best().name == reads.best().name
    assert steps(writes) == [2, 5, 6, 7]
    assert not reads.directory.exists()


def test_age_is_by_step_and_then_by_time_not_by_name(tmp_path):
    handler = CheckpointHandler(tmp_path, filename="{val/loss:.2f}", keep=3)
    for step, loss in [(9, 0.5), (10, 0.7), (10, 0.6), (11, 0.1)]:
        save(handler, step, loss)
    assert [path.stem for path in handler.paths()] == ["0.70", "0.60", "0.10"]
    assert [path.stem for path in CheckpointHandler(tmp_path).paths()] == ["0.70", "0.60", "0.10"]
    assert handler.load_last()[1].step == 11


def test_a_name_that_is_taken_gets_a_number_and_nothing_is_written_over(tmp_path):
    handler = CheckpointHandler(tmp_path, filename="epoch-{epoch}", keep=2)
    names = [save(handler, step).stem for step in range(1, 6)]
    # With two kept, the third save frees the first name.
    assert names == ["epoch-0", "epoch-0-v1", "epoch-0-v2", "epoch-0", "epoch-0-v1"]
    assert [handler.load(path)[1].step for path in handler.paths()] == [4, 5]


def test_a_state_that_cannot_be_kept_is_told_at_once_and_forgotten(tmp_path):
    handler = CheckpointHandler(tmp_path)
    save(handler, 1, 0.5)
    with pytest.raises(TypeError, match="/bad: a checkpoint holds plain values and tensors, not set"):
        handler.save({"bad": {1}}, step=2, level=0, metrics={"val/loss": 0.1}, **FACTS)
    assert step_of(handler.best()) == 1
