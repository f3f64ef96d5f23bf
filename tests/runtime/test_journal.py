import math
import signal
import subprocess
import sys
import time

import pytest

from accelerator.runtime.journal import Journal, read, truncate


def lines(path, start=0, stop=None):
    return [line for line, _ in read(path, start, stop)]


def test_points_and_events_come_back_in_order_with_step_and_utc_milliseconds(tmp_path):
    path = tmp_path / "run" / "journal.jsonl"
    before = int(time.time() * 1000)
    with Journal(path) as journal:
        journal.metric("train/loss", 0.1, 7)
        journal.metrics({"val/loss": 2, 'odd "näme"': 1e-300}, 8)
        journal.event("params", values={"a.b": 1})
        journal.metric("train/loss", -0.0, 9)
    found = lines(path)
    assert [(line.get("key"), line.get("value"), line.get("step")) for line in found] == [
        ("train/loss", 0.1, 7),
        ("val/loss", 2.0, 8),
        ('odd "näme"', 1e-300, 8),
        (None, None, None),
        ("train/loss", -0.0, 9),
    ]
    assert found[3]["event"] == "params"
    assert found[3]["values"] == {"a.b": 1}
    assert all(before <= line["time"] <= time.time() * 1000 for line in found)


def test_values_that_are_not_finite_are_kept(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.metrics({"a": math.nan, "b": math.inf, "c": -math.inf}, 0)
    a, b, c = (line["value"] for line in lines(tmp_path / "j"))
    assert math.isnan(a)
    assert (b, c) == (math.inf, -math.inf)


def test_a_point_waits_in_memory_until_it_is_due(tmp_path):
    path = tmp_path / "j"
    with Journal(path, flush_every=3600) as journal:
        journal.metric("a", 1, 1)
        journal.flush_if_due()
        assert path.stat().st_size == 0
        journal.flush_every = 0
        journal.flush()
        journal.metric("a", 2, 2)
        journal.flush_if_due()
        assert [line["value"] for line in lines(path)] == [1, 2]


def test_an_event_is_on_disk_at_once_and_behind_the_points_before_it(tmp_path):
    with Journal(tmp_path / "j", flush_every=3600) as journal:
        journal.metric("a", 1, 1)
        journal.event("status", value="RUNNING")
        assert [line.get("key", line.get("event")) for line in lines(tmp_path / "j")] == ["a", "status"]


def test_a_value_is_converted_when_it_is_flushed_not_when_it_is_noted(tmp_path):
    converted = []

    class OnDevice:
        def __float__(self):
            converted.append(True)
            return 3.5

    with Journal(tmp_path / "j", flush_every=3600) as journal:
        journal.metric("a", OnDevice(), 1)
        assert not converted
        journal.flush()
    assert [line["value"] for line in lines(tmp_path / "j")] == [3.5]


def test_a_value_that_is_no_number_is_named_and_costs_no_other_point(tmp_path):
    journal = Journal(tmp_path / "j", flush_every=3600)
    journal.metric("a", 1, 1)
    journal.metric("b", "high", 2)
    journal.metric("c", 3, 3)
    with pytest.raises(TypeError, match="metric 'b' at step 2 is 'high', not a number"):
        journal.flush()
    journal.close()
    assert [line["key"] for line in lines(tmp_path / "j")] == ["a", "c"]


def test_truncating_to_a_position_forgets_exactly_what_came_after(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        for step in range(10):
            journal.metric("a", step, step)
        position = journal.position()
        for step in range(10, 20):
            journal.metric("a", step, step)
    assert truncate(path, position) == position == path.stat().st_size
    with Journal(path) as journal:
        journal.metric("a", 10, 10)
        assert journal.position() > position
    assert [line["step"] for line in lines(path)] == list(range(11))


def test_a_torn_last_line_is_cut_before_the_journal_is_continued(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.metric("a", 1, 1)
    with path.open("ab") as file:
        file.write(b'{"key":"a","value":2')
    with Journal(path) as journal:
        journal.metric("a", 3, 3)
    assert [line["step"] for line in lines(path)] == [1, 3]


def test_a_position_behind_the_end_or_inside_a_line_cuts_to_the_last_whole_line(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.metric("a", 1, 1)
        first = journal.position()
        journal.metric("a", 2, 2)
        second = journal.position()
    assert truncate(path, second + 1000) == second
    assert truncate(path, second - 3) == first
    assert truncate(path, first - 1) == 0
    assert truncate(tmp_path / "absent", 10) == 0


def test_a_torn_line_longer_than_a_block_is_found_whole(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.metric("a", 1, 1)
        good = journal.position()
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    assert truncate(path) == good


def test_a_damaged_line_is_passed_over_and_what_is_torn_at_the_stop_is_left_out(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.metric("a", 1, 1)
        middle = journal.position()
        path.open("ab").close()
    with path.open("ab") as file:
        file.write(b"\0\0\0\n[1]\n")
    with Journal(path) as journal:
        journal.metric("a", 2, 2)
    found = list(read(path))
    assert [line and line["step"] for line, _ in found] == [1, None, None, 2]
    assert found[-1][1] == path.stat().st_size
    assert [line["step"] for line in lines(path, stop=path.stat().st_size - 1) if line] == [1]
    assert [line["step"] for line in lines(path, start=middle) if line] == [2]


def test_what_was_flushed_survives_a_kill(tmp_path):
    script = (
        "import os, pathlib, signal, sys\n"
        "from accelerator.runtime.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), flush_every=3600)\n"
        "for step in range(1000): journal.metric('a', step, step)\n"
        "journal.flush()\n"
        "journal.metric('a', 0, 1000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "j")])
    assert done.returncode == -signal.SIGKILL
    assert [line["step"] for line in lines(tmp_path / "j")] == list(range(1000))


def test_the_journal_needs_neither_torch_nor_mlflow():
    script = "import accelerator.runtime.journal, sys; sys.exit(bool({'torch', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
