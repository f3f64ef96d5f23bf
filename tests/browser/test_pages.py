"""Our report and MLflow's pages as a browser shows them."""

import json
import re
import socket
from html import unescape
from pathlib import Path

import pytest
import yaml
from headless_browser import DARK, needs_browser, rendered, text_of

from accelerator.cli.app import main
from accelerator.tracking import locations, server, spool

pytestmark = needs_browser

# Measures what a reader would trip over, and notes it where the rendered document shows it.
MEASURE = """<script>
const found = {overlaps: [], faint: [], wide: document.documentElement.scrollWidth - window.innerWidth};
for (const svg of document.querySelectorAll('.chart svg')) {
  const texts = [...svg.querySelectorAll('text')].map(e => [e.textContent.trim(), e.getBoundingClientRect()]);
  texts.forEach(([a, r], i) => texts.slice(i + 1).forEach(([b, s]) => {
    const across = Math.min(r.right, s.right) - Math.max(r.left, s.left);
    const down = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
    if (across > 1 && down > 1) found.overlaps.push(a + ' | ' + b);
  }));
}
found.texts = document.querySelectorAll('.chart svg text').length;
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const back = getComputedStyle(e).backgroundColor;
    if (numbers(back).length === 3 || numbers(back)[3] > 0) return back;
  }
};
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  const style = getComputedStyle(e);
  const pair = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))].sort((a, b) => b - a);
  if ((pair[0] + 0.05) / (pair[1] + 0.05) < 4.5) found.faint.push(e.tagName + ': ' + e.textContent.trim().slice(0, 40));
}
document.body.dataset.found = JSON.stringify(found);
</script></body>"""

HOSTILE = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"


def make_run(folder, name, learning_rate):
    """What a run of two levels leaves, but for its checkpoints."""
    folder.mkdir(parents=True)
    lines = [{"event": "tags", "values": {"host": "here", "python": "3.11", "git.commit": "c" * 40}, "time": 1}]
    for step in range(1, 61):
        level = int(step <= 30)
        lines.append({"key": "train/loss", "value": 2.0 / step, "step": step, "time": step})
        if step % 10 == 0:
            lines += [
                {"key": key, "value": value, "step": step, "time": step}
                for key, value in (
                    ("val/loss", 3.0 * learning_rate / step),
                    ("work", step / 4 if level else step - 22.5),
                    ("level", level),
                )
            ]
    lines.append({"key": "test/loss", "value": 3.0 * learning_rate / 64, "step": 60, "time": 61})
    lines.append({"event": "status", "value": "FINISHED", "time": 62})
    (folder / "journal.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    config = {"optimizer": {"lr": learning_rate}, "checkpoint": {"monitor": "val/loss", "mode": "min"}, "vars": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"optimizer.lr={learning_rate}"]))
    settings = spool.Settings("sqlite:////m.db", "poisson", name, None, "journal.jsonl", "k", 1_790_000_000_000, 1.0)
    spool.save(folder / spool.SETTINGS, settings)


def test_a_report_reads_well_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a" / "1", "steady", 0.25)
    make_run(tmp_path / "a" / "2", HOSTILE, 0.5)
    assert main(["report", "a/1", "a/2"]) == 0

    document = rendered((tmp_path / "report.html").as_uri(), tmp_path / "first")
    text = text_of(document)
    assert "<title>2 runs compared</title>" in document  # neither script has run
    assert "<script" not in document
    assert HOSTILE in text
    for told in ("optimizer.lr 0.25 0.5", f"test/loss ★ {3 * 0.25 / 64:.5g} {3 * 0.5 / 64:.5g}", "validation loss"):
        assert told in text

    # At the width of a phone, in dark colours, measured by a script that the page itself would not let run.
    page = Path("report.html").read_text()
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "<style>html { width: 390px; }</style>", page)
    Path("measured.html").write_text(page.replace("</body>", MEASURE))
    measured = rendered((tmp_path / "measured.html").as_uri(), tmp_path / "second", DARK, width=500)
    found = json.loads(unescape(re.findall(r'data-found="([^"]*)"', measured)[0]))
    assert found.pop("texts") > 50
    assert found == {"overlaps": [], "faint": [], "wide": 0}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two trained runs, and MLflow's server on their store: the store, the experiment, the runs and the address."""
    from mlflow.tracking.client import MlflowClient

    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for rate in ("0.002", "0.001"):
            arguments = ["data.train=64", "data.val=16", "data.test=16", "data.grid=8", "model=mlp", "model.hidden=[8]"]
            names = ["tracking.experiment=browsed", f"tracking.run_name=rate-{rate}", f"optimizer.lr={rate}"]
            quiet = ["callbacks.progress=null", "callbacks.pictures=null", "engine.threads=1", "trainer.max_epochs=3"]
            assert main(["train", *arguments, *names, *quiet]) == 0
        uri = f"sqlite:///{folder}/mlflow.db"
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("browsed")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started, _ = server.start(locations.locate(uri), port=port)
        try:
            yield uri, experiment.experiment_id, runs, started.url
        finally:
            server.stop(uri)


def opened(link, profile):
    """A page of MLflow: its text, once its requests are answered and its scripts have drawn it."""
    text = text_of(rendered(link, profile, "--virtual-time-budget=20000", width=1600, height=1200))
    # The training view; in the other, for language models, there are a playground and judges.
    assert "Model registry" in text
    assert "Playground" not in text
    assert "Judges" not in text
    return text


@pytest.mark.slow
def test_the_page_of_a_run_shows_its_name_metrics_and_params(served, tmp_path):
    uri, experiment, (run, _), address = served
    text = opened(locations.run_link(uri, experiment, run.info.run_id, server=address), tmp_path / "profile")
    assert "rate-0.002" in text
    assert f"val/loss {run.data.metrics['val/loss']}" in text
    assert "optimizer.lr 0.002" in text


@pytest.mark.slow
def test_the_table_of_runs_shows_all_of_them(served, tmp_path):
    uri, experiment, _, address = served
    text = opened(locations.runs_link(uri, experiment, server=address), tmp_path / "profile")
    assert "rate-0.001" in text
    assert "rate-0.002" in text
    assert "2 matching runs" in text


@pytest.mark.slow
def test_the_charts_of_an_experiment_open_as_charts(served, tmp_path):
    uri, experiment, _, address = served
    text = opened(locations.runs_link(uri, experiment, charts=True, server=address), tmp_path / "profile")
    assert "rate-0.001" in text
    assert re.search(r"\bval \(2\) Add chart\b", text)  # val/loss and val/relative_l2


@pytest.mark.slow
def test_the_comparison_shows_both_runs_and_what_differs(served, tmp_path):
    uri, experiment, runs, address = served
    link = locations.compare_link(uri, experiment, [run.info.run_id for run in runs], server=address)
    text = opened(link, tmp_path / "profile")
    assert "Comparing 2 Runs from 1 Experiment" in text
    assert "Run Name: rate-0.002 rate-0.001" in text
    assert "optimizer.lr 0.002 0.001" in text
