"""``accelerator tracking``, and what ``accelerator train`` says of the record before it trains."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from record_helpers import fresh_store, metric_rows, prepare, query, state_of, status_of, uri_of

from accelerator.cli.app import main
from accelerator.runtime.run_directory import owned
from accelerator.tracking import spool, uploader
from accelerator.tracking.backlog import ROOTS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(uploader, "POLL", 0.01)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def a_run(folder, store, *, points=3, status="FINISHED", **options):
    journal = prepare(folder, store, **options)
    for step in range(points):
        journal.metric("loss", step, step)
    if status:
        journal.event("status", value=status)
    journal.close()
    return folder


def test_what_waits_is_shown_sent_and_then_nothing_is_left(folder, capsys):
    store = fresh_store(folder)
    first = a_run(folder / "outputs" / "day" / "1", store)
    second = a_run(folder / "multirun" / "day" / "2" / "0", store, points=1200, status=None)
    assert main(["tracking", "status"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["run", "state", "last", "said", "points", "left", "files", "left"],
        ["outputs/day/1", "waiting", "FINISHED", "3", "0"],
        ["multirun/day/2/0", "orphan", "RUNNING", "1,200", "0"],
        ["accelerator", "tracking", "sync", "sends", "what", "2", "runs", "left"],
    ]
    assert main(["tracking", "sync"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"arrived  outputs/day/1  3 points sent; run {state_of(first).run_id} is FINISHED",
        f"arrived  multirun/day/2/0  1,200 points sent; run {state_of(second).run_id} is KILLED",
    ]
    assert status_of(store, state_of(second).run_id) == "KILLED"
    assert metric_rows(store, first) == [("loss", step, step) for step in range(3)]
    assert main(["tracking", "sync"]) == 0
    assert capsys.readouterr().out == "nothing is left to send\n"
    assert main(["tracking", "status"]) == 0
    assert capsys.readouterr().out == "nothing is left to send: 2 runs looked at\n"
    # What the upload had to say is in the run's own log.
    assert f"run {state_of(first).run_id} is FINISHED" in (first / spool.LOG).read_text()


def test_a_refused_record_is_told_with_its_remedy_and_holds_no_other_up(folder, capsys):
    from mlflow.tracking.client import MlflowClient

    store = fresh_store(folder)
    client = MlflowClient(uri_of(store))
    client.delete_experiment(client.create_experiment("old"))
    a_run(folder / "outputs" / "2", store, experiment="old")
    good = a_run(folder / "outputs" / "1", store)
    assert main(["tracking", "sync"]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "refused  outputs/2  3 points left; experiment 'old' was deleted in MLflow: restore it with"
    )
    assert said[1] == f"arrived  outputs/1  3 points sent; run {state_of(good).run_id} is FINISHED"
    assert main(["tracking", "status", "--json"]) == 0
    (left,) = json.loads(capsys.readouterr().out)
    assert (left["condition"], left["points"], left["run_id"]) == ("refused", 3, None)
    assert left["run_dir"] == str(folder / "outputs" / "2")
    assert left["error"].startswith("experiment 'old' was deleted")


def test_a_run_at_work_is_left_to_its_own_uploader(folder, capsys):
    run = a_run(folder / "outputs" / "1", "unused.db", status=None)
    with owned(run):
        assert main(["tracking", "status"]) == 0
        assert "running" in capsys.readouterr().out
        assert main(["tracking", "sync", str(run)]) == 0
        assert capsys.readouterr().out == "running  outputs/1  it is running: its own uploader sends it\n"
        assert main(["tracking", "sync"]) == 0
        assert capsys.readouterr().out == "nothing is left to send\n"


def test_another_store_gets_whole_runs_in_numbers_for_programs(folder, capsys):
    store, copy = fresh_store(folder), folder / "copy"
    copy.mkdir()
    run = a_run(folder / "outputs" / "1", store)
    assert main(["tracking", "sync"]) == 0
    capsys.readouterr()
    copied = fresh_store(copy)
    assert main(["tracking", "sync", "outputs", "--uri", uri_of(copied), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["condition"], told["problem"], told["closed"]) == ("sent", None, "FINISHED")
    assert query(copied, "select count(*) from metrics") == query(store, "select count(*) from metrics") == [(3,)]
    assert query(copied, "select run_uuid from runs") == [(told["run_id"],)]
    assert told["uri"] == uri_of(copied)
    # The run is still found by the id it has in its own store, and a second copy is the same run there.
    assert query(store, "select run_uuid from runs") == [(state_of(run).run_id,)]
    assert state_of(run).uri == uri_of(store)
    assert main(["tracking", "sync", "outputs", "--uri", uri_of(copied)]) == 0
    assert query(copied, "select run_uuid from runs") == [(told["run_id"],)]
    assert query(copied, "select count(*) from metrics") == [(3,)]


def test_the_first_store_a_run_reaches_becomes_its_own(folder, capsys):
    run = a_run(folder / "outputs" / "1", folder / "nowhere" / "mlflow.db")
    store = fresh_store(folder)
    assert main(["tracking", "sync", "--uri", uri_of(store)]) == 0
    assert query(store, "select run_uuid from runs") == [(state_of(run).run_id,)]
    assert [path.name for path in run.glob("tracking.state*")] == [spool.STATE]
    assert main(["tracking", "status"]) == 0
    assert "nothing is left to send: 1 run looked at" in capsys.readouterr().out


def test_a_copied_sweep_keeps_its_parts_below_it(folder):
    store, copy = fresh_store(folder), folder / "copy"
    copy.mkdir()
    copied = fresh_store(copy)
    whole = a_run(folder / "studies" / "s" / "1", store)
    part = a_run(folder / "studies" / "s" / "1" / "trials" / "0", store, parent=whole)
    for where, asked in ((store, []), (copied, ["--uri", uri_of(copied)])):
        assert main(["tracking", "sync", str(part), str(whole), *asked]) == 0
        runs = query(where, "select run_uuid from runs order by start_time, run_uuid")
        assert len(runs) == 2
        (found,) = query(where, "select run_uuid, value from tags where key = 'mlflow.parentRunId'")
        assert {(id,) for id in found} == set(runs)
    assert query(store, "select value from tags where key = 'mlflow.parentRunId'") == [(state_of(whole).run_id,)]


def test_runs_of_every_kind_are_looked_for(folder, capsys):
    from accelerator.cli.which_run import PLACES

    runs = ["outputs/d/1", "multirun/d/t/0", "pipelines/p/1", "pipelines/p/1/steps/a/b", "studies/s/1/trials/3"]
    for run in runs:
        a_run(folder / run, "unused.db")
    assert main(["tracking", "status", "--json"]) == 0
    assert {found["run_dir"] for found in json.loads(capsys.readouterr().out)} == {str(folder / run) for run in runs}
    assert {place.split("/")[0] for place in PLACES} == set(ROOTS)


def test_a_store_that_cannot_be_written_is_told_before_anything_is_sent(folder, capsys, monkeypatch):
    store = fresh_store(folder)
    run = a_run(folder / "outputs" / "1", store)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != store and allowed(path, mode))  # root may all
    for asked in (["--uri", uri_of(store)], []):
        assert main(["tracking", "sync", *asked]) == 3
        said = " ".join("".join(capsys.readouterr()).split())
        assert f"the record {store} is read-only; name a store you may write to with --uri, or make" in said
        assert state_of(run) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "nowhere"], "nowhere: no such folder; give a run's folder, or one with runs below it"),
        (["sync", "empty"], "empty holds no run with a record, nor does any folder below it"),
        (["snyc"], "there is no action 'snyc' — did you mean 'sync'?"),
        (["sync", "--url", "x"], "see accelerator tracking"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(folder, capsys, arguments, told):
    (folder / "empty").mkdir()
    assert main(["tracking", *arguments]) == 3
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_looking_imports_neither_mlflow_nor_torch(folder):
    a_run(folder / "outputs" / "1", "unused.db")
    code = (
        "import sys; from accelerator.cli.app import main\n"
        "assert main(['tracking', 'status']) == 0\n"
        "assert not {'mlflow', 'torch', 'hydra', 'requests', 'sqlalchemy'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "waiting" in done.stdout


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tracking.experiment=old", "experiment 'old' was deleted in MLflow: restore it with"),
        (
            "tracking.uri=sqlite:///notes.txt",
            "notes.txt is not a SQLite file; set tracking.uri to a store you may write",
        ),
        ("tracking.uri=./mlruns", "is no store MLflow can write to"),
        (
            "tracking.system_metrics=0.2",
            "tracking.system_metrics=0.2: expected the seconds between two samples, at least 1, or null",
        ),
    ],
)
def test_a_record_that_cannot_be_kept_is_told_before_anything_is_trained(folder, capsys, override, told):
    store = fresh_store(folder)
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(
            "insert into experiments (experiment_id, name, lifecycle_stage) values (5, 'old', 'deleted')"
        )
        connection.commit()
    (folder / "notes.txt").write_text("mine, and not a database")
    before = sorted(path.name for path in folder.iterdir())
    assert main(["train", "data=digits", "model=mlp", "engine.threads=1", override]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert told in said
    assert "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == before  # no folder is left behind
    assert (folder / "notes.txt").read_text() == "mine, and not a database"
