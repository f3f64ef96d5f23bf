"""Row F1: a trial that raises, whose loss is no number, or that runs out of memory fails; the others run."""

import fault_parts
import pytest
from study_runs import told_in, tune


def raises(error):
    def action():
        raise error

    return action


# In the second of three trials, of 6 steps each.
FAULTS = {
    "raises": ({"step_end": (8, raises(RuntimeError("no such luck")))}, "RuntimeError: no such luck"),
    "no number": ({"forward": (8, lambda: float("nan"))}, "the loss is nan"),
    "no memory": ({"forward": (8, raises(MemoryError("cannot have 8 GB")))}, "cannot have 8 GB"),
    "exits": ({"step_end": (8, raises(SystemExit(3)))}, "SystemExit: 3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_f1_a_trial_fails_and_the_others_run(tmp_path, monkeypatch, capfd, fault):
    faults, error = FAULTS[fault]
    monkeypatch.setattr(fault_parts, "FAULTS", faults)
    monkeypatch.setattr("accelerator.tuning.pictures.draw", lambda *_: [])
    assert tune(tmp_path / "study", "tune.trials=3") == 0
    trials = told_in(tmp_path / "study")["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed", "complete"]
    assert error in trials[1]["error"]
    printed = capfd.readouterr().out
    assert "3 trials: 2 complete, 1 failed" in printed
    assert f"trial 1: failed: {trials[1]['error']}" in printed


def test_f1_a_study_of_failures_ends_with_exit_code_1(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(fault_parts, "FAULTS", {})
    monkeypatch.setattr(fault_parts, "come_to", lambda place: raises(RuntimeError("never"))())
    assert tune(tmp_path / "study", "tune.trials=2") == 1
    told = capfd.readouterr().err
    assert "study study: no trial has run to its end, 2 failed; trial 0: RuntimeError: never" in told
    assert "Traceback" in (tmp_path / "study/0/output.txt").read_text()
