"""``accelerator mlflow-ui`` as it is typed."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from stand_in_servers import free_port, session, stand_in, stop_all, store_in, taken_port, wait_until

from accelerator.cli.app import main
from accelerator.tracking import server

VIEW = "?workflowType=machine_learning"


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory; its server is ended."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    stop_all(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def store(folder, monkeypatch):
    """The same with a store, whose server is the stand-in."""
    stand_in(monkeypatch)
    monkeypatch.setattr(server, "FIRST_PORT", free_port())
    return store_in(folder).uri


def typed(capsys, *arguments):
    code = main(["mlflow-ui", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def status(capsys):
    code, out, _ = typed(capsys, "status", "--json")
    assert code == 0
    return json.loads(out)


def test_mlflows_own_server_is_there_for_a_store_that_is_not_yet(folder, capsys):
    """The only test here with MLflow itself: it takes seconds of processor time."""
    port = free_port()
    code, out, err = typed(capsys, "--port", str(port), "--uri", "sqlite:///mlflow.db")
    assert (code, err) == (0, "")
    assert f"MLflow's server  http://127.0.0.1:{port}  started, process" in out
    assert "no run yet" in out
    facts = status(capsys)
    assert facts["running"]
    assert facts["healthy"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/version") as answer:
        assert re.fullmatch(rb"3\.\d+\.\d+", answer.read())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        assert b"<title>MLflow</title>" in answer.read()
    assert {path.name for path in folder.iterdir()} >= {"mlflow.db", "mlflow.db.server.json"}
    assert typed(capsys, "stop")[:2] == (0, f"stopped process {facts['pid']}, which served {facts['uri']}\n")
    assert session(facts["pid"]) == []


def test_plain_is_start_and_prints_links_that_open_on_the_right_view(store, capsys):
    code, out, _ = typed(capsys)
    facts = status(capsys)
    url = facts["url"]
    assert code == 0
    assert out.splitlines() == [
        f"MLflow's server  {url}  started, process {facts['pid']}",
        f"store            {store}",
        "",
        "experiment digits",
        f"  runs           {url}/#/experiments/7/runs{VIEW}",
        f"  charts         {url}/#/experiments/7/runs{VIEW}&compareRunsMode=CHART",
        f"  newest run     {url}/#/experiments/7/runs/c{VIEW}  run c, FINISHED",
        f"  compare 3      {url}/#/compare-runs?runs=%5B%22c%22%2C%22b%22%2C%22a%22%5D&experiments=%5B%227%22%5D"
        "&workflowType=machine_learning",
        "",
        "other experiments",
        f"  Default        {url}/#/experiments/0/runs{VIEW}",
        "",
        "end it with: accelerator mlflow-ui stop",
    ]
    code, again, _ = typed(capsys, "start", "--uri", store)
    assert code == 0
    assert re.search(rf"{url}  running since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, process {facts['pid']}", again)
    assert again.splitlines()[2:-1] == out.splitlines()[2:-1]
    assert again.splitlines()[-1] == f"end it with: accelerator mlflow-ui stop --uri {store}"


def test_the_newest_run_is_no_part_of_another_and_what_is_compared_can_be(store, capsys, monkeypatch):
    def links():
        typed(capsys, "stop")
        out = typed(capsys)[1]
        newest = re.search(r"newest run .*/runs/(\w+)\?", out)
        compared = re.search(r"compare \d .*runs=%5B%22(.*)%22%5D&exp", out)
        assert newest is not None
        return newest[1], compared and compared[1].split("%22%2C%22")

    jobs = [("j2", "train", "s"), ("j1", "train", "s"), ("s", "sweep", None)]
    others = [("e", "evaluate", None), ("t2", "train", None), ("t1", "train", None)]
    for runs, told in (
        ([*jobs, *others], ("s", ["j2", "j1"])),
        ([others[1], *jobs, others[0], others[2]], ("t2", ["t2", "t1"])),
        ([*others, *jobs], ("e", None)),
    ):
        stand_in(monkeypatch, runs=runs)
        assert links() == told


def test_status_and_stop_tell_what_there_is(store, capsys):
    assert typed(capsys, "status")[:2] == (0, f"no server of {store} runs; start one with: accelerator mlflow-ui\n")
    assert status(capsys) == {"running": False, "healthy": False, "uri": store}
    assert typed(capsys, "stop")[:2] == (0, f"no server of {store} ran\n")
    typed(capsys)
    facts = status(capsys)
    assert (facts["running"], facts["healthy"], facts["uri"], facts["host"]) == (True, True, store, "127.0.0.1")
    _, out, _ = typed(capsys, "status")
    lines = out.splitlines()
    assert lines[0] == f"MLflow's server  {facts['url']}  answers"
    assert lines[2].startswith(f"process          {facts['pid']}, since 2")
    assert lines[3] == f"log              {facts['log']}"
    for member in session(facts["pid"]):
        os.kill(member, signal.SIGSTOP)
    assert "does not answer" in typed(capsys, "status")[1]
    assert typed(capsys, "stop")[:2] == (0, f"stopped process {facts['pid']}, which served {store}\n")
    assert session(facts["pid"]) == []
    assert not status(capsys)["running"]


def test_of_a_server_elsewhere_the_links_are_printed_and_nothing_is_started(store, capsys, folder):
    typed(capsys)
    url = status(capsys)["url"]
    before = set(folder.iterdir())
    code, out, _ = typed(capsys, "--uri", url)
    assert code == 0
    assert out.splitlines()[1] == "experiment digits"
    assert f"{url}/#/experiments/7/runs{VIEW}" in out
    assert "started" not in out
    assert set(folder.iterdir()) == before
    for action in ("status", "stop"):
        code, _, err = typed(capsys, action, "--uri", url)
        assert code == 3
        assert f"error: {url} is a server of others: mlflow-ui {action}" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--host", "0.0.0.0", "--uri", "sqlite:///m.db"],
            "--host 0.0.0.0 lets other machines in, and that needs a login: MLflow's basic auth",
        ),
        ([], "mlflow.db: no run was recorded here yet (accelerator train makes one), or it is elsewhere: name it with"),
        (["--port", "many"], "--port many: expected a number from 0 to 65535"),
        (["--port", "65536"], "--port 65536: expected a number from 0 to 65535"),
        (["--uri", "sqlite:////gone/mlflow.db"], "there is no folder /gone: make it, or name the store with --uri"),
        (["--uri", "./mlruns"], "tracking uri './mlruns' is no store MLflow can write to"),
        (["--uri", "http://127.0.0.1:1"], "http://127.0.0.1:1 cannot be reached: Connection refused"),
        (["--uri", "databricks"], "databricks has pages of its own, and there is no server to start"),
        (["sart"], "there is no action 'sart' — did you mean 'start'"),
        (["--prot", "1"], "there is no flag --prot — did you mean '--port'?; see accelerator mlflow-ui --help"),
    ],
)
def test_mistakes_are_told_in_a_sentence(folder, capsys, arguments, told):
    code, out, err = typed(capsys, *arguments)
    assert code == 3
    assert told in err
    assert "Traceback" not in out + err
    assert list(folder.iterdir()) == []


def test_a_port_that_is_taken_is_told(store, capsys):
    with taken_port() as port:
        code, _, err = typed(capsys, "--port", str(port))
    assert code == 3
    assert f"error: port {port} is taken by another program; name another, or none for the next free one" in err


def test_a_login_that_is_missing_costs_the_links_only(store, capsys, monkeypatch):
    stand_in(monkeypatch, login=True)
    code, out, _ = typed(capsys)
    assert code == 0
    assert "no links into it: http://127.0.0.1:" in out
    assert "asks for a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_ends_with_the_command(store, capsys, number):
    command = [sys.executable, "-m", "accelerator", "mlflow-ui", "--foreground", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "Ctrl-C ends it\n":
                break
        found = server.find(store)
        assert found is not None
        assert typed(capsys, "--foreground")[0] == 3
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "ending it\n"
    assert process.returncode == 0
    assert session(found.pid) == []
    assert not server.files_of(store).state.exists()


def test_a_training_with_a_server_prints_the_live_link_and_waits_for_none(store, capsys, folder):
    small = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "model=mlp", "model.hidden=[32,32]"]
    quiet = ["engine.threads=1", "trainer.max_epochs=1", "callbacks.progress=null", "callbacks.pictures=null"]
    assert main(["train", *small, *quiet, "tracking.experiment=tests", "tracking.server=auto"]) == 0
    url = wait_until(lambda: server.live_server(store))
    printed = capsys.readouterr().out
    assert re.search(rf"({url}|http://127.0.0.1:5000)/#/experiments/1/runs/[0-9a-f]{{32}}\{VIEW}", printed)


def test_another_value_of_the_servers_key_is_told_with_the_others(folder, capsys):
    assert main(["train", "tracking.server=always", "optimizer.lrr=1"]) == 3
    err = capsys.readouterr().err
    assert "tracking.server=always: expected none or auto" in err
    assert "optimizer.lrr" in err


def test_it_is_completed_and_in_the_help(monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "accelerator mlflow-ui st")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["start", "status", "stop"]
    assert main(["mlflow-ui", "--help"]) == 0
    assert "accelerator mlflow-ui stop" in capsys.readouterr().out
