"""``accelerator runs list|search``: what it finds and prints, which run is meant, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs_on_record import MINUTE, START, as_json, mlflow, on_a_terminal, printed, refused, runs

from accelerator.tracking import spool


def test_help_and_typing_errors_answer_without_mlflow_and_rich():
    code = (
        "import sys\nfrom accelerator.cli.app import main\nmain(['runs', '--help']); main(['runs', 'list', '--help'])\n"
        "import accelerator.tracking.query\n"
        "print({'torch', 'hydra', 'mlflow', 'rich'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "--experiment NAME" in done.stdout


def test_list_shows_the_newest_first_and_parts_below_their_whole(store, capsys):
    lines = printed(capsys, "list").splitlines()
    shown = "id name experiment group status started duration val/loss val/accuracy test/accuracy test/loss"
    assert " ".join(lines[0].split()) == shown
    names = [line[10:].removeprefix("└ ").partition("  ")[0] for line in lines[1:]]
    assert names == ["sweep", "job 0", "job 1", "images", "second", "first"]
    assert [line[10] == "└" for line in lines[1:]] == [False, True, True, False, False, False]
    second = next(line for line in lines if "second" in line).split()
    assert second[:5] == [store["second"][:8], "second", "poisson", "widths", "finished"]
    assert second[-8:] == ["2", "min", "5", "s", "0.4", "–", "–", "0.25"]


def test_list_is_narrowed_by_experiment_group_and_limit(store, capsys):
    assert [run["name"] for run in as_json(capsys, "list", "--experiment", "digits")] == ["images"]
    assert [run["name"] for run in as_json(capsys, "list", "--group", "widths")] == ["second"]
    assert printed(capsys, "list", "--group", "none such").splitlines()[0].endswith("is in the group 'none such'")
    # The sweep is older than the limit; its newest job stands below it all the same.
    shown = printed(capsys, "list", "--limit", 1)
    assert [line.split()[1] for line in shown.splitlines()[1:3]] == ["sweep", "└"]
    assert shown.splitlines()[-1] == "there are more than these 1; --limit 0 shows all"
    assert len(as_json(capsys, "list", "--limit", 0)) == 6


def test_sort_puts_the_best_first_whichever_way_is_good(store, capsys):
    assert [run["name"] for run in as_json(capsys, "list", "--sort", "val/loss")] == [
        "second",
        "job 1",
        "job 0",
        "first",
    ]
    assert [run["name"] for run in as_json(capsys, "list", "--sort", "val/accuracy")] == ["images"]
    assert refused(capsys, "list", "--sort", "val/los") == (
        "--sort val/los: no run has this metric — did you mean 'val/loss'?"
    )


def test_sort_rates_a_run_by_its_best_checkpoint_and_leaves_wholes_out(store, capsys):
    client = mlflow()
    client.log_metric(store["first"], "best/val/loss", 0.001)  # later it got worse: see the one above
    client.set_tag(store["first"], "kind", "train")
    client.log_metric(store["sweep"], "best/val/loss", 0.0005)  # that of its best job
    names = [run["name"] for run in as_json(capsys, "list", "--sort", "val/loss")]
    assert names == ["first", "second", "job 1", "job 0"]
    assert [run["name"] for run in as_json(capsys, "list", "--sort", "val/loss", "--limit", 2)] == names[:2]
    found = as_json(capsys, "search", "attributes.run_name = 'first'", "--sort", "val/loss")
    assert [run["name"] for run in found] == ["first"]
    lines = printed(capsys, "list", "--sort", "val/loss").splitlines()
    assert "best val/loss" in lines[0]
    assert " 0.001 " in f"{lines[1]} "


def test_json_tells_what_programs_need(store, capsys):
    (first,) = as_json(capsys, "search", "attributes.run_name = 'first'")
    assert first == {
        "id": store["first"],
        "name": "first",
        "experiment": "poisson",
        "status": "FINISHED",
        "started": "2026-09-21T14:13:20+00:00",
        "seconds": 5.0,
        "group": None,
        "parent": None,
        "folder": None,
        "config_fingerprint": "a" * 64,
        "config_difference": None,
        "metrics": {"lr": 0.0, "test/loss": 0.75, "val/loss": 0.7},
    }


def test_search_reads_mlflows_filters_and_tells_what_it_cannot_read(store, capsys):
    condition = "metrics.'test/loss' < 0.5 and params.model.name = 'mlp'"
    assert [run["name"] for run in as_json(capsys, "search", condition)] == ["second"]
    assert printed(capsys, "search", "metrics.'test/loss' < 0") == (
        f"no run in sqlite:///{Path.cwd()}/mlflow.db meets metrics.'test/loss' < 0\n"
    )
    for wrong in ("metrics.test/loss < 1", "params.model.name = 'a' or params.model.name = 'b'", "loss"):
        told = refused(capsys, "search", wrong)
        assert told.startswith(f"MLflow does not read the filter {wrong!r}: Invalid ")
        assert told.endswith("; write it as \"metrics.'test/loss' < 0.1 and params.model.name = 'mlp'\"")
    assert refused(capsys, "search", " ") == "the filter is empty; accelerator runs list shows all runs"


def test_runs_are_found_by_id_name_folder_and_last(store, capsys):
    for wanted in (store["first"], store["first"][:6].upper(), "first"):
        assert as_json(capsys, "show", wanted)["id"] == store["first"]
    assert as_json(capsys, "show", "last")["name"] == "sweep"  # a job is a part, not a run of its own
    folder = Path("outputs/a/b")
    folder.mkdir(parents=True)
    spool.save(folder / spool.STATE, spool.State(uri=f"sqlite:///{Path.cwd()}/mlflow.db", run_id=store["second"]))
    assert as_json(capsys, "show", folder)["name"] == "second"


def test_what_is_no_run_is_told_with_what_might_be_meant(store, capsys):
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    what = "accelerator runs list shows what there is"
    assert refused(capsys, "show", "secnd") == f"no run 'secnd' in {uri} — did you mean 'second'?; {what}"
    assert refused(capsys, "show", "abc") == f"no run 'abc' in {uri}; of an id, give at least 6 digits; {what}"
    assert refused(capsys, "show", 'it\'s "x"').startswith("MLflow cannot search for")
    assert (
        refused(capsys, "list", "--experiment", "digit") == f"no experiment 'digit' in {uri} — did you mean 'digits'?"
    )
    assert refused(capsys, "compare", "first") == ("two runs or more are compared; accelerator runs show tells of one")
    assert refused(capsys, "compare", "first", store["first"]) == (
        f"'{store['first']}' and 'first' are the same run, {store['first']}"
    )
    assert refused(capsys, "list", "--limit", "-1") == (
        "argument --limit: expected a whole number, got '-1'; see accelerator runs list --help"
    )
    folder = Path("here")
    folder.mkdir()
    spool.save(folder / spool.STATE, spool.State(uri="http://elsewhere", run_id="0" * 32))
    assert refused(capsys, "show", folder) == (
        f"here: its run {'0' * 32} is not in {uri}: it was recorded in http://elsewhere"
    )


def test_a_name_that_several_runs_share_is_refused_with_all_of_them(store, capsys):
    client = mlflow()
    experiment = client.get_experiment_by_name("poisson").experiment_id
    twin = client.create_run(experiment, run_name="first", start_time=START + 9 * MINUTE).info.run_id
    assert runs("delete", "first", "--yes") == 3
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "error: 'first' may be 2 runs; give the id of one:"
    assert [line.split()[0] for line in told[1:3]] == [twin, store["first"]]


def sweep_job(client, experiment, parent, difference):
    tags = {"mlflow.parentRunId": parent, "config.difference": difference, "kind": "train"}
    made = client.create_run(
        experiment, run_name="cnn on digits of many", start_time=START + 10 * MINUTE, tags=tags
    ).info.run_id
    client.log_metric(made, "val/loss", 0.5)
    client.log_param(made, "checkpoint.monitor", "val/loss")
    return made


def test_on_a_narrow_terminal_one_number_stays_and_ids_and_names_stay_whole(store, capsys, monkeypatch):
    client = mlflow()
    experiment = client.get_experiment_by_name("poisson").experiment_id
    job = sweep_job(client, experiment, store["sweep"], "+ model.hidden: [8]; + optimizer.lr: 0.001")
    on_a_terminal(monkeypatch, 80)
    lines = printed(capsys, "list", "--experiment", "poisson").splitlines()
    row = next(line for line in lines if line.startswith(job[:8]))
    assert row.split("  ")[:2] == [job[:8], "└ cnn on digits of many"]
    assert "hidden=[8] lr=0.001" in row
    assert all(len(line) <= 80 for line in lines[:-1])
    assert row.endswith("  0.5")
    assert lines[-1] == (
        "4 columns do not fit here: group, started, duration, test/loss; accelerator runs list --json has everything"
    )
    on_a_terminal(monkeypatch, 30)
    folded = printed(capsys, "list", "--experiment", "poisson").splitlines()
    assert [line for line in folded if line.startswith(job[:8])]
    assert "many" in "".join(folded[:-1])


def test_list_tells_in_what_runs_of_one_name_differ(store, capsys):
    client = mlflow()
    experiment = client.get_experiment_by_name("poisson").experiment_id
    for text in ("+ model.hidden: [8]; + optimizer.lr: 0.1", "optimizer.lr: 0.1 → 0.2; − model.norm", "none", "a; b"):
        sweep_job(client, experiment, store["sweep"], text)
    sweep_job(client, experiment, store["sweep"], "model.name: a → b; data.name: c → d; + x: " + "y" * 40)
    shown = printed(capsys, "list", "--experiment", "poisson")
    assert "differs by" in shown.splitlines()[0]
    for told in (
        "hidden=[8] lr=0.1 ",
        "lr=0.1→0.2 − norm",
        "none",
        "model.name=a→b data.name=c→d x=yyyyyyyyyyyyyyyy…",
    ):
        assert told in shown


def test_list_tells_what_a_sweep_set_for_a_job_before_what_follows_from_it(store, capsys):
    client = mlflow()
    experiment = client.get_experiment_by_name("poisson").experiment_id
    client.set_tag(store["sweep"], "overrides", "model=mlp,cnn scheduler.eta=1e-3 optimizer.lr=0.1,0.2 data=digits")
    job = sweep_job(client, experiment, store["sweep"], "+ model.hidden: [8]; + model.norm: batch; + optimizer.lr: 0.1")
    client.set_tag(job, "overrides", "model=cnn scheduler.eta=0.001 optimizer.lr=0.1 data=digits")
    (row,) = [line for line in printed(capsys, "list").splitlines() if line.startswith(job[:8])]
    assert "running   model=cnn lr=0.1  " in row


def test_a_wholes_metrics_are_not_taken_for_those_of_a_test(store, capsys):
    client = mlflow()
    experiment = client.get_experiment_by_name("digits").experiment_id
    whole = client.create_run(experiment, run_name="steps", tags={"kind": "pipeline"}).info.run_id
    client.log_metric(whole, "test/seconds", 4.0)
    client.log_metric(whole, "test/accuracy", 0.125)
    lines = printed(capsys, "list", "--experiment", "digits").splitlines()
    assert "test/seconds" not in lines[0]
    assert not any("0.125" in line for line in lines)
    assert "0.125" in printed(capsys, "list", "--experiment", "digits", "--sort", "test/accuracy")


def test_sort_shows_its_metric_first(store, capsys):
    lines = printed(capsys, "list", "--experiment", "poisson", "--sort", "lr").splitlines()
    assert lines[0].split()[-3:] == ["lr", "val/loss", "test/loss"]
    assert [line.split()[-3] for line in lines[1:]] == ["0", "0"]


def test_search_takes_a_status_in_any_case_and_knows_names_that_nobody_has(store, capsys):
    assert [run["name"] for run in as_json(capsys, "search", "attributes.status = 'failed'")] == ["images"]
    assert len(as_json(capsys, "search", "status != 'failed'")) == 5
    told = printed(capsys, "search", "metrics.'test/los' < 1 and params.model.nam = 'mlp' and tags.kind = 'sweep'")
    assert told.splitlines()[1:] == [
        "no run has a metric 'test/los' — did you mean 'test/loss'?",
        "no run has a param 'model.nam' — did you mean 'model.name'?",
    ]
    told = printed(capsys, "search", "attributes.status = 'finishd'").splitlines()
    assert told[1:] == ["no run has the status 'FINISHD' — did you mean 'FINISHED'?"]


def test_a_record_that_waits_is_pointed_to_where_there_is_no_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "outputs" / "day" / "a"
    folder.mkdir(parents=True)
    spool.save(
        folder / spool.SETTINGS, spool.Settings("sqlite:///x.db", "e", None, None, "journal.jsonl", "k", START, 1.0)
    )
    (folder / "journal.jsonl").write_text('{"event":"status","value":"FINISHED","time":1}\n')
    assert refused(capsys, "list").endswith("; the record of 1 run here waits to be sent: accelerator tracking sync")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            None,
            "there is no store {}: no run was recorded here yet (accelerator train makes one), or it is elsewhere: "
            "name it with --uri or MLFLOW_TRACKING_URI",
        ),
        (b"", "{} is a SQLite file, but not MLflow's: there is no table of runs in it"),
        (b"no database" * 99, "the store {} cannot be read: file is not a database"),
    ],
)
def test_a_store_that_is_not_there_is_told_and_not_made(content, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "mlflow.db"
    if content is not None:
        file.write_bytes(content)
    assert refused(capsys, "list") == told.format(file)
    assert (file.read_bytes() if file.exists() else None) == content


def test_an_empty_store_and_a_server_that_does_not_answer_are_told(made, store, capsys, monkeypatch):
    client = mlflow()
    for id in store.values():
        client.delete_run(id)
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    assert refused(capsys, "list") == f"{uri} holds no runs yet: accelerator train makes one"
    assert refused(capsys, "show", "last") == f"{uri} holds no runs yet: accelerator train makes one"
    # A port that nobody can listen on.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2hunter2@127.0.0.1:1")
    assert refused(capsys, "list") == (
        "http://127.0.0.1:1 does not answer (Connection refused): start it, or name another store with --uri or "
        "MLFLOW_TRACKING_URI"
    )


def test_a_name_cannot_move_the_cursor_or_colour_the_terminal(store, capsys):
    client = mlflow()
    experiment = client.get_experiment_by_name("poisson").experiment_id
    client.create_run(experiment, run_name="\x1b[31mred[bold]x[/bold]", start_time=START + 9 * MINUTE)
    shown = printed(capsys, "list", "--limit", 1)
    assert "\x1b" not in shown
    assert "\N{REPLACEMENT CHARACTER}[31mred[bold]x[/bold]" in shown
