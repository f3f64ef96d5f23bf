"""Reads what MLflow stored, straight from its SQLite file, and prepares run directories."""

import atexit
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from accelerator.runtime.journal import Journal
from accelerator.tracking import spool
from accelerator.tracking.tracker import Tracker


def fresh_store(folder):
    """MLflow's database, empty; it is made once for each process, which takes a second, and copied."""
    return Path(shutil.copy(_template(), folder / "mlflow.db"))


@cache
def _template():
    from accelerator.tracking.mlflow_run import make_store

    folder = Path(tempfile.mkdtemp(prefix="accelerator-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_store(uri_of(folder / "mlflow.db"))
    return folder / "mlflow.db"


def query(store, sql, *values):
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(sql, values).fetchall()


def uri_of(store):
    return f"sqlite:///{store}"


def state_of(run_dir):
    return spool.load(Path(run_dir) / spool.STATE, spool.State)


def metric_rows(store, run_dir):
    """(key, step, value) of a run's points in the store, NaN as None, in the order of key and step."""
    found = query(
        store,
        "select key, step, case when is_nan then null else value end from metrics where run_uuid = ? order by 1, 2",
        state_of(run_dir).run_id,
    )
    return [tuple(row) for row in found]


def pairs(store, table, run_id):
    return dict(query(store, f"select key, value from {table} where run_uuid = ?", run_id))


def status_of(store, run_id):
    return query(store, "select status from runs where run_uuid = ?", run_id)[0][0]


def prepare(run_dir, store, **options):
    """A journal and the settings an uploader needs, as the tracker leaves them, without starting one."""
    journal = Journal(Path(run_dir) / "journal.jsonl")
    options = {"uri": uri_of(store), "patience": 0.0} | options
    tracker = Tracker(Path(run_dir), journal=journal, **options)
    journal.event("status", value="RUNNING")
    spool.save(Path(run_dir) / spool.SETTINGS, tracker.settings)
    return journal
