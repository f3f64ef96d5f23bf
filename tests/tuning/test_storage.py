"""What is seen of a study's storage before it is used: that it is whole, and that it is the right one."""

import pytest
from optuna import create_study

from accelerator.errors import ConfigError
from accelerator.tuning.storage import check_known, open_journal, open_storage


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials_in(study, *numbers):
    for number in numbers:
        (study / str(number)).mkdir(parents=True)
        (study / str(number) / "journal.jsonl").touch()


@pytest.mark.parametrize(("numbers", "held"), [([3], "trial 3"), ([10, 2], "trials 2 and 10"), (range(5), "5 trials")])
@pytest.mark.parametrize(
    ("storage", "file"),
    [("journal", "study.journal"), ("sqlite:///kept/study.db", "study.db"), ("sqlite:///a.db?timeout=9", "a.db")],
)
def test_trials_of_which_a_lost_storage_knows_nothing_are_told_and_it_is_not_made(folder, storage, file, numbers, held):
    trials_in(folder / "studies/s", *numbers)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError) as error:
        check_known(folder / "studies/s", "s", storage)
    assert str(error.value) == (
        f"studies/s holds {held}, and its storage ({file}) knows no such study: put {file} back, "
        "or give another tune.name=…"
    )
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("storage", ["journal", "sqlite:///study.db"])
def test_a_storage_knows_the_trials_of_its_own_study_only(folder, storage):
    create_study(study_name="s", storage=open_storage(storage, folder))
    trials_in(folder, 0)
    check_known(folder, "s", storage)
    with pytest.raises(ConfigError, match="holds trial 0, and its storage"):
        check_known(folder, "t", storage)


@pytest.mark.parametrize(
    "storage", ["journal", "sqlite:///study.db", "sqlite:///:memory:", "postgresql://me:word@host/s"]
)
def test_where_nothing_can_be_missed_no_storage_is_looked_for(folder, storage):
    (folder / "plots").mkdir()
    (folder / "plots" / "journal.jsonl").touch()
    (folder / "7").mkdir()  # a trial that died before it began
    check_known(folder, "s", storage)
    if storage not in ("journal", "sqlite:///study.db"):
        trials_in(folder, 0)
        check_known(folder, "s", storage)
    assert not (folder / "study.journal").exists()
    assert not (folder / "study.db").exists()


@pytest.mark.parametrize("damage", [b"garbage\n", b"\n", b"17\n", b'{"op_code":\n', b"\xff\n", b"garbage\n{torn"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_line_that_is_no_entry_is_told_wherever_it_stands_and_nothing_is_written(folder, damage, at):
    journal = folder / "study.journal"
    create_study(study_name="s", storage=open_journal(journal))
    create_study(study_name="t", storage=open_journal(journal))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:at]) + damage)
    (folder / "study.journal.lock").unlink(missing_ok=True)
    before = journal.read_bytes()
    told = f"study.journal, line {at + 1}: no entry of a study: take the line out, or give another "
    for opened, other in (
        (lambda: open_journal(journal), "file"),
        (lambda: open_storage("journal", folder), "tune.name"),
    ):
        with pytest.raises(ConfigError) as error:
            opened()
        assert str(error.value) == told + other
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"study.journal": before}
