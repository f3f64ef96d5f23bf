import math
import os
from pathlib import Path

import pytest
from filelock import FileLock
from record_helpers import metric_rows, pairs, prepare, query, state_of, status_of, uri_of

from accelerator.runtime.journal import Journal, truncate
from accelerator.tracking import mlflow_run, spool, uploader
from accelerator.tracking.uploader import DONE, LATER, REFUSED, upload

# Inside this process MLflow's own warnings would be errors; ours still are.


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for all: making it takes a second. Every test has a run of its own."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("store")
    journal = prepare(folder / "run", folder / "mlflow.db")
    journal.close()
    (folder / "mlflow.db.new").write_bytes(b"left by one that was killed while it made the database")
    assert upload(folder / "run") == DONE
    yield folder / "mlflow.db"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def client(store):
    from mlflow.tracking.client import MlflowClient

    return MlflowClient(uri_of(store))


@pytest.fixture(autouse=True)
def no_run_to_adopt(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(uploader, "POLL", 0.01)


def test_everything_journaled_arrives_with_its_exact_value(tmp_path, store):
    journal = prepare(tmp_path, store, run_name="first light", experiment="digits")
    params = {f"section.key{number}": number * 0.1 for number in range(250)}
    journal.event("params", values=params)
    journal.event("tags", values={f"tag {number}": "x" for number in range(120)})
    for step in range(2500):
        journal.metrics({"train/loss": 1 / (step + 1), "lr": 1e-3}, step)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("a: 1\n")
    journal.event("artifact", path="out/config.yaml")
    journal.event("artifact", path=str(tmp_path / "out"), artifact_path="whole folder")
    journal.event("status", value="FINISHED")
    journal.close()
    assert upload(tmp_path) == DONE

    run = state_of(tmp_path).run_id
    expected = [("lr", step, 1e-3) for step in range(2500)] + [
        ("train/loss", step, 1 / (step + 1)) for step in range(2500)
    ]
    assert metric_rows(store, tmp_path) == expected
    assert pairs(store, "params", run) == {key: str(value) for key, value in params.items()}
    assert sum(key.startswith("tag ") for key in pairs(store, "tags", run)) == 120
    name, status, start, end, artifacts, experiment = query(
        store,
        "select r.name, r.status, r.start_time, r.end_time, r.artifact_uri, e.name"
        " from runs r join experiments e using (experiment_id) where run_uuid = ?",
        run,
    )[0]
    assert (name, status, experiment) == ("first light", "FINISHED", "digits")
    assert start <= end == int((tmp_path / "journal.jsonl").stat().st_mtime * 1000)
    assert Path(artifacts).parent.parent == store.parent / "mlartifacts"
    assert (Path(artifacts) / "config.yaml").read_text() == "a: 1\n"
    assert (Path(artifacts) / "whole folder" / "config.yaml").exists()
    times = query(store, "select min(timestamp), max(timestamp) from metrics where run_uuid = ?", run)[0]
    assert start <= times[0] <= times[1] <= end


def test_what_mlflow_refuses_is_noted_and_holds_nothing_up(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        journal.event("params", values={"long": "x" * 20_000, "a[1]": 1, "twice": 1})
        journal.event("params", values={"twice": 2, "more": 3})
        (tmp_path / "f.txt").write_text("f")
        journal.event("artifact", path="f.txt", artifact_path="../outside")
        journal.event("artifact", path="gone.txt")
        journal.event("invented", what=1)
        journal.metric("loss", 1, 1)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b"not json\n")
    assert upload(tmp_path) == DONE
    run = state_of(tmp_path).run_id
    params = pairs(store, "params", run)
    assert len(params["long"]) == 6000
    assert (params["a_1_"], params["twice"], params["more"]) == ("1", "1", "3")
    assert metric_rows(store, tmp_path) == [("loss", 1, 1.0)]
    notes = pairs(store, "tags", run)[mlflow_run.NOTES_TAG]
    for part in ("param twice was refused", "f.txt was refused", "gone.txt was gone", "invented", "damaged line"):
        assert part in notes
    assert not (store.parent / "mlartifacts" / run / "outside").exists()


@pytest.mark.parametrize(
    ("told", "status"),
    [(["FAILED"], "FAILED"), ([], "KILLED"), (["FINISHED", "RUNNING"], "KILLED"), (["KILLED"], "KILLED")],
)
def test_the_run_ends_as_the_journal_says_and_as_killed_where_it_says_nothing(tmp_path, store, told, status):
    with prepare(tmp_path, store) as journal:
        for word in told:
            journal.event("status", value=word)
    assert upload(tmp_path) == DONE
    assert status_of(store, state_of(tmp_path).run_id) == status


@pytest.mark.parametrize("lost", [[], [spool.STATE]])
def test_uploading_again_adds_nothing(tmp_path, store, lost):
    with prepare(tmp_path, store) as journal:
        journal.event("params", values={"a": 1})
        for step in range(50):
            journal.metric("loss", step, step)
        journal.event("status", value="FINISHED")
    assert upload(tmp_path) == DONE
    run, before = state_of(tmp_path).run_id, metric_rows(store, tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    assert upload(tmp_path) == DONE
    assert state_of(tmp_path).run_id == run
    assert metric_rows(store, tmp_path) == before
    assert status_of(store, run) == "FINISHED"


@pytest.mark.parametrize("cut", [False, True])
def test_a_batch_whose_arrival_was_never_noted_is_not_doubled(tmp_path, store, cut):
    with prepare(tmp_path, store) as journal:
        journal.flush()
    assert upload(tmp_path) == DONE
    before = state_of(tmp_path)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.metric("loss", 0, 0)
        position = journal.position()
        journal.metrics({"loss": 1, "nan": math.nan, "inf": math.inf}, 1)
    assert upload(tmp_path) == DONE
    before.sending = True  # as the uploader leaves it when it dies while a batch is under way
    spool.save(tmp_path / spool.STATE, before)
    if cut:
        truncate(tmp_path / "journal.jsonl", position)
        with Journal(tmp_path / "journal.jsonl") as journal:
            journal.metrics({"loss": 1, "nan": math.nan, "inf": math.inf}, 1)
    assert upload(tmp_path) == DONE
    assert [row[:2] for row in metric_rows(store, tmp_path)] == [("inf", 1), ("loss", 0), ("loss", 1), ("nan", 1)]


def test_a_batch_that_arrived_though_the_answer_was_lost_is_not_doubled(tmp_path, store, monkeypatch):
    from mlflow.tracking.client import MlflowClient

    log_batch, losses = MlflowClient.log_batch, []

    def lossy(self, run_id, **batch):
        log_batch(self, run_id, **batch)
        if batch.get("metrics") and len(losses) < 3:
            losses.append(len(batch["metrics"]))
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", lossy)
    with prepare(tmp_path, store, patience=60) as journal:
        for step in range(100):
            journal.metrics({"loss": step, "nan": math.nan}, step)
    assert upload(tmp_path) == DONE
    assert losses == [200, 200, 200]
    assert [row[:2] for row in metric_rows(store, tmp_path)] == [
        (key, step) for key in ("loss", "nan") for step in range(100)
    ]


def test_a_run_made_though_the_answer_was_lost_is_found_again(tmp_path, store, monkeypatch):
    from mlflow.tracking.client import MlflowClient

    create_run, made = MlflowClient.create_run, []

    def lossy(self, *args, **kwargs):
        made.append(create_run(self, *args, **kwargs).info.run_id)
        raise ConnectionError("the answer was lost")

    class AtItsEnd(uploader.Lifeline):
        """A training that followed its first uploader, and is over."""

        def __init__(self):
            self.parent, self.cut = os.getppid(), True

    monkeypatch.setattr(MlflowClient, "create_run", lossy)
    prepare(tmp_path, store, patience=60).close()
    settings = spool.load(tmp_path / spool.SETTINGS, spool.Settings)
    assert uploader.Uploader(tmp_path, settings, settings.uri, AtItsEnd()).upload() == DONE
    assert [state_of(tmp_path).run_id] == made


def test_another_value_of_a_param_after_a_resume_is_a_tag(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        journal.event("params", values={"epochs": 5, "lr": 0.1})
    assert upload(tmp_path) == DONE
    with prepare(tmp_path, store) as journal:
        journal.event("params", values={"epochs": 10, "lr": 0.1, "new": 1})
    assert upload(tmp_path) == DONE
    run = state_of(tmp_path).run_id
    assert pairs(store, "params", run) == {"epochs": "5", "lr": "0.1", "new": "1"}
    assert {key: text for key, text in pairs(store, "tags", run).items() if key.startswith("changed")} == {
        "changed.epochs": "10"
    }


def test_a_run_deleted_in_mlflow_is_made_anew_and_whole(tmp_path, store, client):
    with prepare(tmp_path, store) as journal:
        journal.metric("loss[]", 1, 1)
        journal.metric("loss[]", math.inf, 2)
    assert upload(tmp_path) == DONE
    first = state_of(tmp_path).run_id
    client.delete_run(first)
    with prepare(tmp_path, store) as journal:
        journal.metric("loss[]", 3, 3)
    assert upload(tmp_path) == DONE
    assert state_of(tmp_path).run_id != first
    assert [row[:2] for row in metric_rows(store, tmp_path)] == [("loss__", 1), ("loss__", 2), ("loss__", 3)]
    assert "infinite" in pairs(store, "tags", state_of(tmp_path).run_id)[mlflow_run.NOTES_TAG]


def test_a_run_deleted_while_it_is_written_to_ends_the_upload_in_a_sentence(tmp_path, store, monkeypatch):
    log_params = mlflow_run.MlflowRun.log_params

    def delete_first(self, values):
        self.client.delete_run(self.run_id)
        log_params(self, values)

    monkeypatch.setattr(mlflow_run.MlflowRun, "log_params", delete_first)
    with prepare(tmp_path, store) as journal:
        journal.event("params", values={"a": 1, "b": 2})
    assert upload(tmp_path) == REFUSED
    assert "was deleted in MLflow; restore it there" in state_of(tmp_path).error


def test_a_deleted_experiment_ends_the_upload_in_a_sentence(tmp_path, store, client):
    number = client.create_experiment("forgotten")
    client.delete_experiment(number)
    prepare(tmp_path, store, experiment="forgotten").close()
    assert upload(tmp_path) == REFUSED
    assert state_of(tmp_path).error == (
        f"experiment 'forgotten' was deleted in MLflow: restore it with `MLFLOW_TRACKING_URI={uri_of(store)} mlflow "
        f"experiments restore --experiment-id {number}`, or choose another name with tracking.experiment"
    )
    assert state_of(tmp_path).refused
    client.restore_experiment(number)
    assert upload(tmp_path) == DONE
    assert not state_of(tmp_path).refused


def test_under_mlflow_run_the_run_it_made_is_written_to(tmp_path, store, client, monkeypatch):
    number = client.create_experiment("project")
    made = client.create_run(number, tags={"mlflow.source.type": "PROJECT"}, run_name="by project")
    client.log_param(made.info.run_id, "overrides", "lr=1")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with prepare(tmp_path, store, experiment="another") as journal:
        journal.event("params", values={"lr": 1, "overrides": "else"})
        journal.event("tags", values={"mlflow.source.type": "LOCAL", "seed": 1})
        journal.metric("loss", 1, 1)
        journal.event("status", value="FINISHED")
    assert upload(tmp_path) == DONE
    state = state_of(tmp_path)
    assert (state.run_id, state.experiment_id) == (made.info.run_id, number)
    assert query(store, "select name from experiments where name = 'another'") == []
    assert pairs(store, "params", state.run_id) == {"overrides": "lr=1", "lr": "1"}
    tags = pairs(store, "tags", state.run_id)
    assert (tags["mlflow.source.type"], tags["seed"], tags["mlflow.runName"]) == ("PROJECT", "1", "by project")
    assert metric_rows(store, tmp_path) == [("loss", 1, 1)]


def test_a_run_to_adopt_that_is_not_there_ends_the_upload_in_a_sentence(tmp_path, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    prepare(tmp_path, store).close()
    assert upload(tmp_path) == REFUSED
    assert f"run {'0' * 32}, named by MLFLOW_RUN_ID, is not in sqlite:///" in state_of(tmp_path).error


def test_files_that_cannot_be_copied_hold_no_metrics_up_and_follow_later(tmp_path, store, monkeypatch):
    from mlflow.tracking.client import MlflowClient

    with prepare(tmp_path, store) as journal:
        (tmp_path / "f.txt").write_text("f")
        journal.event("artifact", path="f.txt")
        journal.metric("loss", 1, 1)
        journal.event("status", value="FINISHED")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
        assert upload(tmp_path) == LATER
    assert metric_rows(store, tmp_path) == [("loss", 1, 1)]
    assert "disk full" in state_of(tmp_path).error
    assert upload(tmp_path) == DONE
    run = state_of(tmp_path).run_id
    assert (store.parent / "mlartifacts" / run / "artifacts" / "f.txt").read_text() == "f"
    assert state_of(tmp_path).error is None


def test_a_database_is_opened_by_one_process_at_a_time(tmp_path, store, monkeypatch):
    monkeypatch.setattr(mlflow_run, "DATABASE_LOCK_TIMEOUT", 0.05)
    prepare(tmp_path, store).close()
    with FileLock(f"{store}.lock"):
        assert upload(tmp_path) == LATER
    assert "mlflow.db.lock" in state_of(tmp_path).error
    assert upload(tmp_path) == DONE


def test_two_uploaders_do_not_work_on_one_run(tmp_path, store, capfd):
    prepare(tmp_path, store).close()
    with FileLock(tmp_path / spool.LOCK):
        assert upload(tmp_path) == LATER
    assert "another uploader is at work" in capfd.readouterr().out


def test_a_journal_cut_under_the_uploader_is_left_to_its_successor(tmp_path, store):
    with prepare(tmp_path, store) as journal:
        journal.metric("loss", 1, 1)
    settings = spool.load(tmp_path / spool.SETTINGS, spool.Settings)
    first = uploader.Uploader(tmp_path, settings, settings.uri, uploader.Lifeline(None))
    first.run = first._connect(search=False)
    first._drain(first.run)
    truncate(tmp_path / "journal.jsonl", 0)
    with pytest.raises(uploader.JournalCutError, match="another process has resumed this run"):
        first._drain(first.run)


@pytest.mark.parametrize(("uri", "told"), [("./mlruns", "is no store"), (None, "tracking.json is missing")])
def test_a_directory_or_store_that_cannot_be_meant_is_told(tmp_path, uri, told, store, capfd):
    if uri:
        prepare(tmp_path, store).close()
    assert upload(tmp_path, uri) == REFUSED
    assert told in capfd.readouterr().out
