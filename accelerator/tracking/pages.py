"""What a server shows, asked over its REST API: experiments and the newest runs. MLflow need not be imported for it."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from accelerator.errors import ConfigError
from accelerator.tracking.server_process import is_loopback

SECONDS = 5.0  # that one question may take
MOST = 100  # experiments that are asked for
LOOKED_AT = 100  # of the newest runs: most of them may be parts of others
COMPARED = 5
PARENT, KIND = "mlflow.parentRunId", "kind"


@dataclass(frozen=True)
class Run:
    """A run, as a list shows it."""

    id: str
    name: str
    status: str


@dataclass(frozen=True)
class Contents:
    """What there is to see.

    Attributes:
        experiments: names by id, the one that changed last first.
        experiment: the id of the experiment with the newest run; None where there is no run.
        newest: the newest run of that experiment that is no part of another; None where there is no run.
        compared: the newest runs that can be compared, the newest first: the parts of `newest` where it has some, such
            as the jobs of a sweep, else the runs of its kind that stand by themselves.
    """

    experiments: dict[str, str]
    experiment: str | None
    newest: Run | None
    compared: list[Run]


def login(secrets: Mapping[str, str]) -> tuple[str, str] | None:
    """User and password for a server: those of its address, else of the environment."""
    known = {**os.environ, **secrets}
    if user := known.get("MLFLOW_TRACKING_USERNAME"):
        return user, known.get("MLFLOW_TRACKING_PASSWORD", "")
    if password := known.get("MLFLOW_AUTH_ADMIN_PASSWORD"):
        return known.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin"), password
    return None


def contents(base: str, user: tuple[str, str] | None = None) -> Contents:
    """Ask a server what it has.

    Args:
        base: its address.
        user: name and password, where it asks for them.

    Raises:
        ConfigError: it cannot be reached, or lets us not in.
    """
    found = _ask(base, "experiments/search", {"max_results": MOST, "order_by": ["last_update_time DESC"]}, user)
    experiments = {each["experiment_id"]: each["name"] for each in found.get("experiments", [])}
    newest = _runs(base, list(experiments), 1, user) if experiments else []
    if not newest:
        return Contents(experiments, None, None, [])
    experiment = newest[0]["info"]["experiment_id"]
    runs = _runs(base, [experiment], LOOKED_AT, user)
    # Where all that was asked for are parts, of one that is older still, the newest of them is the best there is.
    first = next((run for run in runs if _tag(run, PARENT) is None), runs[0])
    within = [run for run in runs if _tag(run, PARENT) == first["info"]["run_id"]]
    with_parts = {_tag(run, PARENT) for run in runs}
    alone = [run for run in runs if _tag(run, PARENT) is None and run["info"]["run_id"] not in with_parts]
    among = within or alone
    kind = _tag(among[0], KIND) if among else None
    compared = [_run(run) for run in among if _tag(run, KIND) == kind][:COMPARED]
    return Contents(experiments, experiment, _run(first), compared)


def _run(found: Mapping[str, Any]) -> Run:
    info = found["info"]
    return Run(info["run_id"], info.get("run_name", ""), info["status"])


def _tag(found: Mapping[str, Any], key: str) -> str | None:
    """What a run's tag says; None where it has none."""
    return next((tag["value"] for tag in found.get("data", {}).get("tags", []) if tag["key"] == key), None)


def _runs(base: str, experiments: list[str], most: int, user: tuple[str, str] | None) -> list[dict[str, Any]]:
    asked = {"experiment_ids": experiments, "max_results": most, "order_by": ["attributes.start_time DESC"]}
    return _ask(base, "runs/search", asked, user).get("runs", [])


def _ask(base: str, what: str, values: Mapping[str, Any], user: tuple[str, str] | None) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - http or https, as `locate` has seen to
        f"{base.rstrip('/')}/api/2.0/mlflow/{what}",
        data=json.dumps(values).encode(),
        headers={"Content-Type": "application/json"},
    )
    if user is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(':'.join(user).encode()).decode()}")
    # A proxy of the user's knows nothing of this machine's own address.
    proxies = {} if is_loopback(urlsplit(base).hostname or "") else None
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler(proxies)).open(request, timeout=SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ConfigError(
                f"{base} asks for a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            ) from error
        raise ConfigError(f"{base} does not answer as MLflow does: {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        told = getattr(error, "reason", error)
        told = getattr(told, "strerror", None) or told
        raise ConfigError(f"{base} cannot be reached: {told}; is it running, and is its address right?") from error
