"""Values of the config that change while a run trains."""

from types import SimpleNamespace

import pytest

from accelerator.cli.hydra_utils.monitor import Monitor
from accelerator.errors import ConfigError


@pytest.fixture
def context():
    events = []
    journal = SimpleNamespace(event=lambda kind, **facts: events.append((kind, facts)))
    return SimpleNamespace(
        engine=SimpleNamespace(accumulate=1), state=SimpleNamespace(step=7), journal=journal, events=events
    )


def test_each_change_goes_on_record_once(context):
    monitor = Monitor(context)
    monitor.look()
    context.engine.accumulate = 4
    monitor.look()
    monitor.look()
    context.journal = None  # of a rank that has none
    context.engine.accumulate = 2
    monitor.look()
    assert context.events == [("change", {"name": "trainer.accumulate", "was": 1, "now": 4, "step": 7})]


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_a_value_no_run_can_go_on_with_is_told(context, value):
    monitor = Monitor(context)
    context.engine.accumulate = value
    with pytest.raises(ConfigError) as caught:
        monitor.look()
    assert str(caught.value) == (
        f"trainer.accumulate became {value!r} in step 7: expected a whole number of at least 1; a callback has set it"
    )
