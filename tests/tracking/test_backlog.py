"""What is left to send is read off the folders, whatever state the runs were left in."""

import json
import time

import pytest
from filelock import FileLock

from accelerator.runtime.journal import Journal
from accelerator.runtime.run_directory import owned
from accelerator.tracking import backlog, spool
from accelerator.tracking.tracker import Tracker

URI = "http://127.0.0.1:9"


def a_run(run_dir, *, points=3, said=(), uri=URI, sent=True, **state):
    """A run's folder: some points, what the run said of itself, and how far its uploader came."""
    with Journal(run_dir / "journal.jsonl") as journal:
        tracker = Tracker(run_dir, journal=journal, uri=uri)
        spool.save(run_dir / spool.SETTINGS, tracker.settings)
        for step in range(points):
            journal.metric("loss", step, step)
        for word in said:
            journal.event("status", value=word)
        end = journal.position() if sent else 0
    if state:
        place = {"offset": end, "tail": spool.tail_of(run_dir / "journal.jsonl", end), "status": (*said, "RUNNING")[0]}
        spool.save(run_dir / spool.STATE, spool.State(uri=uri, run_id="a" * 32, **place | state))
    return run_dir


@pytest.mark.parametrize(
    ("made", "condition", "points", "status"),
    [
        ({"said": ["FINISHED"], "closed": "FINISHED"}, "sent", 0, "FINISHED"),
        ({"said": ["FINISHED"]}, "waiting", 3, "FINISHED"),
        ({"said": ["FINISHED"], "error": "no answer"}, "waiting", 0, "FINISHED"),
        ({"said": ["FAILED"], "sent": False, "error": "no answer"}, "waiting", 3, "FAILED"),
        ({"error": None}, "orphan", 0, "RUNNING"),
        ({}, "orphan", 3, "RUNNING"),
        ({"said": ["FINISHED"], "sent": False, "error": "deleted", "refused": True}, "refused", 3, "FINISHED"),
        ({"said": ["FINISHED", "RUNNING"], "closed": "FINISHED", "sent": False}, "orphan", 3, "RUNNING"),
        ({"said": ["FINISHED"], "closed": "FINISHED", "artifacts": [["a.txt", None]]}, "waiting", 0, "FINISHED"),
    ],
    ids=["all", "nothing", "not_closed", "some", "killed", "killed_early", "refused", "resumed_and_killed", "a_file"],
)
def test_how_a_run_stands_is_told_from_its_folder(tmp_path, made, condition, points, status):
    run = backlog.look(a_run(tmp_path / "run", **made))
    assert (run.condition, run.points, run.status) == (condition, points, status)
    assert run.left == (condition != "sent")


def test_a_run_is_live_while_its_training_or_its_uploader_is_at_work(tmp_path):
    run = a_run(tmp_path / "run")
    with owned(run):
        assert backlog.look(run).condition == "running"
    assert backlog.look(run).condition == "orphan"
    with FileLock(run / spool.LOCK):
        assert backlog.look(run).condition == "running"
        assert not backlog.look(run).left
    assert backlog.look(run).condition == "orphan"


def test_what_was_being_written_when_a_run_was_killed_is_not_waited_for(tmp_path):
    run = a_run(tmp_path / "run", closed="KILLED")
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b'{"key":"loss","va')
    assert backlog.look(run).condition == "sent"
    assert backlog.left_behind(tmp_path / "next", URI) == []


def test_a_journal_that_was_cut_and_continued_is_sent_again(tmp_path):
    run = a_run(tmp_path / "run", said=["FINISHED"], closed="FINISHED", artifacts=[["a.txt", None]])
    state = json.loads((run / spool.STATE).read_text())
    (run / spool.STATE).write_text(json.dumps(state | {"tail": "of another"}))
    found = backlog.look(run)
    assert (found.points, found.files, found.condition) == (3, 0, "waiting")


def test_a_folder_without_a_record_has_nothing_to_say(tmp_path):
    assert backlog.look(tmp_path) is None
    (tmp_path / spool.SETTINGS).write_text("{damaged")
    assert backlog.look(tmp_path) is None


def test_runs_are_found_below_a_folder_a_sweep_before_its_jobs(tmp_path):
    for name in ("2026-11-20/1", "2026-11-21/2", "2026-11-21/2/0", "2026-11-21/2/1", "2026-11-21/2/checkpoints/x"):
        a_run(tmp_path / name)
    a_run(tmp_path / ".hidden" / "run")
    found = [str(path.relative_to(tmp_path)) for path in backlog.below(tmp_path)]
    assert found == ["2026-11-21/2", "2026-11-21/2/1", "2026-11-21/2/0", "2026-11-20/1"]


def test_what_earlier_runs_have_left_is_found_in_the_same_store_only(tmp_path):
    outputs = tmp_path / "outputs"
    mine = a_run(outputs / "2026-11-21" / "9")
    left = [a_run(outputs / "2026-11-21" / "1"), a_run(outputs / "2026-11-20" / "1", said=["FINISHED"], error="away")]
    a_run(outputs / "2026-11-20" / "2", uri="http://127.0.0.1:10")
    a_run(outputs / "2026-11-20" / "3", said=["FINISHED"], closed="FINISHED")
    a_run(outputs / "2026-11-20" / "4", error="deleted", refused=True)
    a_run(tmp_path / "elsewhere")
    with owned(a_run(outputs / "2026-11-20" / "5")):
        assert backlog.left_behind(mine, URI) == left
    (left[0] / "journal.jsonl").unlink()  # nothing of it can be sent any more
    assert backlog.left_behind(mine, URI, most=1) == [outputs / "2026-11-20" / "5"]


def test_outside_of_outputs_runs_in_the_same_folder_are_looked_at(tmp_path):
    left = a_run(tmp_path / "runs" / "1")
    a_run(tmp_path / "runs" / "1" / "part")
    a_run(tmp_path / "other" / "1")
    assert backlog.left_behind(tmp_path / "runs" / "2", URI) == [left]


def test_looking_for_them_ends_when_its_time_is_up(tmp_path, monkeypatch):
    for number in range(5):
        a_run(tmp_path / "outputs" / f"{number}")
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert len(backlog.left_behind(tmp_path / "outputs" / "9", URI, seconds=2)) == 2
