import os
import threading
import time

import numpy as np
import pytest

from domain.cross.data.cache import cached_arrays

VALUES = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
SHAPES = {"a": (2, 3)}


def compute():
    return VALUES


def never():
    raise AssertionError("computed although it was cached")


def test_arrays_are_computed_once_and_then_read(tmp_path):
    file = tmp_path / "new" / "folder" / "set.npz"
    cached_arrays(file, SHAPES, compute)
    again = cached_arrays(file, SHAPES, never)
    assert np.array_equal(again["a"], VALUES["a"])
    assert {entry.name for entry in file.parent.iterdir()} == {"set.npz", "set.npz.lock"}


def truncated(content):
    return content[: len(content) // 2]


def with_a_flipped_bit(content):
    middle = content.index(VALUES["a"].tobytes()) + 5
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, with_a_flipped_bit, lambda _: b"", lambda _: b"no zip"])
def test_a_damaged_file_is_computed_again_with_one_warning(tmp_path, damage):
    file = tmp_path / "set.npz"
    cached_arrays(file, SHAPES, compute)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=r"set\.npz is damaged .* computed again") as caught:
        assert np.array_equal(cached_arrays(file, SHAPES, compute)["a"], VALUES["a"])
    assert len(caught) == 1
    cached_arrays(file, SHAPES, never)


def test_arrays_of_other_shapes_count_as_damage(tmp_path):
    file = tmp_path / "set.npz"
    np.savez(file, a=np.zeros((2, 2), np.float32))
    with pytest.warns(UserWarning, match=r"'a' has shape \(2, 2\) instead of \(2, 3\)"):
        cached_arrays(file, SHAPES, compute)


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be used .* Set data.cache_dir to a folder you may write to"):
        found = cached_arrays(tmp_path / "file" / "set.npz", SHAPES, compute)
    assert np.array_equal(found["a"], VALUES["a"])


def test_a_full_disk_costs_a_warning_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match=r"could not keep .*set\.npz: .*No space left"):
        cached_arrays(tmp_path / "set.npz", SHAPES, compute)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.npz.lock"]


def test_who_comes_second_waits_for_the_first_and_reads(tmp_path):
    calls = []

    def slowly():
        calls.append(1)
        time.sleep(0.3)
        return VALUES

    file = tmp_path / "set.npz"
    threads = [threading.Thread(target=cached_arrays, args=(file, SHAPES, slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_an_error_while_computing_is_the_callers_and_releases_the_lock(tmp_path):
    def fail():
        raise OSError("the solver's own")

    with pytest.raises(OSError, match="the solver's own"):
        cached_arrays(tmp_path / "set.npz", SHAPES, fail)
    cached_arrays(tmp_path / "set.npz", SHAPES, compute)
