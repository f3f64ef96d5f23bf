"""Which steps run, in what order, side by side, and what becomes of them."""

import hashlib
import json
import os
import signal
import time

import psutil
import pytest
from pipeline_steps import CHAIN, Quiet, execution, exit_with, finish, kill_self, started, statuses, wait_until_gone

from accelerator.errors import Terminated
from accelerator.pipeline.process import forked
from accelerator.runtime.run_directory import owned

INDEPENDENT = {name: {"run": "train"} for name in "abc"}


def run(*arguments, **options):
    made = execution(*arguments, **options)
    made.run()
    return made


def test_steps_run_once_and_are_passed_over_when_nothing_changed(tmp_path):
    listener = Quiet()
    first = run(tmp_path, CHAIN, {"b": lambda folder: print("half way")}, listener=listener)
    assert statuses(first) == {"a": "done", "b": "done", "c": "done"}
    assert started(tmp_path) == ["a", "b", "c"]
    assert listener.told == [
        ("begins", "a", "was not made yet"),
        ("ends", "a", "done"),
        ("begins", "b", "was not made yet"),
        ("says", "b", "half way"),
        ("ends", "b", "done"),
        ("begins", "c", "was not made yet"),
        ("ends", "c", "done"),
    ]
    second = run(tmp_path, CHAIN)
    assert statuses(second) == {"a": "unchanged", "b": "unchanged", "c": "unchanged"}
    assert started(tmp_path) == []


def test_a_changed_config_makes_a_step_anew_and_what_needs_it_and_nothing_else(tmp_path):
    steps = {**CHAIN, "alone": {"run": "train"}}
    run(tmp_path, steps)
    started(tmp_path)
    again = execution(tmp_path, steps, configs={"b": "other"})
    assert {name: (verdict.state, verdict.reason) for name, verdict in again.plan().items()} == {
        "a": ("done", ""),
        "b": ("absent", "its config changed"),
        "c": ("absent", "needs b"),
        "alone": ("done", ""),
    }
    again.run()
    assert started(tmp_path) == ["b", "c"]
    assert again.outcomes["c"].reason == "b was made anew"
    kept = [path.name.rpartition("-")[0] for path in (tmp_path / "earlier").iterdir()]
    assert sorted(kept) == ["b", "c"], "what was made before is lost"


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda folder: (folder / "result.json").unlink(), "was not finished"),
        (lambda folder: (folder / "result.json").write_text("{"), "was not finished"),
        (lambda folder: finish(folder, accuracy=1.0), "its result.json was changed by somebody"),
        (lambda folder: (folder / "step.json").unlink(), "was not made yet"),
    ],
)
def test_a_result_that_is_gone_or_was_tampered_with_is_made_anew(tmp_path, tamper, reason):
    run(tmp_path, CHAIN)
    started(tmp_path)
    tamper(tmp_path / "b")
    again = run(tmp_path, CHAIN)
    assert again.outcomes["b"].reason == reason
    assert started(tmp_path) == ["b", "c"]


def test_a_checkpoint_that_is_gone_is_made_anew(tmp_path):
    def train(folder):
        (folder / "best.safetensors").write_text("weights")
        result = {"metrics": {}, "best": str(folder / "best.safetensors")}
        (folder / "result.json").write_text(json.dumps(result))
        return 0

    run(tmp_path, CHAIN, {"a": train})
    (tmp_path / "a" / "best.safetensors").unlink()
    assert run(tmp_path, CHAIN, {"a": train}).outcomes["a"].reason == "its checkpoint best.safetensors is gone"


def test_an_exported_file_has_its_checksum(tmp_path):
    def export(folder):
        (folder / "model.onnx").write_text("network")
        return 0

    steps = {"a": {"run": "train"}, "out": {"run": "export", "load_from": "a", "out": "model.onnx"}}
    acts = {"out": export}
    run(tmp_path, steps, acts)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["metrics"] == {"bytes": 7.0}
    assert result["sha256"] == hashlib.sha256(b"network").hexdigest()
    assert statuses(run(tmp_path, steps, acts)) == {"a": "unchanged", "out": "unchanged"}
    (tmp_path / "out" / "model.onnx").write_text("NETWORK")
    assert run(tmp_path, steps, acts).outcomes["out"].reason == "its file model.onnx was changed by somebody"
    (tmp_path / "out" / "model.onnx").unlink()
    assert run(tmp_path, steps, acts).outcomes["out"].reason == "its file model.onnx is gone"


def test_forced_steps_run_again_and_what_needs_them(tmp_path):
    run(tmp_path, CHAIN)
    started(tmp_path)
    run(tmp_path, CHAIN, forced=["b"])
    assert started(tmp_path) == ["b", "c"]


def test_no_step_runs_after_the_last_that_is_asked_for(tmp_path):
    until = run(tmp_path, CHAIN, until="b")
    assert statuses(until) == {"a": "done", "b": "done", "c": "not run"}
    assert until.outcomes["c"].reason == ""
    assert list(until.plan()) == ["a", "b"]


@pytest.mark.parametrize(
    ("on_error", "expected"),
    [
        ("stop", {"a": "failed", "b": "not run", "c": "not run", "alone": "not run"}),
        ("continue", {"a": "failed", "b": "not run", "c": "not run", "alone": "done"}),
    ],
)
def test_after_a_failure_what_needs_it_is_not_run(tmp_path, on_error, expected):
    made = run(tmp_path, {**CHAIN, "alone": {"run": "train"}}, {"a": exit_with(3)}, on_error=on_error)
    assert statuses(made) == expected
    assert made.failed == ["a"]
    assert [made.outcomes[name].reason for name in "bc"] == ["needs a", "needs b"]
    assert (made.outcomes["a"].code, made.outcomes["a"].reason) == (3, "exit code 3")


def test_a_step_that_is_killed_or_leaves_no_result_has_failed(tmp_path):
    acts = {"a": kill_self(signal.SIGKILL), "b": exit_with(0), "c": lambda folder: 1 / 0}
    made = run(tmp_path, INDEPENDENT, acts, on_error="continue")
    assert {name: (o.code, o.reason) for name, o in made.outcomes.items()} == {
        "a": (137, "exit code 137"),
        "b": (1, "it left no result"),
        "c": (1, "exit code 1"),
    }
    assert "ZeroDivisionError: division by zero" in (tmp_path / "c" / "output.log").read_text()


def test_independent_steps_run_side_by_side_when_asked(tmp_path):
    def meet(folder):
        (tmp_path / f"{folder.name}.here").touch()
        end = time.monotonic() + 30
        while len(list(tmp_path.glob("*.here"))) < 2:  # alone, it would wait for ever
            assert time.monotonic() < end
            time.sleep(0.005)

    made = run(tmp_path, INDEPENDENT, dict.fromkeys("ab", meet), parallel=2)
    assert statuses(made) == dict.fromkeys("abc", "done")
    spans = sorted((outcome.begin, outcome.end) for outcome in made.outcomes.values())
    assert spans[1][0] < spans[0][1]
    assert spans[2][0] >= min(spans[0][1], spans[1][1]), "three at once, two were asked for"


def test_what_a_step_leaves_in_its_line_without_an_end_is_told(tmp_path):
    listener = Quiet()
    run(tmp_path, {"a": {"run": "train"}}, {"a": lambda folder: print("no end", end="")}, listener=listener)
    assert ("says", "a", "no end") in listener.told
    assert (tmp_path / "a" / "output.log").read_text() == "no end"


def stopped(folder):
    """Saves itself when it is told to stop, as a training does."""
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    os.kill(os.getppid(), signal.SIGTERM)
    end = time.monotonic() + 30
    while not told:
        assert time.monotonic() < end
        time.sleep(0.005)
    (folder / "saved").touch()
    return 143


def test_a_signal_goes_to_the_step_which_saves_itself(tmp_path):
    made = execution(tmp_path, CHAIN, {"b": stopped})
    with pytest.raises(Terminated, match="^stopped by SIGTERM$") as told:
        made.run()
    assert told.value.exit_code == 143
    assert statuses(made) == {"a": "done", "b": "stopped", "c": "not run"}
    assert (tmp_path / "b" / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_ends_everything_at_once(tmp_path):
    def deaf(folder):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        (tmp_path / "pid").write_text(str(os.getpid()))
        for _ in range(2):
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(0.5)
        time.sleep(60)

    made = execution(tmp_path, CHAIN, {"a": deaf})
    with pytest.raises(KeyboardInterrupt):
        made.run()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_left_behind_is_waited_for(tmp_path):
    listener = Quiet()
    made = execution(tmp_path, {"a": {"run": "train"}}, listener=listener)
    (tmp_path / "a").mkdir()
    begun, told = os.pipe()

    def left_behind():
        with owned(tmp_path / "a"):
            os.write(told, b"1")
            time.sleep(0.5)
            finish(tmp_path / "a", late=1.0)
        return 0

    pid = forked(left_behind, tmp_path / "said")
    os.read(begun, 1)
    made.run()
    os.waitpid(pid, 0)
    os.close(begun)
    os.close(told)
    assert listener.told[0] == ("waits", "a")
    assert statuses(made) == {"a": "done"}


def test_a_step_does_not_outlive_its_pipeline(tmp_path):
    def long(folder):
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    pid = forked(lambda: execution(tmp_path, {"a": {"run": "train"}}, {"a": long}).run() or 0, tmp_path / "said")
    end = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    step = psutil.Process(int((tmp_path / "pid").read_text()))
    assert wait_until_gone([step])
