"""``accelerator report``: which runs it finds, what stands on the page, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
from report_runs import copied, noted, train

from accelerator.cli.app import main
from accelerator.runtime.run_directory import owned
from accelerator.tracking import spool

ID = "0123456789abcdef0123456789abcdef"
HOSTILE = "<script>alert(1)</script> $x$ _\" onload='alert(2)'"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run below the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copied(trained, tmp_path / "outputs" / "day" / "b", name="cascade", run_id=ID)


@pytest.fixture
def bare(run):
    """The same without its journal: a page without drawings takes no time."""
    (run / "journal.jsonl").unlink()
    return run


class Page(HTMLParser):
    """What a page shows: text by kind of element, tables as rows of cells, and every tag with its attributes."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tables, self.tags, self._open = {}, [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "line"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or not data.strip():
            return
        self.text.setdefault(self._open[-1], []).append(" ".join(data.split()))
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.strip()

    def table(self, first):
        return next(table for table in self.tables if table[0][0] == first)


def report(*arguments):
    return main(["report", *map(str, arguments)])


def page(*arguments):
    assert report(*arguments) == 0
    return Page("report.html")


def refused(capsys, *arguments):
    assert report(*arguments) == 3
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told.splitlines()[0].removeprefix("error: ")


def test_help_answers_without_mlflow_and_matplotlib(tmp_path):
    code = (
        "import sys\nfrom accelerator.cli.app import main\n"
        "try:\n    main(['report', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'hydra', 'mlflow', 'matplotlib', 'rich', 'jinja2'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "-o FILE" in done.stdout


def test_a_page_tells_of_one_run_from_its_folder_alone(run, capsys):
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    losses = [line["value"] for line in journal if line.get("key") == "val/loss"]
    shown = page()
    assert re.fullmatch(r"report\.html  [\d.]+ kB: open it in any browser\n", capsys.readouterr().out)
    assert shown.text["h1"] == ["cascade"]
    assert shown.text["h2"] == [
        *["Losses", "Metrics", "Configuration", "Environment", "Checkpoints", "How to go on"],
    ]
    rows = {row[0]: row[1:] for row in shown.table("metric")}
    best = min(losses)
    steps = [line["step"] for line in journal if line.get("key") == "val/loss"]
    assert rows["val/loss"] == [
        *[f"{losses[-1]:.5g}", f"{best:.5g}", str(steps[losses.index(best)]), str(len(losses))],
    ]
    assert rows["level"] == ["0", "", "", str(sum(line.get("key") == "level" for line in journal))]
    assert rows["train/loss"][-1] == str(sum(line.get("key") == "train/loss" for line in journal))
    # Two levels: against work and against steps are two drawings.
    assert [label for tag, found in shown.tags if tag == "svg" and (label := found.get("aria-label"))] == [
        "Loss against work of cascade",
        "Loss against steps of cascade",
    ]
    files = shown.table("file")
    assert [row[0] for row in files[1:]] == [path.name for path in sorted(run.glob("checkpoints/*.safetensors"))]
    assert sum("best" in row[-1] for row in files[1:]) == 1
    last = max(run.glob("checkpoints/*.safetensors"))
    assert f"accelerator train resume={last} trainer.max_epochs=…" in shown.text["pre"]
    assert any("model.hidden=[16,16]" in text for text in shown.text["pre"])


def test_nothing_is_fetched_and_nothing_can_run(run):
    copied(run, run.with_name("c"), name=HOSTILE, config=[("seed: 0", f"seed: 0\nvars: {{a: '{HOSTILE[:25]}'}}\nx: 1")])
    shown = page(run.with_name("c"))
    assert shown.text["h1"] == [HOSTILE]
    assert {tag for tag, _ in shown.tags} & {"script", "iframe", "object", "embed", "form", "base"} == set()
    assert not any(name.startswith("on") for _, found in shown.tags for name in found)
    addresses = [
        found[name]
        for tag, found in shown.tags
        for name in ("src", "href", "xlink:href")
        if name in found and tag != "a"
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(http" not in Path("report.html").read_text().replace(" ", "")
    policy = [found["content"] for tag, found in shown.tags if found.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_ids_on_the_page_are_unique(run):
    copied(run, run.with_name("c"), name="cascade", run_id="f" * 32)
    shown = page(run, run.with_name("c"))
    ids = [found["id"] for _, found in shown.tags if "id" in found]
    assert len(ids) == len(set(ids))
    referred = [found["xlink:href"][1:] for _, found in shown.tags if "xlink:href" in found]
    referred += re.findall(r"url\(#([^)]+)\)", Path("report.html").read_text())
    assert set(referred) <= set(ids)


def test_several_runs_stand_side_by_side_with_what_differs(run):
    copied(run, run.with_name("c"), name="slow", config=[("lr: 0.001", "lr: 0.5"), ("max_epochs: 4", "max_epochs: 9")])
    noted(run.with_name("c"), {"key": "test/loss", "value": 0.0001, "step": 99, "time": 1})
    shown = page(run, run.with_name("c"))
    assert shown.text["h1"] == ["2 runs compared"]
    assert shown.text["h2"] == ["Side by side", "cascade", "slow"]
    assert [row[:2] for row in shown.table("run")] == [
        ["run", "experiment"],
        ["cascade", "poisson"],
        ["slow", "poisson"],
    ]
    params = shown.table("param")
    assert params == [["param", "cascade", "slow"], ["optimizer.lr", "0.001", "0.5"], ["trainer.max_epochs", "4", "9"]]
    rows = {row[0]: row[1:] for row in shown.table("metric")}
    assert rows["test/loss"][1] == "★ 0.0001"
    assert "★" not in rows["test/loss"][0]
    assert not any("★" in value for value in rows["val/loss"])  # the same in both


def test_runs_of_one_name_are_told_apart(bare):
    copied(bare, bare.with_name("c"), name="cascade", run_id="f" * 32)
    for folder in (bare, bare.with_name("c")):
        noted(folder, {"key": "test/loss", "value": 1.0, "step": 1, "time": 1})
    assert page(bare, bare.with_name("c")).table("metric")[0] == [
        "metric",
        "cascade (01234567)",
        "cascade (ffffffff)",
    ]


def test_jobs_of_a_sweep_are_called_by_what_was_typed_for_each(bare):
    for folder, rate, number in ((bare, 0.1, "a"), (bare.with_name("c"), 0.2, "b"), (bare.with_name("d"), 0.2, "c")):
        if folder != bare:
            copied(bare, folder, name="cascade", run_id=number * 32)
        (folder / "overrides.yaml").write_text(f"[model=mlp, optimizer.lr={rate}, seed=3]")
    labels = ["cascade (optimizer.lr=0.1)", "cascade (bbbbbbbb)", "cascade (cccccccc)"]
    assert page("outputs/day").text["h2"] == ["Side by side", *labels]


def test_a_folder_stands_for_the_runs_in_it_and_of_many_only_the_comparison_is_shown(bare):
    for number in range(2, 13):
        copied(bare, bare.with_name(f"{number}"), name=f"job {number}", run_id=f"{number:032x}")
    shown = page("outputs/day")
    assert shown.text["h1"] == ["12 runs compared"]
    order = [*(f"job {number}" for number in range(2, 10)), "cascade", "job 10", "job 11", "job 12"]  # 2 before 10
    assert shown.text["h2"] == ["Side by side", *order]
    copied(bare, bare.with_name("13"), name="job 13", run_id=f"{13:032x}")
    shown = page("outputs/day")
    assert shown.text["h2"] == ["Side by side"]
    assert len(shown.table("run")) == 14


def test_one_run_is_compared_with_the_one_before_it_in_its_experiment(bare):
    hour = 3_600_000
    began = 1_790_000_000_000
    older = [("lr: 0.001", "lr: 0.5")]
    copied(bare, bare.with_name("c"), name="long ago", started=began - 9 * hour)
    copied(bare, bare.with_name("d"), name="before", started=began - hour, config=older)
    copied(bare, bare.with_name("e"), name="other", started=began - 1, experiment="digits", config=older)
    copied(bare, bare.with_name("f"), name="later", started=began + hour, config=older)
    shown = page(bare)
    assert shown.text["caption"] == ["What has changed since the experiment's run before this one, before"]
    assert shown.table("param") == [["param", "before", "in this run"], ["optimizer.lr", "0.5", "0.001"]]
    assert "The same as in the experiment's run before this one, long ago." not in shown.text["p"]
    shown = page(bare.with_name("d"))
    assert shown.table("param")[1:] == [["optimizer.lr", "0.001", "0.5"]]


@pytest.mark.parametrize("held", [True, False])
def test_a_run_that_ended_without_a_word_was_killed(bare, held):
    noted(bare, {"event": "status", "value": "RUNNING", "time": 1})
    if held:
        with owned(bare):
            assert page(bare).text["span"][0] == "running"
    else:
        (bare / ".lock").touch()
        assert page(bare).text["span"][0] == "killed"


def test_a_failed_run_shows_how_and_what_it_has(bare):
    (bare / "error.txt").write_text("Traceback\nValueError: <b>no</b>")
    noted(bare, {"event": "status", "value": "FAILED", "time": 1})
    for path in bare.glob("checkpoints/*"):
        path.unlink()
    shown = page(bare)
    assert shown.text["h2"][:2] == ["How it failed", "Losses"]
    assert shown.text["pre"][0] == "Traceback ValueError: <b>no</b>"
    assert "Checkpoints" not in shown.text["h2"]


def test_a_damaged_or_bare_folder_makes_a_page_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("bare")
    folder.mkdir()
    (folder / "journal.jsonl").write_text('{"key":"val/loss","value":NaN,"step":1,"time":5}\nnot json\n{"key":"val/lo')
    (folder / "config.yaml").write_text("{")
    shown = page("bare")
    assert shown.text["h1"] == ["bare"]
    assert "No loss was recorded." in shown.text["p"]
    assert shown.table("metric")[1] == ["val/loss", "nan", "", "", "1"]


def test_a_run_that_is_only_in_a_store_is_reported_from_there(run, trained):
    from mlflow.entities import Metric
    from mlflow.tracking.client import MlflowClient

    from accelerator.tracking.mlflow_run import _make_database

    _make_database(Path.cwd() / "mlflow.db", str(Path.cwd() / "mlartifacts"))
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    before, there = (
        client.create_run("0", run_name=name, start_time=at).info.run_id for name, at in (("one", 1), ("two", 2))
    )
    client.log_param(before, "optimizer.lr", "0.5")
    lines = map(json.loads, (trained / "journal.jsonl").read_text().splitlines())
    client.log_batch(
        there, [Metric(line["key"], line["value"], line["time"], line["step"]) for line in lines if "key" in line]
    )
    for name in ("config.yaml", "overrides.yaml"):
        client.log_artifact(there, str(trained / name))
    client.set_terminated(there)
    with patch.dict(os.environ):
        stored = page("two")
    here = page(run)
    assert stored.text["h1"] == ["two"]
    assert stored.table("metric") == here.table("metric")
    assert sum(tag == "svg" for tag, _ in stored.tags) == 2
    assert ["optimizer.lr", "0.5", "0.001"] in stored.table("param")
    assert any(f"mlflow artifacts download --run-id {there}" in text for text in stored.text["pre"])


def test_a_sweep_stands_for_its_jobs_by_folder_by_id_and_as_last(bare):
    sweep = Path.cwd() / "multirun" / "day" / "sweep"
    for number in (0, 1):
        copied(bare, sweep / str(number), name="job", run_id=str(number) * 32, config=[("seed: 0", f"seed: {number}")])
    for file in [*bare.iterdir(), *sweep.glob("*/*")]:
        if file.is_file():
            os.utime(file, (1, 1))
    spool.save(sweep / spool.STATE, spool.State(run_id="ab" * 16))
    (sweep / "config.yaml").write_text("seed: 0\n")
    for wanted in (sweep, "ababab", "last"):
        assert page(wanted).text["h1"] == ["2 runs compared"]
    assert page("000000").text["h1"] == ["job"]
    # While the sweep runs, its newest job was written last.
    os.utime(sweep / "1" / "config.yaml", (4_000_000_000, 4_000_000_000))
    assert page("last").text["h1"] == ["2 runs compared"]


def test_runs_are_found_by_folder_id_and_last(bare, capsys):
    os.utime(bare, None)
    assert page(ID[:6]).text["h1"] == ["cascade"]
    assert page("outputs/day/b").text["h1"] == ["cascade"]
    assert page("outputs/day").text["h1"] == ["cascade"]  # the only run in it
    assert refused(capsys, "outputs") == (
        f"{Path.cwd()}/outputs is no run's folder: there is no journal.jsonl and no config.yaml in it"
    )
    assert refused(capsys, "outputs/day/z") == "outputs/day/z is not there"
    assert refused(capsys, bare / "config.yaml") == f"{bare}/config.yaml is a file, and no run's folder"
    assert page(bare, ID).text["h1"] == ["cascade"]  # the same run
    assert refused(capsys, "nobody").startswith(f"there is no store {Path.cwd()}/mlflow.db")


def test_a_folder_without_runs_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys) == f"there is no run in {tmp_path}: accelerator train makes one, or name its folder"


def test_a_file_that_is_no_report_is_kept(bare, capsys):
    out = Path("thesis.html")
    out.write_text("mine")
    assert refused(capsys, "-o", out) == (
        "thesis.html is there, and is not a report: name another file, or replace it with --force"
    )
    assert out.read_text() == "mine"
    assert report("-o", out, "--force") == 0
    assert report("-o", out) == 0  # a report is replaced
    assert (
        refused(capsys, "-o", "no/such/report.html") == f"no/such/report.html: there is no folder {Path.cwd()}/no/such"
    )
    assert refused(capsys, "-o", "outputs") == "outputs is a folder; name a file, such as -o outputs/report.html"
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["outputs", "thesis.html"]
