"""Row B10: a second run in the folder of another is refused, is told whose it is, and takes nothing from it."""

import socket

import pytest
from command_runs import command, said_in, start_with, wait_for, whole_run
from forked_ranks import exit_code
from forked_runs import differences, outcome

from accelerator.cli.app import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("b10") / "whole")


def test_b10_the_second_is_refused_and_the_owner_named(tmp_path, whole, capsys):
    folder, here, go = tmp_path / "run", tmp_path / "here", tmp_path / "go"

    def wait():
        here.touch()
        wait_for(go)

    pid = start_with({"after_backward": (2, wait)}, folder)
    wait_for(here)
    for second in (lambda: command(folder), lambda: main(["train", f"resume={folder}"])):
        assert second() == 3
        said = capsys.readouterr().err
        assert f"{folder} is in use by process {pid} on {socket.gethostname()}; wait for it" in said.replace("\n", " ")
        assert "Traceback" not in said
    go.touch()
    assert exit_code(pid) == 0, said_in(folder).read_text()
    assert differences(outcome(folder), whole) == []


@pytest.mark.parametrize("runs", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_b10_of_two_that_start_together_one_trains(tmp_path, whole, runs):
    for number in range(runs):
        folder = tmp_path / f"run-{number}"
        pids = [start_with({}, folder) for _ in range(2)]
        assert sorted(exit_code(pid) for pid in pids) == [0, 3], said_in(folder).read_text()
        assert differences(outcome(folder), whole) == []
