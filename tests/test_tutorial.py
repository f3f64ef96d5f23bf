"""docs/tutorial.md is a session: its commands run in order, and print what the page says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from accelerator.cli.app import main

PAGE = (Path(__file__).parents[1] / "docs/tutorial.md").read_text()
QUICK = ["tracking=none", "engine.threads=1", "trainer.max_epochs=1"]


def steps():
    """What the reader does: ``("run", command, lines it prints)``, and ``("write", file, text)``."""
    for language, block in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL):
        if language == "python":
            yield "write", re.match(r"# (\S+)\n", block)[1], block
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] if language == "console" else ():
            command, *printed = part.strip().splitlines()
            yield "run", command, printed


def run(command, monkeypatch, capfd):
    """The exit code of a command, and what it printed."""
    program, *arguments = shlex.split(command)
    if program == "cd":
        monkeypatch.chdir(arguments[0])
        return 0, ""
    if program == "python":
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout
    assert program == "accelerator"
    capfd.readouterr()
    looks = arguments[0] != "train" or "--explain" in arguments
    code = main([*arguments, *([] if looks else QUICK)])
    printed = capfd.readouterr()
    return code, printed.out + printed.err


def test_the_tutorial_is_a_session_that_works(workplace, monkeypatch, capfd):
    done = []
    for what, subject, content in steps():
        if what == "write":
            assert Path(subject).exists(), "it was begun by a command before"
            Path(subject).write_text(content)
            # What the interpreter has of it is of the file before: a person would start a process anew.
            for name in [name for name in sys.modules if name.split(".")[0] == "my_project"]:
                del sys.modules[name]
            continue
        if subject.startswith("pip install"):  # tests/cli/test_wheel.py does it
            continue
        code, printed = run(subject, monkeypatch, capfd)
        assert code == (3 if any(line.startswith("error:") for line in content) else 0), printed
        seen = re.sub(r" +", " ", printed)
        for line in content:
            assert re.sub(r" +", " ", line) in seen, f"{subject} does not print: {line}"
        if "--sync" in subject:
            assert printed.splitlines() == content, "it tells of everything it writes"
        done.append(subject.split()[1])
    assert {"init", "train", "add", "status", "configure", "clean"} <= set(done)
