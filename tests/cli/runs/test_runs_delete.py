"""``accelerator runs delete``: what goes, what stays, and what it refuses."""

from pathlib import Path

from runs_on_record import as_json, mlflow, printed, refused, runs

from accelerator.tracking import spool


def test_delete_asks_on_a_terminal_only_and_tells_how_to_restore(store, capsys, monkeypatch):
    assert refused(capsys, "delete", "first") == (
        "nothing was deleted: there is no terminal to ask on; --yes deletes without asking"
    )
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code, left in (("", 3, 6), ("no", 3, 6), ("y", 0, 5)):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        assert runs("delete", "first") == code
        assert len(as_json_after(capsys, "list")) == left
    client = mlflow()
    assert client.get_run(store["first"]).info.lifecycle_stage == "deleted"
    client.restore_run(store["first"])
    assert len(as_json(capsys, "list")) == 6
    assert printed(capsys, "delete", "first", "--yes").splitlines()[-2:] == [
        f"deleted 1 run; to restore, with MLFLOW_TRACKING_URI=sqlite:///{Path.cwd()}/mlflow.db:",
        f"  mlflow runs restore --run-id {store['first']}",
    ]


def test_delete_leaves_parts_alone_unless_told(store, capsys):
    shown = printed(capsys, "delete", "sweep", "--yes")
    assert "2 runs that are part of them stay (--nested)" in shown
    assert {run["name"] for run in as_json(capsys, "list")} == {"first", "second", "images", "job 0", "job 1"}
    client = mlflow()
    client.restore_run(store["sweep"])
    shown = printed(capsys, "delete", "sweep", "--nested", "--yes")
    assert [name in shown for name in ("sweep", "job 0", "job 1", "first")] == [True, True, True, False]
    assert {run["name"] for run in as_json(capsys, "list")} == {"first", "second", "images"}


def test_delete_removes_files_and_folder_of_what_it_showed_and_nothing_else(store, capsys):
    here = Path.cwd()
    client = mlflow()
    experiment = client.create_experiment("files", artifact_location=str(here / "kept"))
    ids = [client.create_run(experiment, run_name=name).info.run_id for name in ("gone", "stays")]
    for id, name in zip(ids, ("gone", "stays"), strict=True):
        folder = here / name
        folder.mkdir()
        (folder / "weights").write_text("x")
        spool.save(folder / spool.STATE, spool.State(run_id=id))
        client.set_tag(id, "run_dir", str(folder))
        client.log_text(id, "text", "note.txt")
    # A tag is anybody's to write: this one names another run's folder.
    client.set_tag(store["second"], "run_dir", str(here / "stays"))
    shown = printed(capsys, "delete", "gone", "second", "--artifacts", "--folder", "--yes")
    assert f"for good: {here / 'kept' / ids[0] / 'artifacts'}" in shown
    assert "for good: gone, checkpoints and all" in shown
    assert f"no folder here: {store['second'][:8]} second" in shown
    assert not (here / "gone").exists()
    assert not (here / "kept" / ids[0] / "artifacts").exists()
    assert (here / "stays" / "weights").exists()
    assert (here / "kept" / ids[1] / "artifacts" / "note.txt").exists()


def test_delete_does_not_take_a_servers_word_for_where_files_are(store, capsys):
    import sqlite3

    here = Path.cwd()
    (here / "precious").mkdir()
    (here / "precious" / "file").write_text("x")
    with sqlite3.connect("mlflow.db") as database:
        database.execute("UPDATE runs SET artifact_uri = ? WHERE name = 'first'", (str(here / "precious"),))
    assert refused(capsys, "delete", "first", "--artifacts", "--yes") == (
        f"run {store['first']} keeps its files in {here}/precious, not in a folder of its own: remove them there"
    )
    assert (here / "precious" / "file").exists()
    assert len(as_json(capsys, "list")) == 6


def test_delete_keeps_out_of_a_folder_that_a_run_works_in(store, capsys):
    from accelerator.runtime.run_directory import owned

    folder = Path.cwd() / "busy"
    with owned(folder):
        spool.save(folder / spool.STATE, spool.State(run_id=store["first"]))
        client = mlflow()
        client.set_tag(store["first"], "run_dir", str(folder))
        assert "is in use by process" in refused(capsys, "delete", "first", "--folder", "--yes")
    assert {run["name"] for run in as_json(capsys, "list")} >= {"first"}


def as_json_after(capsys, *arguments):
    capsys.readouterr()
    return as_json(capsys, *arguments)
