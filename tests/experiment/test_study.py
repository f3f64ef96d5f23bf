import json

import pytest
import yaml
from mlflow.tracking import MlflowClient
from train_functions import parabola

from accelerator.cli.app import main
from accelerator.errors import ConfigError
from accelerator.experiment import Experiment, ExperimentConfig, MLflowConfig, TrainingResult, TuningConfig
from accelerator.tuning.base import State, StudyError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def experiment(function=parabola, tracked=False, steps=4, **tuning):
    options = {"n_trials": 6, "space": {"x": {"uniform": [0, 4]}}, "sampler": "random", "pruner": "none"} | tuning
    return Experiment(
        function,
        ExperimentConfig(
            name="heights",
            hyperparameters={"x": 9.0, "steps": steps},
            tuning=TuningConfig(**options),
            mlflow=MLflowConfig(enabled=tracked),
        ),
    )


def test_the_best_of_a_grid_is_found_and_its_config_reproduces_it(folder):
    study = experiment(sampler="grid", n_trials=5, space={"x": {"choice": [0, 1, 2, 3, 4]}}).tune()
    assert [outcome.scores for outcome in study.outcomes] == [[4.125], [1.125], [0.125], [1.125], [4.125]]
    assert (study.best.number, study.hyperparameters) == (2, {"x": 2, "steps": 4})
    best = yaml.safe_load((folder / "studies" / "heights" / "best.yaml").read_text())
    assert best == {"experiment": {"name": "heights", "seed": 0}, "hyperparameters": {"x": 2, "steps": 4}}
    result = json.loads((folder / "studies" / "heights" / "2" / "result.json").read_text())
    assert result["primary_metric"] == 0.125
    assert (folder / "studies" / "heights" / "2" / "checkpoints" / "x.txt").read_text() == "2"


def test_a_study_goes_on_and_is_refused_when_it_is_another():
    first = experiment(n_trials=3).tune()
    more = experiment(n_trials=5).tune()
    assert [outcome.values for outcome in more.outcomes[:3]] == [outcome.values for outcome in first.outcomes]
    assert len(more.outcomes) == 5
    assert [outcome.values for outcome in experiment(n_trials=5).tune().outcomes] == [o.values for o in more.outcomes]
    with pytest.raises(ConfigError, match=r"x was .*, is now .*"):
        experiment(space={"x": {"uniform": [0, 5]}}).tune()
    with pytest.raises(ConfigError, match=r"hyperparameters.steps was 4, is now 3(.|\n)*tuning.name=<name>"):
        experiment(steps=3).tune()
    assert len(experiment(n_trials=5).tune().outcomes) == 5


def test_a_trial_that_raises_fails_alone_and_one_that_says_so_is_pruned(folder):
    def fragile(ctx):
        x = ctx.hyperparameters["x"]
        if x == 1:
            raise RuntimeError("boom")
        for step in range(6):
            ctx.report(x, step)
            if ctx.should_stop:
                break
        return TrainingResult(float("nan") if x == 3 else x, epochs_completed=step + 1)

    pruner = {"name": "threshold", "upper": 3.5}
    study = experiment(fragile, sampler="grid", n_trials=5, pruner=pruner, space={"x": {"choice": [0, 1, 2, 3, 4]}})
    outcomes = study.tune().outcomes
    assert [str(outcome.state) for outcome in outcomes] == ["complete", "failed", "complete", "failed", "pruned"]
    assert outcomes[1].error == "RuntimeError: boom"
    assert "primary_metric=nan" in outcomes[3].error
    assert json.loads((folder / "studies" / "heights" / "4" / "result.json").read_text())["epochs_completed"] == 1


def test_a_study_without_a_result_says_why():
    def failing(ctx):
        raise RuntimeError("boom")

    with pytest.raises(StudyError, match="study heights: no trial has run to its end; trial 0: RuntimeError: boom"):
        experiment(failing, n_trials=2).tune()
    with pytest.raises(ConfigError, match="tuning.direction=maximize, and the function returned minimize=True"):
        experiment(direction="maximize", name="other", n_trials=1).tune()


@pytest.mark.parametrize(
    ("tuning", "told"),
    [
        ({"space": {}}, "tuning.space is empty"),
        ({"space": {"x": {"log_uniform": [0, 1]}}}, "tuning.space.x"),
        ({"sampler": "tpee"}, "tuning.sampler.name=tpee: there is none of that name — did you mean 'tpe'?"),
        ({"name": "a/b"}, "tuning.name=a/b"),
    ],
)
def test_mistakes_in_the_section_are_told_before_anything_runs(folder, tuning, told):
    with pytest.raises(ConfigError) as error:
        experiment(**tuning).tune()
    assert told in str(error.value)
    assert not list(folder.glob("studies/*/0"))


def test_by_the_command_each_trial_is_nested_in_the_study(folder, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))
    (folder / "config.yaml").write_text(
        "experiment: {name: heights}\nhyperparameters: {x: 1, steps: 2}\n"
        "tuning: {sampler: grid, space: {x: {choice: [1, 2]}}}\n"
    )
    command = ["tune", "config.yaml", "--train-fn", "train_functions:parabola", "--n-trials", "2"]
    assert main([*command, "--workers", "2"]) == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("heights").experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "tune"]
    trials = [run for run in runs if run is not parent]
    assert {run.data.params["hyperparameters.x"]: run.data.metrics["height"] for run in trials} == {"1": 1.5, "2": 0.5}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics["best/primary_metric"] == 0.5
    printed = capsys.readouterr().out
    assert "accelerator run studies/heights/best.yaml --train-fn train_functions:parabola" in printed
    assert State.COMPLETE in printed
