"""Rows C7, C9, C10 and C11: what the store is told of values, names, steps and times that are out of the ordinary."""

import math
import os
import sqlite3
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from record_helpers import fresh_store, metric_rows, pairs, prepare, query, state_of, status_of

from accelerator.runtime import journal as journals
from accelerator.runtime.journal import truncate
from accelerator.tracking import mlflow_run, uploader
from accelerator.tracking.uploader import DONE, upload


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    before = dict(os.environ)
    yield fresh_store(tmp_path_factory.mktemp("store"))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def no_run_to_adopt(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(uploader, "POLL", 0.01)


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.faults)])
def test_c7_a_locked_database_is_waited_for(tmp_path, store, seconds, record_property):
    with prepare(tmp_path, store, patience=120.0) as journal:
        for step in range(1000):
            journal.metric("loss", step, step)
        journal.event("status", value="FINISHED")
    connection = sqlite3.connect(store, check_same_thread=False, isolation_level=None)
    connection.execute("begin exclusive")
    release = threading.Timer(seconds, connection.rollback)
    release.start()
    begin = time.monotonic()
    assert upload(tmp_path) == DONE
    assert time.monotonic() - begin >= seconds * 0.9
    release.join()
    connection.close()
    assert metric_rows(store, tmp_path) == [("loss", step, step) for step in range(1000)]
    assert status_of(store, state_of(tmp_path).run_id) == "FINISHED"
    record_property("measured", f"locked for {seconds:g} s: 0 of 1,000 points lost")


def test_c9_values_that_are_not_finite_are_kept_and_infinity_is_noted_once(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, math.inf]):
            journal.metric("loss", value, step)
    assert upload(tmp_path) == DONE
    most = 1.7976931348623157e308
    assert [row[2] for row in metric_rows(store, tmp_path)] == [1.0, None, most, -most, most]
    notes = pairs(store, "tags", state_of(tmp_path).run_id)[mlflow_run.NOTES_TAG]
    assert notes == "metric loss was infinite first at step 2; MLflow shows ±1.8e308"


def test_c9_illegal_metric_names_are_mapped_once_told_once_and_never_merged(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        for step in range(3):
            journal.metrics({"a[0]": step, "a(0)": 10 + step, "a_0_": 20 + step}, step)
    assert upload(tmp_path) == DONE
    found = metric_rows(store, tmp_path)
    assert sorted(row[2] for row in found) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert len({row[0] for row in found}) == 3
    assert [row[2] for row in found if row[0] == "a_0_"] == [0, 1, 2]
    notes = pairs(store, "tags", state_of(tmp_path).run_id)[mlflow_run.NOTES_TAG]
    assert notes.count("metric a[0] is logged as a_0_") == 1


def test_c9_a_long_param_is_cut_marked_and_whole_in_the_config(tmp_path, store):
    from accelerator.tracking import bridge

    config = {"data": {"sql": "x" * 20_000, "a[0]": 1}}
    with prepare(tmp_path, store) as journal:
        params, tags = bridge.describe(config, argv=["accelerator", "train"])
        journal.event("params", values=params)
        journal.event("tags", values=tags)
        for path in bridge.write_files(tmp_path / "files", config):
            journal.event("artifact", path=str(path))
    assert upload(tmp_path) == DONE
    run = state_of(tmp_path).run_id
    stored = pairs(store, "params", run)
    assert len(stored["data.sql"]) == 6000
    assert stored["data.sql"].endswith("x … cut: 20000 characters")
    assert stored["data.a_0_"] == "1"
    changed = pairs(store, "tags", run)[bridge.CHANGED_TAG]
    assert "data.a[0] is logged as data.a_0_" in changed
    assert "data.sql is cut from 20000 to 6000 characters" in changed
    assert "x" * 20_000 in (tmp_path / "files" / "config.yaml").read_text()


def test_c9_nothing_a_metric_is_called_or_worth_raises_in_the_loop(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        for key in ("", "a//b", "../up", "ü", "x" * 300, "line\nbreak", "."):
            journal.metric(key, 1.0, 0)
        journal.metrics({"big": 10**300, "true": True, "small": 5e-324, "minus": -math.inf}, -5)
        journal.flush()
    assert upload(tmp_path) == DONE
    rows = metric_rows(store, tmp_path)
    assert [row[2] for row in rows if row[1] == 0] == [1.0] * 7
    assert {row[0]: row[2] for row in rows if row[1] == -5} == {
        "big": 1e300,
        "true": 1.0,
        "small": 5e-324,
        "minus": -1.7976931348623157e308,
    }


def test_c10_steps_journaled_again_after_a_resume_leave_one_row_each(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        for step in range(30):
            journal.metrics({"loss": step, "back[]": -step}, step)
            if step == 9:
                position = journal.position()
    assert upload(tmp_path) == DONE
    run = state_of(tmp_path).run_id
    assert status_of(store, run) == "KILLED"

    truncate(tmp_path / "journal.jsonl", position)
    with prepare(tmp_path, store) as journal:
        for step in range(10, 40):
            journal.metrics({"loss": step, "back[]": -step}, step)
        journal.event("status", value="FINISHED")
    assert upload(tmp_path) == DONE
    assert state_of(tmp_path).run_id == run
    assert metric_rows(store, tmp_path) == [("back__", step, -step) for step in range(40)] + [
        ("loss", step, step) for step in range(40)
    ]
    assert status_of(store, run) == "FINISHED"


def test_c11_a_clock_set_back_and_another_time_zone_change_neither_order_nor_times(tmp_path, store, monkeypatch):
    began = time.time()
    clock = iter([began, began + 1, began - 3600, began - 3599, began + 7200])
    monkeypatch.setattr(journals, "time", lambda: next(clock))
    journal = prepare_without_clock(tmp_path, store, monkeypatch)
    zone = os.environ.get("TZ")
    try:
        for step in range(5):
            os.environ["TZ"] = ("UTC", "Asia/Tokyo", "America/New_York")[step % 3]
            time.tzset()
            journal.metric("loss", 10 - step, step)
        monkeypatch.setattr(journals, "time", time.time)
        journal.event("status", value="FINISHED")
        journal.close()
        # The clock is an hour behind when the run ends.
        os.utime(tmp_path / "journal.jsonl", (began - 3600, began - 3600))
        assert upload(tmp_path) == DONE
    finally:
        with suppress(KeyError):
            del os.environ["TZ"]
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()
    run = state_of(tmp_path).run_id
    assert metric_rows(store, tmp_path) == [("loss", step, 10 - step) for step in range(5)]
    times = query(store, "select timestamp from metrics where run_uuid = ? order by step", run)
    assert [row[0] for row in times] == [
        int(seconds * 1000) for seconds in (began, began + 1, began - 3600, began - 3599, began + 7200)
    ]
    # The last value is that of the last step, whatever the clock said.
    assert query(store, "select step, value from latest_metrics where run_uuid = ?", run) == [(4, 6.0)]
    start, end = query(store, "select start_time, end_time from runs where run_uuid = ?", run)[0]
    assert end >= start
    assert abs(start / 1000 - datetime.now(UTC).timestamp()) < 60


def prepare_without_clock(run_dir, store, monkeypatch):
    """A journal that has been opened by the true clock."""
    with monkeypatch.context() as patch:
        patch.setattr(journals, "time", time.time)
        return prepare(run_dir, store)
