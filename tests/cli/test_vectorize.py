"""``sweep.vectorize``: jobs of a sweep trained together, each with its folder and its run on record."""

import json

import pytest
import torch
from mlflow.tracking import MlflowClient
from run_outcomes import last_state

from accelerator.cli import sweep_vectorized
from accelerator.cli.app import main
from accelerator.cli.experiment import train

SMALL = [
    *("imports=[toy_problem]", "data=custom", "data._target_=toy_problem.plane", "model=mlp", "model.hidden=[4]"),
    *("multilevel=single", "optimizer=sgd", "scheduler=constant", "transform=none", "metrics=none"),
    *("engine.threads=1", "loader.batch_size=8", "trainer.max_epochs=2", "tracking.model=[]"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def sweep(folder, *overrides):
    """The exit code, and the jobs' folders in the order of their numbers."""
    before = set(folder.glob("multirun/*/*/"))
    code = main(["train", "-m", *SMALL, *overrides])
    (made,) = set(folder.glob("multirun/*/*/")) - before
    return code, sorted((path for path in made.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def test_jobs_are_trained_together_and_left_as_any_run(folder, capsys):
    code, together = sweep(folder, "seed=0,1", "optimizer.lr=0.1,1e30", "sweep.vectorize=8", "tracking.experiment=v")
    assert code == 1
    printed = capsys.readouterr()
    assert "jobs 0-3: 4 networks of 21 parameters, trained together" in printed.out
    assert "job 1 failed: the loss is nan at step 2" in printed.out
    assert printed.err.startswith("error: the loss is nan at step 2")
    files = {"config.yaml", "overrides.yaml", "composition.yaml", "journal.jsonl", "checkpoints", "result.json"}
    assert files <= {path.name for path in together[0].iterdir()}
    assert not (together[1] / "result.json").exists()

    runs = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    assert parent.data.metrics["jobs"] == 4
    assert parent.data.metrics["failed"] == 2
    nested = {run.data.tags["run_dir"]: run for run in runs if run is not parent}
    for number, job in enumerate(together):
        run = nested[str(job)]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == ("FAILED" if number % 2 else "FINISHED")
        assert run.data.params["seed"] == str(number // 2)
    result = json.loads((together[0] / "result.json").read_text())
    assert result["run_id"] == nested[str(together[0])].info.run_id
    assert nested[str(together[0])].data.metrics["val/loss"] == result["metrics"]["val/loss"]

    alone = train([*SMALL, "seed=1", "optimizer.lr=0.1", "tracking=none", "callbacks.pictures=null"])
    for name, value in last_state(alone.run_dir)["model"].items():
        torch.testing.assert_close(last_state(together[2])["model"][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_job_can_be_gone_on_with_evaluated_and_loaded(folder, capsys):
    _, (job, _) = sweep(folder, "seed=0,1", "sweep.vectorize=2", "tracking=none")
    assert main(["evaluate", f"load={job}"]) == 0
    assert main(["train", f"resume={job}"]) == 0
    assert json.loads((job / "result.json").read_text())["steps"] == 6


def test_what_cannot_be_stacked_is_trained_alone_and_why_is_told(folder, capsys):
    code, jobs = sweep(
        *(folder, "seed=0,1", "model.dropout=0,0.1", "sweep.vectorize=2", "tracking=none", "callbacks=none"),
        *("+callbacks.checkpoint.name=checkpoint", "callbacks.metric_logger.name=metric_logger"),
    )
    assert code == 0
    assert len(jobs) == 4
    assert all((job / "result.json").exists() for job in jobs)
    printed = capsys.readouterr().out
    assert "jobs 0, 2: 2 networks of 21 parameters, trained together" in printed
    assert (
        "jobs 1, 3 are trained alone, in spite of sweep.vectorize: model: it draws random numbers in its steps "
        "(dropout), which would be others than in a run alone\n"
    ) in printed


def test_a_failure_ends_the_sweep_if_it_is_to(folder, capsys):
    code, jobs = sweep(
        *(folder, "optimizer.lr=1e30,0.1,0.2,0.3", "sweep.vectorize=2", "sweep.on_error=stop", "tracking=none")
    )
    assert code == 1
    assert [job.name for job in jobs] == ["0", "1"]  # no more than asked for are trained at a time
    assert (jobs[1] / "result.json").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sweep.vectorize=0"], "sweep.vectorize=0: expected at least 1"),
        (
            ["sweep.vectorize=4", "hydra/launcher=basic"],
            "sweep.vectorize=4 trains jobs together in this process, BasicLauncher runs them elsewhere or one by one: "
            "leave out hydra/launcher=…, or sweep.vectorize",
        ),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_made(overrides, expected, folder, capsys):
    assert main(["train", "-m", *SMALL, "seed=0,1", *overrides]) == 3
    assert f"error: {expected}" in capsys.readouterr().err
    assert not (folder / "multirun").exists()


def test_jobs_are_put_together_whatever_the_order_of_the_keys():
    jobs = [[f"seed={seed}", f"model={model}", f"optimizer.lr={seed}"] for seed in range(3) for model in ("mlp", "cnn")]
    assert sweep_vectorized._chunks(jobs, 10, 8) == [[10, 12, 14], [11, 13, 15]]
    assert sweep_vectorized._chunks([[f"seed={seed}"] for seed in range(5)], 0, 2) == [[0, 1], [2, 3], [4]]
    optimizers = [["training_components/optimizer=adam"], ["training_components/optimizer=sgd"]]
    assert sweep_vectorized._chunks(optimizers, 0, 8) == [[0], [1]]
