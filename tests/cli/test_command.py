"""A file of the project that takes a library's name is told in a sentence."""

import json
import sys
from types import ModuleType

import pytest

from accelerator.cli.command import exit_code_of


def lacking(name, file):
    module = ModuleType(name)
    module.__file__ = str(file)
    return module


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file", "named"),
    [("json", "json.py", "json.py"), ("torch", "torch/__init__.py", "torch"), ("numpy", "numpy.py", "numpy.py")],
)
@pytest.mark.parametrize("how", ["attribute", "import"])
def test_a_file_that_takes_a_librarys_name_is_told(name, file, named, how, folder, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, name, module := lacking(name, folder / file))

    def act():
        if how == "attribute":
            return module.dumps
        raise ImportError("cannot import name 'dumps'", name=name)

    said = f"module '{name}' has no attribute 'dumps'" if how == "attribute" else "cannot import name 'dumps'"
    assert exit_code_of(act, debug=False) == 3
    assert capfd.readouterr().err == (
        f"error: {named} in {folder} takes the place of the module '{name}' that others import ({said}): "
        "rename it, and what imports it (--debug shows where it was raised)\n"
    )
    assert exit_code_of(act, debug=True) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_module_of_ones_own_and_the_library_itself_keep_their_traceback(folder, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "mine_alone", mine := lacking("mine_alone", folder / "mine_alone.py"))
    for module in (mine, json):
        assert exit_code_of(lambda module=module: module.nothing, debug=False) == 1
        assert f"module '{module.__name__}' has no attribute 'nothing'" in capfd.readouterr().err
    assert exit_code_of(lambda: [].nothing, debug=False) == 1
