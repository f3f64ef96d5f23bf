"""YAML that would fill the memory or make an object is refused before it is constructed, within a second."""

import time

import pytest

from accelerator.cli.app import main


def bomb(levels=30):
    """Nine references to what came before, thirty times: 9³⁰ values in a kilobyte."""
    lines = ["a0: &a0 [1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "bomb": bomb(),
    "bomb in one list": f"a: &a [{', '.join(['1'] * 2000)}]\nb: [{', '.join(['*a'] * 2000)}]\n",
    "circle": "a: &a {b: *a}\n",
    "merged bomb": "a: &a {x: 1}\n" + "\n".join(f"b{i}: {{<<: [{', '.join(['*a'] * 100)}]}}" for i in range(300)),
    "depth": "a: " + "[" * 5000 + "]" * 5000,
    "object": "a: !!python/object/apply:pathlib.Path.touch [canary]\n",
    "name": "a: !!python/name:os.system\n",
    "own tag": "a: !run rm\n",
    "local key": "? !!python/object/new:pathlib.Path [canary]\n: 1\n",
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("command", [["train", "model=bad", "--cfg", "job"], ["status"], ["add", "--sync"]])
def test_g5_is_refused_within_a_second(workplace, capsys, command, hostile, record_property):
    (workplace / "configs/model").mkdir(parents=True)
    (workplace / "configs/model/bad.yaml").write_text(HOSTILE[hostile])
    begin = time.process_time()
    code = main(command)
    seconds = time.process_time() - begin
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert code == (0 if command == ["add", "--sync"] else 3), text  # a report on files is no failure
    assert "model/bad.yaml" in text
    assert any(word in text for word in ("aliases", "no end", "inside one another", "asks for an object")), text
    assert "Traceback" not in text
    assert seconds < 1
    assert not (workplace / "canary").exists()
