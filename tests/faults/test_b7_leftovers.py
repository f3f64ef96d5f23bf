"""Row B7: temporary files of killed saves never count, and are removed when the run goes on."""

import pytest
from run_outcomes import At, saved_steps

from accelerator.runtime.checkpoint.checkpoint_handler import CheckpointHandler
from accelerator.runtime.checkpoint.meta_handler import sidecar
from accelerator.runtime.run import execute


def test_b7_leftovers_do_not_count_and_are_gone_once_the_run_goes_on(tiny_config, tmp_path):
    def stop(context):
        raise ZeroDivisionError

    config, folder = tiny_config(trainer={"max_epochs": 4}), tmp_path / "checkpoints"
    with pytest.raises(ZeroDivisionError):
        execute(config, tmp_path, callbacks={"stop": At("step_end", stop, number=8)})
    assert saved_steps(tmp_path) == [3, 6]
    last = folder / "step-00000006.safetensors"
    # Two killed saves: one before its file had its name, one before it had its sidecar.
    (folder / ".step-00000007.safetensors.4711.tmp").write_bytes(last.read_bytes()[:1000])
    (folder / ".step-00000007.json.4711.tmp").write_text("{")
    unfinished = folder / "step-00000007.safetensors"
    unfinished.write_bytes(last.read_bytes())
    assert saved_steps(tmp_path) == [3, 6]
    assert CheckpointHandler(folder).load_last()[2] == last
    seen = []
    look = At("step_end", lambda context: seen.extend(folder.glob(".*.tmp")))
    execute(config, tmp_path, resume=folder, callbacks={"look": look})
    assert (look.seen, seen) == (6, [])
    assert not unfinished.exists()
    assert saved_steps(tmp_path)[-2:] == [9, 12]
    assert {path.name for path in folder.iterdir()} == {
        file.name for path in folder.glob("*.safetensors") for file in (path, sidecar(path))
    }
