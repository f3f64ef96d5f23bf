"""``accelerator add`` reads a module and never runs it; it overwrites nothing, and takes no name that is none."""

import subprocess
import sys

import pytest

from accelerator.cli.app import main

# Everything in a module that acts when it is imported; each would leave a file.
HOSTILE = """
from pathlib import Path

from accelerator import register


def act(*_, **__):
    Path("canary").write_text("acted")
    return lambda thing: thing


act()


class Meta(type):
    def __new__(cls, *args):
        act()
        return super().__new__(cls, *args)


class Base:
    def __init_subclass__(cls):
        act()


@act()
@register("loss", "hostile")
def hostile(prediction, target, scale: act() = 1.0, size=act(), *, text="${oc.env:HOME}", more="x\\nname: evil"):
    '''Compares.\\u2028name: evil

    Args:
        scale: first\\x85second: evil # and more
            name: evil
    '''


@register("model", "hostile_model")
class Hostile(Base, metaclass=Meta):
    act()

    def __init__(self, input_shape, output_shape, on=act(), null: "act()" = 3): ...
"""


@pytest.fixture
def hostile(workplace):
    """A project whose package, and every module of whose, acts when it is imported."""
    package = workplace / "hostile"
    package.mkdir()
    (package / "__init__.py").write_text(HOSTILE + "\nfrom pkgutil import walk_packages\n")
    (package / "inner.py").write_text(HOSTILE.replace('"hostile', '"inner'))
    # Modules that ours would import, if this folder came first.
    for name in ("yaml", "json", "ast", "rich", "torch"):
        (workplace / f"{name}.py").write_text("from pathlib import Path\nPath('canary').touch()\n")
    (workplace / "configs/project").mkdir(parents=True)
    (workplace / "configs/project/default.yaml").write_text("# @package _global_\nimports: [hostile]\n")
    return workplace


FORMS = [
    ["add", "loss", "hostile"],
    ["add", "loss", "inner"],
    ["add", "model", "hostile_model"],
    ["add", "loss", "mine", "--target", "hostile.hostile"],
    ["add", "model", "mine", "--target", "hostile.inner:Hostile"],
    ["add", "model", "mine", "--target", "hostile/inner.py:Hostile"],
    ["add", "model", "mine", "--new"],
    ["add", "loss", "no_such_name"],
    ["add", "--sync"],
    ["add", "--sync", "--dry-run"],
    ["status", "--no-import"],
    ["configure", "model=mlp"],
    ["clean", "--configs", "--yes"],
]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_g7_nothing_of_a_module_acts(hostile, capsys, form):
    before = set(sys.modules)
    main(form)
    assert not (hostile / "canary").exists()
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] == "hostile"}
    assert "Traceback" not in capsys.readouterr().err


def test_g7_no_file_here_stands_in_for_a_module_of_ours(hostile):
    commands = [
        ["add", "loss", "hostile"],
        ["add", "--sync", "--dry-run"],
        ["status", "--no-import"],
        ["clean", "--dry-run"],
    ]
    code = f"from accelerator.cli.app import main\nfor command in {commands}:\n    main(command)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "component: hostile:hostile" in done.stdout
    assert not (hostile / "canary").exists()


def test_g7_the_module_would_have_acted(hostile):
    assert main(["add", "loss", "mine", "--target", "hostile.hostile", "--trust"]) == 0
    assert (hostile / "canary").read_text() == "acted"


def test_g7_what_it_says_stays_a_comment_or_a_value(hostile):
    import yaml

    assert main(["add", "loss", "hostile"]) == 0
    text = (hostile / "configs/training_components/loss/hostile.yaml").read_text()
    assert yaml.safe_load(text) == {
        "name": "hostile",
        "scale": 1.0,
        "text": r"\${oc.env:HOME}",
        "more": "x\nname: evil",
    }
    assert "# size: by default act()" in text
    assert main(["add", "model", "hostile_model"]) == 0
    text = (hostile / "configs/model/hostile_model.yaml").read_text()
    assert yaml.safe_load(text) == {"name": "hostile_model", "null": 3}


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "a b", "", "-x", "a.yaml", "class", "ä", "con\n", "a;b", "$(a)", "1a"]
)
def test_g7_only_an_identifier_is_a_name(workplace, capsys, name):
    for kind in ("loss", "domain", "experiment"):
        assert main(["add", kind, "--", name]) == 3
        assert main(["add", kind, "--new", "--", name]) == 3
    assert "cannot be the name" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []


def test_g7_nothing_is_overwritten(hostile, capsys):
    file = hostile / "configs/training_components/loss/hostile.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# mine\n")
    code = (hostile / "hostile/inner.py").read_text()
    assert main(["add", "loss", "hostile"]) == 3
    assert "--force replaces it" in capsys.readouterr().err
    assert main(["add", "loss", "hostile", "--new"]) == 3
    assert file.read_text() == "# mine\n"
    assert (hostile / "hostile/inner.py").read_text() == code


@pytest.mark.parametrize(
    "source", [b"def f(:\n", b"\0", b"x = " + b"(" * 100_000, b"# -*- coding: no_such_codec -*-\n", b"\xff\xfe", b""]
)
def test_g7_a_file_that_is_no_python_is_told(workplace, capsys, source):
    (workplace / "bad.py").write_bytes(source)
    assert main(["add", "loss", "x", "--target", "bad.py:f"]) == 3
    assert "bad" in (printed := capsys.readouterr().err)
    assert "Traceback" not in printed
