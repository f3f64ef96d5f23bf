"""Text files are written whole or not at all, several of them together."""

import os

import pytest

from accelerator.errors import UserError
from accelerator.utilities.files import write_text, write_together


def left(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def interrupted(monkeypatch, at):
    """Ctrl-C while the file number ``at`` is written."""
    sync, calls = os.fsync, []

    def stopped(file):
        calls.append(file)
        if len(calls) == at:
            raise KeyboardInterrupt
        sync(file)

    monkeypatch.setattr(os, "fsync", stopped)


def test_ctrl_c_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    interrupted(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "new")
    assert left(tmp_path) == {"a.txt": "old"}


def test_several_files_are_written_together(tmp_path):
    write_together({tmp_path / "a.txt": "a", tmp_path / "b/c/d.txt": "d"})
    assert left(tmp_path) == {"a.txt": "a", "b/c/d.txt": "d"}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_of_several_files_ctrl_c_leaves_none_and_what_was_there(tmp_path, monkeypatch, at):
    (tmp_path / "a.txt").write_text("old")
    interrupted(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        write_together({tmp_path / "b/b.txt": "b", tmp_path / "a.txt": "new", tmp_path / "b/c/d.txt": "d"})
    assert left(tmp_path) == {"a.txt": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_way_of_one_keeps_all_from_being_written(tmp_path):
    (tmp_path / "b").write_text("a file")
    with pytest.raises(UserError, match=rf"could not write {tmp_path}/b/c.txt: {tmp_path}/b: File exists"):
        write_together({tmp_path / "a.txt": "a", tmp_path / "b/c.txt": "c"})
    assert left(tmp_path) == {"b": "a file"}
