"""Row B8: an old checkpoint is removed only after the new one is durable, and the best are kept, whenever the kill."""

import pytest
from test_a5_kill_during_save import kill


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.faults, pytest.mark.timeout(600)])])
def test_b8_the_newest_two_and_the_best_two_are_there_after_every_kill(tmp_path, kills):
    # Each process goes on in the folder the last one left; `broken` in the script says what must be there.
    found = kill(tmp_path / "checkpoints", kills)
    assert (found["killed"], found["broken"]) == (kills, [])
