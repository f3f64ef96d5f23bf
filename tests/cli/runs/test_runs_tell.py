"""``accelerator runs show|compare``: what is told of one run, and in what several differ."""

import re

from runs_on_record import as_json, mlflow, on_a_terminal, printed


def test_show_tells_the_best_of_a_metric_and_its_step(store, capsys):
    shown = as_json(capsys, "show", "first")
    assert shown["best"] == {"val/loss": {"value": 0.5, "step": 2}, "test/loss": {"value": 0.75, "step": 1}}
    assert shown["params"]["optimizer.lr"] == "0.1"
    assert shown["link"].endswith(f"/runs/{store['first']}?workflowType=machine_learning")
    assert as_json(capsys, "show", "images")["best"]["val/accuracy"] == {"value": 0.8, "step": 2}
    lines = printed(capsys, "show", "images").splitlines()
    assert "error        ValueError: no" in lines
    assert "val/accuracy    0.6   0.8        2" in lines
    folder = next(line for line in printed(capsys, "show", "first").splitlines() if line.startswith("folder"))
    assert folder == "folder       /nowhere/first (not here: removed, or on another machine)"


def test_compare_shows_only_params_that_differ_and_marks_the_best(store, capsys):
    compared = as_json(capsys, "compare", "first", "second")
    assert compared["params"] == {"optimizer.lr": ["0.1", "0.01"]}
    assert compared["best"] == {"test/loss": [store["second"]], "val/loss": [store["second"]]}
    lines = printed(capsys, "compare", "first", "second").splitlines()
    assert next(line for line in lines if line.startswith("config")).split() == ["config", "a" * 12, "b" * 12]
    assert next(line for line in lines if line.startswith("test/loss")).split() == ["test/loss", "0.75", "*0.25"]
    assert not any(line.startswith("trainer.max_epochs") for line in lines)


def test_a_run_without_params_does_not_make_all_others_differ(store, capsys):
    client = mlflow()
    experiment = client.get_experiment_by_name("poisson").experiment_id
    bare = client.create_run(experiment, run_name="bare").info.run_id
    assert as_json(capsys, "compare", bare, "first", "second")["params"] == {"optimizer.lr": [None, "0.1", "0.01"]}


def test_show_lists_the_parts_of_a_run(store, capsys):
    lines = printed(capsys, "show", "sweep").splitlines()
    at = lines.index("runs that are part of it")
    assert [line.split("  ")[1] for line in lines[at + 2 : at + 4]] == ["job 0", "job 1"]
    assert [part["name"] for part in as_json(capsys, "show", "sweep")["parts"]] == ["job 0", "job 1"]


def test_on_a_narrow_terminal_runs_stand_side_by_side_as_far_as_there_is_room(store, capsys, monkeypatch):
    wanted = ("first", "second", "images", "job 0")
    on_a_terminal(monkeypatch, 80)
    lines = [line.rstrip() for line in printed(capsys, "compare", *wanted).splitlines()]
    assert max(map(len, lines)) <= 80
    heads = [line.split() for line in lines if "first" in line or "job 0" in line]
    whole = ["first", "second", "images", "job", "0"]
    assert heads == [["first", "second", "images"], ["job", "0"], whole, whole]  # facts in two parts, params, metrics
    on_a_terminal(monkeypatch, 200)
    assert len(printed(capsys, "compare", *wanted).splitlines()) == len(lines) - 8  # of the second part


def test_no_value_is_cut_on_a_narrow_terminal_and_none_is_folded_where_it_is_piped(store, capsys, monkeypatch):
    layers = f"[{', '.join(['64'] * 60)}]"
    mlflow().log_param(store["first"], "model.hidden", layers)
    mlflow().log_param(store["second"], "model.hidden", "[8]")
    assert layers in printed(capsys, "show", "first")
    assert layers in printed(capsys, "compare", "first", "second")
    on_a_terminal(monkeypatch, 60)
    for arguments in (("show", "first"), ("compare", "first", "second")):
        lines = printed(capsys, *arguments).splitlines()
        table = lines[lines.index("params" if arguments[0] == "show" else "params that differ") :]
        assert max(map(len, table)) <= 60
        assert sum(len(re.findall(r"\b64\b", line)) for line in table) == 60  # not those in an id
