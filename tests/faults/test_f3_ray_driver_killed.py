"""Row F3, with Ray: the process that drives a study is killed; what is done is not done again, the budget is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parents[1]
TRIALS = 6
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own: they ask for a minute where their cluster is
STUDY = [
    *("imports=[toy_problem]", "data=custom", "data._target_=toy_problem.plane", "model=mlp", "model.hidden=[4]"),
    *("multilevel=single", "optimizer=sgd", "scheduler=constant", "transform=none", "metrics=none", "tracking=none"),
    *("engine.threads=1", "loader.batch_size=8", "trainer.max_epochs=150", "tune.name=study", "tune.backend=ray"),
    *("tune.sampler.name=random", "tune.pruner.name=none", "tune.ray.cpus=1", f"tune.trials={TRIALS}"),
    "tune.space.optimizer.lr={log_uniform:[0.001,0.03]}",  # above, some diverge
]


def started(place):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "HOME": str(place)}
    with (place / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "accelerator", "tune", *STUDY],
            cwd=place,
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def done_in(place):
    return {path.parent.name: path.read_bytes() for path in place.glob("studies/study/*/result.json")}


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_f3_ray_what_is_done_is_not_done_again(tmp_path, record_property, number):
    process = started(tmp_path)
    try:
        until = time.monotonic() + 100
        while len(done_in(tmp_path)) < 2:
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.02)
        rays = [one for one in psutil.Process(process.pid).children(recursive=True) if one.name() not in AGENTS]
        begin = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
        _, alive = psutil.wait_procs(rays, timeout=20)
        assert alive == []
        record_property("measured", f"Ray, {number.name}: all gone after {time.monotonic() - begin:.1f} s")
    finally:
        process.kill()
        process.wait()
    before = done_in(tmp_path)
    assert 2 <= len(before) < TRIALS
    if number == signal.SIGTERM:
        said = (tmp_path / "said").read_text()
        assert "stopped by SIGTERM" in said
        assert "go on with: accelerator tune resume=studies/study" in said

    again = started(tmp_path)
    assert again.wait(200) == 0, (tmp_path / "said").read_text()
    after = done_in(tmp_path)
    assert {name: after[name] for name in before} == before
    trials = json.loads((tmp_path / "studies/study/study.json").read_text())["trials"]
    complete = [trial["values"]["optimizer.lr"] for trial in trials if trial["state"] == "complete"]
    assert len(complete) == len(set(complete)) == TRIALS
    assert {trial["state"] for trial in trials} <= {"complete", "stopped"}
    assert len([trial for trial in trials if trial["retry_of"] is None]) == TRIALS
