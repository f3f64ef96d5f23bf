import json
import os
import socket
import subprocess
import sys

import pytest

from accelerator.errors import RunDirectoryError
from accelerator.runtime.run_directory import owned

HOLD = """
import sys
from pathlib import Path
from accelerator.runtime.run_directory import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "owned\n"
    return process


def test_the_folder_is_made_and_names_its_owner_while_owned(tmp_path):
    folder = tmp_path / "a" / "b"
    with owned(folder) as given:
        assert given == folder
        assert json.loads((folder / ".owner.json").read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert not (folder / ".owner.json").exists()


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path):
    with (
        owned(tmp_path),
        pytest.raises(RunDirectoryError, match=f"{tmp_path} is in use by process {os.getpid()} on ") as caught,
        owned(tmp_path),
    ):
        pytest.fail("two owners")
    assert caught.value.exit_code == 3
    assert "hydra.run.dir" in str(caught.value)


def test_a_refused_second_owner_takes_nothing_from_the_first(tmp_path):
    with owned(tmp_path):
        with pytest.raises(RunDirectoryError), owned(tmp_path):
            pass
        assert (tmp_path / ".owner.json").exists()
        with pytest.raises(RunDirectoryError), owned(tmp_path):
            pass


def test_another_process_is_refused_until_the_first_is_gone_however_it_went(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(RunDirectoryError, match=f"in use by process {process.pid} on {socket.gethostname()}"):
            owned(tmp_path).__enter__()
    finally:
        process.kill()
        process.communicate()
    with owned(tmp_path):
        assert json.loads((tmp_path / ".owner.json").read_text())["pid"] == os.getpid()


def test_an_owner_that_cannot_be_read_is_another_run(tmp_path):
    with owned(tmp_path):
        (tmp_path / ".owner.json").write_text("{")
        with pytest.raises(RunDirectoryError, match="is in use by another run"), owned(tmp_path):
            pass


def test_the_folder_is_free_again_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), owned(tmp_path):
            raise ZeroDivisionError


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=f"cannot write the run directory {tmp_path}/file/run: Not a directory"):
        owned(tmp_path / "file" / "run").__enter__()
