import io
import re

import pytest
from rich.console import Console
from run_outcomes import At

from accelerator.runtime.callbacks.progress import Progress
from accelerator.runtime.run import execute


def shown(config, folder, *, terminal=False, resume=None, lines=0.0, **callbacks):
    progress, out = Progress(refresh=0.0, lines=lines), io.StringIO()
    progress.console = Console(file=out, force_terminal=terminal, width=160, highlight=False)
    execute(config, folder, resume=resume, callbacks={"progress": progress, **callbacks})
    return out.getvalue()


def test_elsewhere_than_on_a_terminal_each_pass_is_a_plain_line(tiny_config, tmp_path):
    lines = shown(tiny_config(), tmp_path).splitlines()
    assert lines[0] == "mlp: 21 parameters on cpu · 20 training samples in 3 batches"
    assert len(lines) == 3
    for number, line in enumerate(lines[1:], 1):
        pattern = rf"epoch {number}  step {3 * number}  train [\d.]+  val/loss [\d.]+  [\d,]+ steps/s"
        assert re.fullmatch(pattern, line), line


def test_a_pass_that_was_not_validated_shows_no_old_value(tiny_config, tmp_path):
    lines = shown(tiny_config(trainer={"max_epochs": 3, "validate_every": 2}), tmp_path).splitlines()
    assert ["val/loss" in line for line in lines[1:]] == [False, True, False]


def test_short_passes_do_not_flood_but_the_last_is_shown(tiny_config, tmp_path):
    lines = shown(tiny_config(trainer={"max_epochs": 30}), tmp_path, lines=1000.0).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["1", "30"]


def test_a_resumed_run_says_where_it_goes_on(tiny_config, tmp_path):
    shown(tiny_config(trainer={"max_steps": 4}), tmp_path)
    text = shown(tiny_config(), tmp_path, resume=tmp_path / "checkpoints")
    assert "resumed after step 4, epoch 2" in text


def test_a_schedule_of_several_levels_is_told_with_its_cost(tiny_config, tmp_path):
    config = tiny_config(
        multilevel={"name": "cascade", "levels": 2, "min_width": 2}, model={"name": "mlp", "hidden": [16, 16]}
    )
    text = shown(config, tmp_path)
    assert re.search(r"schedule: \d+ steps on level 1 \(0\.\d+ WU each\), 3 steps on level 0 \(1\.00 WU each\)", text)
    assert "stage 2/2 level 0 · epoch" in text


def test_a_terminal_gets_a_live_line_that_is_gone_at_the_end(tiny_config, tmp_path):
    text = shown(tiny_config(), tmp_path, terminal=True)
    assert "6/6" in text
    assert "validating" in text
    assert "loss " in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again


def test_the_terminal_is_left_as_it_was_when_the_run_fails(tiny_config, tmp_path):
    out = io.StringIO()
    progress = Progress()
    progress.console = Console(file=out, force_terminal=True)

    def fail(context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(tiny_config(), tmp_path, callbacks={"progress": progress, "fails": At("step_end", fail)})
    assert out.getvalue().count("\x1b[?25h") == 1


def test_a_run_that_fails_before_it_starts_is_told_by_its_own_error(tiny_config, tmp_path):
    def fail(context):
        raise ZeroDivisionError("before the progress")

    with pytest.raises(ZeroDivisionError, match="before the progress"):
        execute(tiny_config(), tmp_path, callbacks={"progress": Progress(), "early": At("run_start", fail)})
