"""Row A8: an exception of the user's code: traceback kept, run FAILED, exit 1, and the last checkpoint is whole."""

import pytest
from command_runs import TRACKED, assert_goes_on_to, newest_step, run_with, status_in, whole_run


def break_on_purpose():
    raise ZeroDivisionError("on purpose")


# Where it is raised, after which step; samples are also made when the run is built.
FAULTS = {
    "model": ("forward", 5, [], 4),
    "callback": ("step_end", 5, [], 4),
    "data": ("sample", 35, [], 3),
    "worker": ("sample", 26, ["loader.workers=2"], 3),
}


@pytest.mark.parametrize("fault", [*list(FAULTS)[:-1], pytest.param("worker", marks=pytest.mark.faults)])
def test_a8_the_traceback_is_kept_and_the_last_checkpoint_is_gone_on_from(tmp_path, fault):
    place, number, more, step = FAULTS[fault]
    folder = tmp_path / "run"
    ended = run_with({place: (number, break_on_purpose)}, folder, *more)
    assert ended.code == 1
    kept = (folder / "error.txt").read_text()
    for text in (kept, ended.said):
        assert "Traceback (most recent call last)" in text
        assert "in break_on_purpose" in text
        assert "ZeroDivisionError: on purpose" in text
    assert newest_step(folder) == step
    assert_goes_on_to(folder, whole_run(tmp_path / "whole"))
    assert not (folder / "error.txt").exists()


@pytest.mark.faults
def test_a8_the_record_says_failed(tmp_path):
    database = tmp_path / "mlflow.db"
    faults = {"forward": (3, break_on_purpose)}
    assert run_with(faults, tmp_path / "run", *TRACKED, f"tracking.uri=sqlite:///{database}").code == 1
    assert status_in(database) == "FAILED"
