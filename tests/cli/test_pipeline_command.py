"""``accelerator pipeline``: what is run, recorded, printed and refused."""

import json
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from forked_ranks import exit_code
from mlflow.tracking import MlflowClient

import accelerator
from accelerator.cli.app import main
from accelerator.cli.paths import packaged_configs
from accelerator.cli.pipeline.command import run_pipeline
from accelerator.cli.pipeline.config import prepare
from accelerator.cli.pipeline.run import _told, command_of
from accelerator.errors import ConfigError
from accelerator.pipeline.plan import Pipeline, Step
from accelerator.pipeline.process import forked, may_fork, threads
from accelerator.pipeline.run import STOPPED, Execution, Outcome
from accelerator.pipeline.state import Folder
from accelerator.runtime.run_directory import owned
from accelerator.tracking import spool

ROOT = Path(__file__).parents[2]
TOY = """# @package _global_
defaults:
  - override /data: custom
  - override /model: mlp
  - override /multilevel: single
  - override /training_components/transform: none
  - override /metrics: none
imports: [toy_problem]
data: {_target_: toy_problem.plane}
model: {hidden: [4]}
loader: {batch_size: 8}
engine: {threads: 1}
callbacks: {progress: null, pictures: null}
"""
TINY = """# @package _global_
# A line through a plane.
vars: {epochs: 2}
overrides: [experiment=toy]
steps:
  train:
    run: train
    overrides: ["trainer.max_epochs=${vars.epochs}"]
  tune:
    run: train
    load_from: train
    overrides: [optimizer.lr=0.01]
  test:
    run: evaluate
    load_from: tune:last
  out:
    run: export
    load_from: previous
tracking:
  experiment: tiny
  model: []
  system_metrics: null
"""


# One nested run is enough to be looked at.
TYPED = ["train:vars.password=hunter2hunter2", "tune:tracking.enabled=false"]


def write(folder, **pipelines):
    for group, name, text in [("experiment", "toy", TOY), *(("pipeline", *item) for item in pipelines.items())]:
        path = folder / "configs" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module", autouse=True)
def steps_that_are_started_find_the_tests_modules():
    """Where the process has threads of other tests', steps are not forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline that was run once, with its record."""
    folder = tmp_path_factory.mktemp("made")
    write(folder, tiny=TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result = run_pipeline("tiny", TYPED)
    return folder, result


@pytest.fixture
def project(tmp_path, monkeypatch):
    write(tmp_path, tiny=TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def errors_of(capsys, *arguments):
    assert main(["pipeline", *arguments]) == 3
    told = capsys.readouterr().err.splitlines()
    if told[0].startswith("error: "):
        return [told[0].removeprefix("error: ")]
    assert "(--debug shows where it was raised)" not in told, "a mistake in typing says it all"
    return [line.removeprefix("  • ") for line in told[1:]]


def test_every_step_leaves_its_result(made):
    folder, result = made
    assert {name: step["status"] for name, step in result.steps.items()} == dict.fromkeys(
        ("train", "tune", "test", "out"), "done"
    )
    run_dir = folder / "pipelines" / "tiny"
    assert result.run_dir == run_dir
    test = json.loads((run_dir / "test" / "result.json").read_text())["metrics"]
    assert result.metrics["test/test/loss"] == test["test/loss"]
    assert result.metrics["train/test/loss"] > result.metrics["tune/test/loss"] > 0
    assert Path(result.steps["tune"]["made"]).parent.parent == run_dir / "tune"
    sources, inputs = (result.steps["out"]["made"], run_dir / "tune"), torch.ones(2, 3)
    exported, tuned = (accelerator.load_model(source, imports=["toy_problem"]) for source in sources)
    assert torch.equal(exported(inputs), tuned(inputs))
    kept = json.loads((run_dir / "result.json").read_text())
    assert kept["metrics"] == result.metrics
    assert kept["run_id"] == result.run_id
    assert (run_dir / "timeline.png").read_bytes()[:4] == b"\x89PNG"


def test_steps_are_runs_nested_in_the_pipelines(made):
    folder, result = made
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"tiny": "FINISHED", "train": "FINISHED"}
    whole, train = runs["tiny"], runs["train"]
    assert train.data.tags["mlflow.parentRunId"] == whole.info.run_id == result.run_id
    ids = {name: step["run_id"] for name, step in result.steps.items()}
    assert ids == {"train": train.info.run_id, "tune": None, "test": None, "out": None}
    assert whole.data.tags["kind"] == "pipeline"
    assert whole.data.tags["choice.pipeline"] == "tiny"
    assert whole.data.tags["step.out"] == "done"
    assert whole.data.params["vars.epochs"] == "2"
    assert whole.data.metrics["tune/test/loss"] == pytest.approx(result.metrics["tune/test/loss"])
    assert whole.data.metrics["train/seconds"] > 0
    files = {item.path for item in client.list_artifacts(whole.info.run_id)}
    assert {"config.yaml", "composition.yaml", "timeline.png", "out"} <= files


def test_a_secret_reaches_no_file_of_the_pipeline(made):
    folder, _ = made
    holders = [path for path in folder.rglob("*") if path.is_file() and b"hunter2hunter2" in path.read_bytes()]
    assert holders == []


def test_given_again_nothing_runs_and_the_record_goes_on(made, monkeypatch, capsys):
    folder, first = made
    monkeypatch.chdir(folder)
    assert main(["pipeline", "tiny", *TYPED]) == 0
    printed = capsys.readouterr().out
    assert "[1/4] train · done before, and nothing changed" in printed
    assert printed.count("unchanged") == 4
    assert first.run_id in printed, "it has another record than before"


def test_a_plan_is_shown_for_people_and_programs(made, monkeypatch, capsys):
    folder, _ = made
    monkeypatch.chdir(folder)
    assert main(["pipeline", "tiny", *TYPED, "--overrides", "test:evaluate.split=val --plan --json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(step["step"], step["state"], step["reason"]) for step in plan["steps"]] == [
        ("train", "done", ""),
        ("tune", "done", ""),
        ("test", "absent", "its config changed: evaluate.split test → val"),
        ("out", "done", ""),
    ]
    assert main(["pipeline", "tiny", *TYPED, "tune:optimizer.lr=0.02", "--plan"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert lines[1:5] == [
        ["train", "–", "be", "skipped", "done,", "and", "nothing", "changed"],
        ["tune", "train", "run", "its", "config", "changed:", "optimizer.lr", "0.01", "→", "0.02"],
        ["test", "tune", "run", "needs", "tune"],
        ["out", "tune", "run", "needs", "tune"],
    ]
    assert "train: accelerator train" in printed
    (tune,) = (line for line in printed.splitlines() if line.startswith("tune: "))
    assert "optimizer.lr=0.02" in tune
    assert "optimizer.lr=0.01" not in tune, "what a later override makes void is shown"
    assert "'vars.password=***'" in printed


@pytest.mark.slow
def test_for_programs_stdout_has_the_result_and_nothing_else(project, capsys):
    typed = ["--force", "train", "--until", "train", "--json", "--parallel", "2", "tracking=none"]
    assert main(["pipeline", "tiny", *typed]) == 0
    printed = capsys.readouterr()
    steps = json.loads(printed.out)["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {
        **{"train": "done", "tune": "not run"},
        **{"test": "not run", "out": "not run"},
    }
    assert "[1/4] train · forced" in printed.err
    assert "train │ run directory" in printed.err


def test_what_is_planned_can_be_typed(project):
    prepared = prepare("tiny", ["tracking=none", "tracking.uri=sqlite:///a b.db", "tracking.tags={team: x1}"])
    folder = Folder(prepared.run_dir)
    steps = prepared.pipeline.steps
    place = f"{project}/pipelines/tiny"
    shared = [
        "tracking.enabled=false",
        "tracking.uri='sqlite:///a b.db'",
        "tracking.experiment=tiny",
        "tracking.tags={team: x1}",
        "tracking.system_metrics=null",
        "tracking.model=[]",
    ]
    assert command_of(prepared, folder, steps["tune"], begun=False) == [
        *("train", *shared, "tracking.run_name=tune", "optimizer.lr=0.01"),
        *(f"load={place}/train", f"hydra.run.dir={place}/tune", f"tracking.parent={place}"),
    ]
    assert command_of(prepared, folder, steps["tune"], begun=True) == ["train", f"resume={place}/tune"]
    assert command_of(prepared, folder, steps["out"], begun=False) == [
        *("checkpoint", "export", f"{place}/tune", "-o", f"{place}/out/model.safetensors", "--force")
    ]
    assert not (project / "pipelines").exists()


def test_a_project_extends_a_pipeline_and_has_its_own_folder_for_it(project):
    again = "steps: {again: {run: evaluate, load_from: train}}"
    write(project, more=f"# @package _global_\ndefaults: [tiny, _self_]\n{again}\n")
    prepared = prepare("more", ["hydra.run.dir=elsewhere"])
    assert list(prepared.pipeline.steps) == ["train", "tune", "test", "out", "again"]
    assert prepared.run_dir == project / "elsewhere"


def test_all_mistakes_are_told_before_anything_runs(project, capsys):
    assert errors_of(capsys, "tiny", "seed=1", "vars.epcohs=3", "trian:seed=1") == [
        "seed=1: a pipeline has no key 'seed'; to set it in every step write all:seed=1, in one STEP:seed=1",
        "vars.epcohs=3: the pipeline has no such value — did you mean 'epochs'?; to add one, +vars.epcohs=3",
        "trian:seed=1: there is no step 'trian' — did you mean 'train'?",
    ]
    assert errors_of(capsys, "tiny", "tune:optimizer.lrr=2", "train:optimzer.lr=1", "test:seed=x") == [
        "step train: optimzer.lr=1: there is no key 'optimzer.lr' — did you mean 'optimizer.lr'?",
        "step tune: optimizer.lrr: 'Adam' has no such argument — did you mean 'lr'?",
        "step test: seed=x: expected a whole number",
    ]
    write(project, wrong=TINY.replace("run: evaluate", "run: evalaute") + "paralel: 2\n")
    assert errors_of(capsys, "wrong", "tune:optimizer.lrr=2") == [
        "there is no key 'paralel' in a pipeline — did you mean 'parallel'?",
        "steps.test.run=evalaute: there is no such step — did you mean 'evaluate'?",
        "step tune: optimizer.lrr: 'Adam' has no such argument — did you mean 'lr'?",
    ]
    assert errors_of(capsys, "tiny", "--force", "trian", "--until", "tset", "--parallel", "0") == [
        "--force trian: there is no step 'trian' — did you mean 'train'?",
        "--until tset: there is no step 'tset' — did you mean 'test'?",
        "--parallel 0: expected a number of steps, at least 1",
    ]
    assert errors_of(capsys, "tiny", "tracking.uir=x", "tracking.timeout=soon") == [
        "tracking.uir=x: there is no key 'tracking.uir' — did you mean 'tracking.uri'?",
        "tracking.timeout=soon: tracking.timeout: Value 'soon' of type 'str' could not be converted to Float",
    ]
    assert not (project / "pipelines").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tniy"], "there is no pipeline 'tniy' in configs/pipeline/ — did you mean 'tiny'?"),
        (
            ["tiny", "digits"],
            "'digits': one pipeline at a time, and 'tiny' is named; to redo a step of it: --force digits",
        ),
        (["tiny", "--frce"], "there is no flag --frce — did you mean '--force'?; see accelerator pipeline --help"),
        (["tiny", "--overrides", "'x"], '--overrides "\'x" cannot be split as a shell would: No closing quotation'),
        (["no_head"], "configs/pipeline/no_head.yaml does not start with the line '# @package _global_'"),
        (
            ["circle"],
            "steps need one another in a circle, and none can be the first: a → b → a",
        ),
        (
            ["file"],
            "step b: load_from=a, and there Quantize leaves a file for other programs, no network to load; load from "
            "the step before it",
        ),
        (["nothing"], "step b: acceleration=none does nothing: choose acceleration=prune or acceleration=quantize"),
        (["elsewhere"], "step a: load=gone: no such file or folder"),
        (["twice"], "configs/pipeline/twice.yaml, line 4: the key 'a' stands in line 3 already; keep one of the two"),
    ],
)
def test_a_mistake_is_told(project, capsys, arguments, told):
    head = "# @package _global_\n"
    digits = f"{head}overrides: [experiment=digits]\nsteps:\n  t: {{run: train}}\n"
    write(
        project,
        no_head="steps: {a: {run: train}}\n",
        circle=f"{head}steps: {{a: {{run: train, needs: [b]}}, b: {{run: train, load_from: a}}}}\n",
        file=f"{digits}  a: {{run: accelerate, load_from: t, overrides: [acceleration=quantize]}}\n"
        "  b: {run: evaluate, load_from: a}\n",
        nothing=f"{digits}  b: {{run: accelerate, load_from: t}}\n",
        elsewhere=f"{head}steps: {{a: {{run: evaluate, overrides: [load=gone]}}}}\n",
        twice=f"{head}steps:\n  a: {{run: train}}\n  a: {{run: train}}\n",
    )
    assert errors_of(capsys, *arguments) == [told]


@pytest.mark.slow
def test_a_failed_step_ends_the_pipeline_with_its_exit_code(project, capsys):
    data = "[data=arrays, data.path=gone.csv, 'data.inputs=[a]', data.targets=b, model=mlp]"
    write(
        project,
        fails=f"# @package _global_\nsteps:\n  a: {{run: train, overrides: {data}}}\n"
        "  b: {run: evaluate, load_from: a}\ntracking: {enabled: false}\n",
    )
    assert main(["pipeline", "fails"]) == 3
    printed = capsys.readouterr()
    assert "gone.csv" in printed.out, "what the step said is not shown"
    assert "│ a    │ failed: exit code 3 │" in printed.out
    assert "│ b    │ not run: needs a    │" in printed.out
    folder = project / "pipelines" / "fails"
    assert printed.err == (
        f"error: step 'a' failed: exit code 3; what it said is in {folder}/a/output.log. "
        "Mend it and give the same command again: what is done is kept\n"
    )
    assert not (folder / "result.json").exists()


def test_two_pipelines_cannot_share_a_folder(project, capsys):
    with owned(project / "pipelines" / "tiny"):
        (told,) = errors_of(capsys, "tiny", "tracking=none")
    assert "pipelines/tiny is in use by process" in told
    assert told.endswith("wait for it, stop it, or set hydra.run.dir to another folder")


STOPS = [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_stopped_pipeline_says_how_to_go_on(project, number, code):
    typed = ["tracking=none", "vars.epochs=100000", "train:trainer.test=false"]
    said = project / "said"
    pid = forked(lambda: main(["pipeline", "tiny", *typed]), said)
    checkpoints, end = project / "pipelines" / "tiny" / "train" / "checkpoints", time.monotonic() + 60
    while not list(checkpoints.glob("*.json")):
        assert time.monotonic() < end, said.read_text()
        time.sleep(0.02)
    os.kill(pid, number)
    assert exit_code(pid) == code, said.read_text()
    told = said.read_text()
    name = signal.Signals(number).name
    assert f"stopped by {name}; what is done is kept, go on with: accelerator pipeline tiny {' '.join(typed)}" in told
    assert "│ train │ stopped " in told
    assert "saved up to step" in (checkpoints.parent / "output.log").read_text()


def test_a_step_that_was_stopped_has_its_run_in_the_table(tmp_path):
    never = cast("Any", None)
    for name, run_id in (("a", "run-of-a"), ("b", "an-earlier-one")):
        (tmp_path / name).mkdir()
        spool.save(tmp_path / name / spool.STATE, spool.State(run_id=run_id))
    pipeline = Pipeline("p", {name: Step(name, "train") for name in "ab"})
    execution = Execution(pipeline, Folder(tmp_path), never, never, never)
    execution.outcomes["a"] = Outcome(STOPPED, begin=0.0, end=1.0)
    assert {name: step["run_id"] for name, step in _told(execution).steps.items()} == {"a": "run-of-a", "b": None}


def test_the_pipelines_are_listed(project, capsys):
    assert main(["pipeline"]) == 0
    printed = capsys.readouterr().out
    assert "  tiny    A line through a plane.\n" in printed
    assert "  digits  Scanned digits: look at the data, train, prune, fine-tune, quantize, export, test.\n" in printed
    assert main(["pipeline", "tiny", "--help"]) == 0
    assert capsys.readouterr().out == printed


def test_train_knows_where_pipelines_are_run(project, capsys):
    assert main(["train", "pipeline=digits"]) == 3
    assert (
        "pipeline=digits: a pipeline has a command of its own: accelerator pipeline digits" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["model=mlp"], "train"),
        (["pipeline=tiny", "--plan"], "pipeline"),
        (["--overrides", "seed=1 pipeline=tiny"], "pipeline"),
        (["--overrides=pipeline=tiny"], "pipeline"),
        (["vars.pipeline=3"], "train"),
        ([], "train"),
    ],
)
def test_run_pipe_runs_a_pipeline_when_one_is_named(monkeypatch, arguments, command):
    called = []
    monkeypatch.setattr("accelerator.cli.app.main", lambda typed: called.append(typed) or 0)
    monkeypatch.setattr(sys, "argv", ["run_pipe.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "run_pipe.py"), run_name="__main__")
    assert ended.value.code == 0
    assert called == [[command, *arguments]]


@pytest.mark.parametrize("name", sorted(path.stem for path in (packaged_configs() / "pipeline").glob("*.yaml")))
def test_every_packaged_pipeline_composes_and_asks_for_no_gpu(name, tmp_path, monkeypatch):
    """A process that has asked CUDA anything cannot be forked."""
    monkeypatch.chdir(tmp_path)
    for asked in ("is_available", "device_count"):
        monkeypatch.setattr(torch.cuda, asked, lambda: pytest.fail("CUDA was asked"))
    assert prepare(name, []).pipeline.steps


def test_a_process_with_threads_is_not_forked(monkeypatch):
    others, count = threading.active_count() - 1, threading.active_count
    monkeypatch.setattr(threading, "active_count", lambda: count() - others)  # those that other tests left
    known = threads()
    assert may_fork(known)
    assert not may_fork(known - 1)
    wait = threading.Event()
    thread = threading.Thread(target=wait.wait)
    thread.start()
    assert not may_fork(known + 1)
    wait.set()
    thread.join()


def test_overrides_are_a_list():
    with pytest.raises(
        ConfigError, match=r"run_pipeline\('tiny', 'seed=1'\): expected a list of overrides: \['seed=1'\]"
    ):
        run_pipeline("tiny", "seed=1")


@pytest.mark.slow
def test_the_packaged_pipeline_runs_from_data_to_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = run_pipeline("digits", ["all:engine.threads=1"])
    assert {name: step["status"] for name, step in result.steps.items()} == dict.fromkeys(
        ("look", "train", "prune", "tune", "quantize", "export", "test"), "done"
    )
    assert result.metrics["prune/parameters"] < 0.3 * result.metrics["prune/before/parameters"]
    assert result.metrics["prune/val/accuracy"] < 0.9 < 0.95 < result.metrics["test/test/accuracy"]
    assert result.metrics["test/test/accuracy"] == result.metrics["tune/test/accuracy"]
    assert abs(result.metrics["quantize/test/accuracy"] - result.metrics["tune/test/accuracy"]) < 0.01
    assert Path(result.steps["export"]["made"]).name == "digits.onnx"
