"""Shell completion: what is offered, by which shells, and how long an answer takes."""

import os
import pty
import select
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accelerator.cli import app
from accelerator.cli.app import main
from accelerator.cli.commands import COMMANDS
from accelerator.cli.completion.command import COMPOSING, split
from accelerator.cli.composed_command import ComposedCommand
from accelerator.runtime.run_directory import CHECKPOINTS
from accelerator.tracking import spool

SECONDS = 0.3  # that an answer may take, on an idle machine


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def complete(folder, monkeypatch, capsys):
    def answer(line, shell="bash"):
        monkeypatch.setenv("COMP_LINE", f"accelerator {line}")
        monkeypatch.delenv("COMP_POINT", raising=False)
        assert main(["-sc", f"query={shell}"]) == 0
        return capsys.readouterr().out.splitlines()

    return answer


def test_commands_actions_and_flags(complete):
    assert complete("tra") == ["train", "tracking"]
    assert set(COMMANDS) < set(complete(""))
    assert complete("runs sh") == ["show"]
    assert complete("runs show --u") == ["--uri"]
    assert complete("train --exp") == ["--explain"]
    assert complete("evaluate --dry") == []
    assert complete("train --cfg ") == ["job", "hydra", "all"]
    assert complete("init --pack") == ["--package"]
    assert complete("zzz ") == []


def test_groups_options_sections_keys_and_values(complete):
    assert complete("train mod") == ["model=", "model."]
    assert complete("train model=multi") == ["model=multilevel_mlp"]
    assert "loss=cross_entropy" in complete("train loss=")
    assert complete("train training_components/loss=cross") == ["training_components/loss=cross_entropy"]
    assert complete("train trainer.max_e") == ["trainer.max_epochs="]
    assert complete("train optimizer.l") == ["optimizer.lr="]
    assert complete("train optimizer.ams") == ["optimizer.amsgrad="]  # the class's own, which no file sets
    assert complete("train optimizer.fused=") == ["optimizer.fused=true", "optimizer.fused=false"]
    assert complete("train evaluate.split=t") == ["evaluate.split=test", "evaluate.split=train"]
    assert complete("train multilevel=cascade multilevel.advance=p") == ["multilevel.advance=plateau"]
    assert complete("train see") == ["seed="]
    assert complete("train hydra.r") == ["hydra.run.dir="]


def test_keys_are_those_of_what_the_line_chooses(complete):
    assert complete("train optimizer.mom") == []
    assert complete("train optimizer=sgd optimizer.mom") == ["optimizer.momentum="]
    assert complete("train optimizer.name=SGD optimizer.mom") == ["optimizer.momentum="]
    assert complete("train experiment=digits model.chan") == ["model.channels="]  # the experiment chooses the cnn
    assert complete("train experiment=digits model=mlp model.chan") == []
    assert "data.canvas=" in complete("train data=digits data.")


def test_lists_sweeps_and_signs(complete):
    assert complete("train callbacks=[default,") == ["callbacks=[default,monitoring", "callbacks=[default,none"]
    assert complete("train -m model=mlp,c") == ["model=mlp,cnn", "model=mlp,custom"]
    assert complete("train ~callbacks.prog") == ["~callbacks.progress", "~callbacks.progress."]
    assert complete("train +trainer.max_e") == ["+trainer.max_epochs="]


@pytest.mark.parametrize("command", COMPOSING)
def test_every_composing_command_completes_the_same(complete, command):
    assert complete(f"{command} optimizer.l") == ["optimizer.lr="]
    assert complete(f"{command} --exp") == ["--explain"]


def test_the_commands_that_compose_are_known():
    assert {
        name
        for name, command in COMMANDS.items()
        if any(isinstance(value, ComposedCommand) for value in vars(sys.modules[_module(command)]).values())
    } - {"run"} == set(COMPOSING)


def _module(command):
    app._found(command.act)
    return command.act.partition(":")[0]


def test_pipelines_their_steps_and_components(complete):
    assert complete("pipeline dig") == ["digits"]
    assert complete("pipeline digits tr") == ["train:"]
    assert complete("pipeline digits train:optimizer.l") == ["train:optimizer.lr="]
    assert complete("pipeline digits --until qu") == ["quantize"]
    assert complete("pipeline digits vars.ep") == ["vars.epochs="]
    assert complete("pipeline digits --pl") == ["--plan"]
    assert complete("add lo") == ["loss"]
    assert set(complete("list ")) - set(complete("add ")) == {"pipeline", "tune", "tracking"}
    assert set(complete("add ")) - set(complete("list ")) == {"domain"}
    assert complete("add loss hu") == ["huber"]
    assert complete("list optimizer rm") == ["rmsprop"]
    assert complete("configure model=mu") == ["model=multilevel_mlp"]
    assert complete("completion ") == ["bash", "zsh", "fish"]


def test_runs_are_offered_by_folder_and_by_id(folder, complete):
    run = Path("outputs/2026-11-26/10-00-00-000000-1")
    (run / CHECKPOINTS).mkdir(parents=True)
    spool.save(run / spool.STATE, spool.State(uri="sqlite:///mlflow.db", run_id="3f9c21aa" + "0" * 24))
    assert complete("runs show ") == ["last", "3f9c21aa", run.as_posix()]
    assert complete("train resume=") == ["resume=last", "resume=best", f"resume={run.as_posix()}"]
    assert complete("checkpoint list 3f") == ["3f9c21aa"]


def test_a_project_of_ones_own_is_offered_too(folder, complete):
    own = folder / "configs/model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# A network of ours.\nname: mlp\nhidden: [8]\n")
    (folder / "configs/experiment").mkdir()
    (folder / "configs/experiment/first.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mine\ncallbacks:\n  stop: {name: early_stopping}\n"
    )
    assert complete("train model=mi", "zsh") == ["model=mine\tA network of ours."]
    assert complete("train experiment=first model.hid") == ["model.hidden="]
    assert complete("train experiment=first callbacks.st") == ["callbacks.stop."]
    (own / "mine.yaml").write_text("hidden: [8\n")
    assert complete("train model=mi") == ["model=mine"]  # a file that cannot be read is an option all the same


def test_what_candidates_are_is_told_to_shells_that_show_it(complete):
    assert complete("train optimizer.lr", "fish") == ["optimizer.lr=\tfloat | Tensor = 1e-3: learning rate"]
    assert complete("eval", "zsh") == ["evaluate\tmeasure a trained network on a split of its data, or on other data"]


def test_words_are_split_as_a_shell_does():
    assert split("accelerator train 'a b=1' mo") == (["train", "a b=1"], "mo")
    assert split("accelerator train ") == (["train"], "")
    assert split("accelerator") == ([], "")
    assert split("accelerator train 'open mo") == (["train", "'open"], "mo")


def test_the_cursor_may_stand_inside_the_line(folder, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "accelerator train model=mul seed=1")
    monkeypatch.setenv("COMP_POINT", str(len("accelerator train model=mul")))
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out == "model=multilevel_mlp\n"


def test_an_answer_imports_neither_hydra_nor_torch(folder):
    code = (
        "import sys\nfrom accelerator.cli.app import main\nmain(['-sc', 'query=bash'])\n"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'mlflow', 'numpy', 'rich'} & sys.modules.keys()))"
    )
    for line in ("train experiment=digits model.", "runs show ", "pipeline digits ", "add loss ", "init --"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COMP_LINE": f"accelerator {line}"},
        )
        assert done.stdout.splitlines()[-1] == "[]", line


def test_an_answer_takes_no_longer_than_a_shell_waits(folder, record_property):
    """In processor time, which others on the machine do not change; the start of Python is in it."""
    code = "import resource, sys\nfrom accelerator.cli.app import main\nmain(['-sc', 'query=bash'])\n" + (
        "used = resource.getrusage(resource.RUSAGE_SELF)\nprint(used.ru_utime + used.ru_stime)"
    )
    environment = {**os.environ, "COMP_LINE": "accelerator train experiment=digits optimizer.l"}
    command = [sys.executable, "-c", code]
    answers = [subprocess.run(command, capture_output=True, check=True, env=environment).stdout for _ in range(3)]
    seconds = [float(answer.split()[-1]) for answer in answers]
    record_property("measured", f"{statistics.median(seconds):.2f} s")
    assert statistics.median(seconds) < SECONDS


INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(accelerator completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'eval "$(accelerator completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "accelerator completion fish | source"),
    "bash, by Hydra's script": (["bash", "--norc", "-i"], 'eval "$(accelerator train -sc install=bash)"'),
}


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_tab_completes_in_a_shell(shell, folder):
    """The line is typed, completed by Tab, put in quotes behind ``echo``, and read off what that prints."""
    command, install = INTERACTIVE[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with Terminal(command, folder) as terminal:
        terminal.send(f"{install}; echo rea''dy\n")
        assert terminal.reads("ready\r\n")
        for typed, expected in (
            ("accelerator eval", "accelerator evaluate"),
            ("accelerator train model=mul", "accelerator train model=multilevel_mlp"),
            ("accelerator train optimizer.l", "accelerator train optimizer.lr="),
            ("accelerator pipeline digits train:optimizer.l", "accelerator pipeline digits train:optimizer.lr="),
        ):
            if "Hydra" in shell and ":" in typed:
                continue  # its script cuts words at colons
            terminal.send(f"{typed}\t\x01echo '<\x05>'\n")
            assert terminal.reads(f"<{expected}", ">\r\n"), typed


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command, folder):
        self.text = b""
        self.child, self.descriptor = pty.fork()
        if self.child == 0:
            bin_folder = Path(sys.executable).parent
            environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(folder)}
            environment |= {"TERM": "xterm" if command[0] == "fish" else "dumb", "PS1": "$ "}
            os.chdir(folder)
            os.execvpe(command[0], command, environment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)
        os.kill(self.child, 9)
        os.waitpid(self.child, 0)

    def send(self, text):
        self.text = b""
        os.write(self.descriptor, text.encode())

    def reads(self, text, then="", seconds=60):
        """Whether a text comes, and after it another one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _, found, rest = self.text.rpartition(text.encode())
            if found and then.encode() in rest:
                return True
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.descriptor, 65536)
                except OSError:
                    return False
        return False
