import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_helpers import pairs, prepare, state_of

from accelerator.tracking.difference import as_text, difference
from accelerator.tracking.uploader import DONE, upload

CONFIGS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


def test_values_that_changed_came_and_went():
    was = {"lr": "0.1", "gone": "1", "same": "x", "tracking.uri": "a", "resume": "b"}
    found = difference(was, {"lr": "0.2", "new": "2", "same": "x", "tracking.uri": "c"})
    assert found == {"changed": {"lr": ["0.1", "0.2"]}, "added": {"new": "2"}, "removed": {"gone": "1"}}
    assert as_text(found) == "lr: 0.1 → 0.2; + new: 2; − gone"
    assert as_text(difference(was, was)) == ""


@given(CONFIGS, CONFIGS)
def test_the_difference_leads_from_one_to_the_other(was, now):
    found = difference(was, now)
    rebuilt = {k: v for k, v in was.items() if k not in found["removed"]}
    rebuilt |= found["added"] | {k: pair[1] for k, pair in found["changed"].items()}
    assert rebuilt == now


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)

    def record(name, params, **options):
        with prepare(tmp_path / name, tmp_path / "mlflow.db", **options) as journal:
            journal.event("tags", values={"kind": options.pop("kind", "train")})
            journal.event("params", values=params)
            for step, now in ((3, 2), (8, 4)):
                journal.event("change", name="trainer.accumulate", was=now // 2, now=now, step=step)
            journal.event("status", value="FINISHED")
        assert upload(tmp_path / name) == DONE
        state = state_of(tmp_path / name)
        return state.run_id, pairs(tmp_path / "mlflow.db", "tags", state.run_id)

    return record


def test_a_run_is_compared_with_its_parent_else_with_the_one_before(run, tmp_path):
    first, tags = run("first", {"lr": 1, "model": "mlp"})
    assert "config.compared_with" not in tags
    assert tags["changed.trainer.accumulate"] == "1 → 2 at step 3; 2 → 4 at step 8"
    second, tags = run("second", {"lr": 2, "model": "mlp"})
    assert (tags["config.compared_with"], tags["config.difference"]) == (first, "lr: 1 → 2")
    assert (tmp_path / "second" / "config_difference.json").exists()
    third, tags = run("third", {"lr": 2, "model": "mlp"})
    assert (tags["config.compared_with"], tags["config.difference"]) == (second, "none")
    _, tags = run("part", {"lr": 1, "model": "mlp"}, parent=tmp_path / "first")
    assert (tags["config.compared_with"], tags["config.difference"]) == (first, "none")
    assert tags["mlflow.parentRunId"] == first
    assert third != second


def test_a_part_waits_for_the_record_of_its_whole_and_stands_alone_where_that_keeps_none(run, tmp_path):
    with prepare(tmp_path / "whole", tmp_path / "mlflow.db") as journal:
        journal.flush()
    with prepare(tmp_path / "early", tmp_path / "mlflow.db", parent=tmp_path / "whole") as journal:
        journal.flush()
    from accelerator.tracking.uploader import LATER

    assert upload(tmp_path / "early") == LATER
    assert "has not arrived yet" in state_of(tmp_path / "early").error
    assert upload(tmp_path / "whole") == DONE
    assert upload(tmp_path / "early") == DONE
    tags = pairs(tmp_path / "mlflow.db", "tags", state_of(tmp_path / "early").run_id)
    assert tags["mlflow.parentRunId"] == state_of(tmp_path / "whole").run_id
    _, tags = run("alone", {"lr": 1}, parent=tmp_path / "nowhere")
    assert "mlflow.parentRunId" not in tags
    assert "stands by itself" in tags["accelerator.notes"]
