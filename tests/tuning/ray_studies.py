"""Studies by Ray for tests, each in a process of its own: ``python ray_studies.py NAME FOLDER``.

Ray is started and ended in it, so that no thread of Ray's is left in the tests' process.
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import psutil

from accelerator.errors import Terminated
from accelerator.tuning.base import Plan
from accelerator.tuning.ray_cluster import cluster
from accelerator.tuning.ray_tuner import RayTuner
from accelerator.tuning.search_space import SearchSpace

LINE = {"x": {"uniform": [-1, 1]}}


def parabola(trial):
    """Has its lowest point, 0, at x = 0.25, y = 0.5."""
    return (trial.values["x"] - 0.25) ** 2 + (trial.values["y"] - 0.5) ** 2


def troubled(trial):
    """One trial raises, one is killed, one hangs, the others are well."""
    print(f"this is trial {trial.number}")
    if trial.number == 1:
        raise ValueError("no")
    if trial.number > 1:
        point = str(trial.values["x"])
        for trouble, what in [("killed", signal.SIGKILL), ("hung", signal.SIGSTOP)]:
            with suppress(FileExistsError):
                with (FOLDER / trouble).open("x") as file:
                    file.write(point)
                os.kill(os.getpid(), what)
            if (FOLDER / trouble).read_text() == point:  # tried once more, it is well
                break
    time.sleep(0.2)
    return trial.values["x"] ** 2


def reporting(trial):
    """Trial 0 is the best there is; each later one is worse than those before."""
    for step in range(1, 9):
        if trial.report(trial.values["x"] + 1 / step, step):
            (FOLDER / f"saved-{trial.number}").touch()
            break
    return trial.values["x"]


def slow(trial):
    """Reports for half a minute, and saves when it is asked to stop."""
    (FOLDER / f"began-{trial.number}").touch()
    for step in range(300):
        if trial.report(1.0, step):
            (FOLDER / f"saved-{trial.number}").touch()
            break
        time.sleep(0.1)
    return 1.0


def quick_but_one(trial):
    """Two trials are done at once; the third hangs."""
    (FOLDER / f"began-{trial.number}").touch()
    if trial.number == 2 and not (FOLDER / "again").exists():
        time.sleep(600)
    return trial.values["x"] ** 2


def listening(_):
    """The address of everything that listens among the processes of this cluster, and their names."""
    driver = psutil.Process()
    while driver.parent() is not None and "ray_studies.py" not in " ".join(driver.cmdline()):
        driver = driver.parent()
    family = [driver, *driver.children(recursive=True)]
    found = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    said = {"listens": sorted(found), "processes": len(family), "place": os.getcwd()}
    (FOLDER / "listening.json").write_text(json.dumps(said))
    return 1.0


STUDIES = {
    "parabola": (
        parabola,
        {"x": {"uniform": [-1, 1]}, "y": {"choice": [0.0, 0.5, 1.0]}},
        {"trials": 24, "workers": 2, "sampler": {"name": "tpe", "n_startup_trials": 8}},
    ),
    "reporting": (
        reporting,
        {"x": {"int": [0, 7]}},
        {"trials": 8, "sampler": {"name": "grid"}, "pruner": {"name": "asha", "reduction_factor": 2}},
    ),
    "troubled": (troubled, LINE, {"trials": 6, "workers": 2, "retries": 1, "heartbeat": 0.5}),
    "slow": (slow, LINE, {"trials": 4, "workers": 2}),
    "quick_but_one": (quick_but_one, LINE, {"trials": 5}),
    "listening": (listening, LINE, {"trials": 1}),
}


def tuner(name, folder, **options):
    """A study by its name."""
    objective, space, plan = STUDIES[name]
    options = {"sampler": {"name": "random"}, "pruner": {"name": "none"}} | plan | options
    of_tuner = {key: options.pop(key) for key in ("sampler", "pruner", "address") if key in options}
    made = Plan(name, SearchSpace.parse(space), {"loss": "min"}, **{"heartbeat": None} | options)
    return RayTuner(made, folder, **of_tuner), objective


def start(name, folder, **environment):
    """Run a study in another process, a leader of its own process group."""
    return subprocess.Popen(
        [sys.executable, __file__, name, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )


def run(name, folder, **environment):
    """Run a study to its end; returns what it printed."""
    process = start(name, folder, **environment)
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def head():
    """A cluster that others use, until its input ends; it prints its address and its token."""
    with cluster(2):
        import ray

        print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
        sys.stdin.read()


FOLDER = Path(sys.argv[2]) if __name__ == "__main__" else Path()

if __name__ == "__main__":
    warnings.simplefilter("error")
    if sys.argv[1] == "head":
        head()
        sys.exit()
    study, measure = tuner(sys.argv[1], FOLDER)
    before = signal.getsignal(signal.SIGTERM)
    try:
        study.run(measure, lambda outcome: print(outcome.number, outcome.state, flush=True))
    except Terminated as error:
        print(error)
    assert signal.getsignal(signal.SIGTERM) is before
    left = psutil.Process().children(recursive=True)
    assert not left, left
