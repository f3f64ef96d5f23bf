"""Row C8: many workers start on a database that is not there yet; each has its run, with all it sent.

The short form, four runs of the tracker itself, is in tests/tracking/test_tracker.py.
"""

import os
import subprocess
import sys

import pytest
from record_helpers import metric_rows, prepare, query, state_of, status_of

from accelerator.tracking.uploader import DONE


@pytest.mark.faults
@pytest.mark.parametrize("runs", [4, 16])
def test_c8_all_of_them_start(tmp_path, runs, monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    store = tmp_path / "mlflow.db"
    folders = [tmp_path / f"worker-{number}" for number in range(runs)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        with prepare(folder, store, patience=60.0, run_name=folder.name) as journal:
            for step in range(20):
                journal.metric("loss", number + step / 100, step)
            journal.event("status", value="FINISHED")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = []
    for folder in folders:
        with (folder / "said").open("wb") as said:
            command = [sys.executable, "-m", "accelerator.tracking.uploader", str(folder)]
            processes.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
    codes = [process.wait() for process in processes]
    assert codes == [DONE] * runs, "\n".join((folder / "said").read_text() for folder in folders)
    assert len({state_of(folder).run_id for folder in folders}) == runs
    assert query(store, "select count(*) from runs") == [(runs,)]
    assert query(store, "select count(*) from metrics") == [(20 * runs,)]
    for number, folder in enumerate(folders):
        assert metric_rows(store, folder) == [("loss", step, number + step / 100) for step in range(20)]
        assert status_of(store, state_of(folder).run_id) == "FINISHED"
    assert query(store, "select count(*) from experiments where name = 'default'") == [(1,)]
