"""Places in the user's code."""

import importlib

import pytest
import torch

from accelerator.utilities.places import where_defined, where_raised


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def place_of(module):
    try:
        importlib.import_module(module)
    except Exception as error:
        return where_raised(error)
    pytest.fail(f"{module} imports")


def test_the_line_of_the_module_that_fails_and_not_of_the_one_that_imports_it(here):
    (here / "places_outer.py").write_text("import places_inner\n")
    (here / "places_inner.py").write_text("\n\nimport nowhere_at_all\n")
    assert place_of("places_outer") == f"({here / 'places_inner.py'}, line 3)"


def test_the_users_line_and_not_the_librarys_that_it_calls(here):
    (here / "places_call.py").write_text("import torch\n\nlayer = torch.nn.Linear('a', 2)\n")
    assert place_of("places_call") == f"({here / 'places_call.py'}, line 3)"


def test_at_the_root_of_what_was_raised_from_another(here):
    (here / "places_from.py").write_text(
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('no') from error\n"
    )
    assert place_of("places_from") == f"({here / 'places_from.py'}, line 2)"


def test_what_is_no_python_tells_its_place_itself(here):
    (here / "places_syntax.py").write_text("def f(:\n")
    assert place_of("places_syntax") == ""


def test_where_a_class_begins(here):
    (here / "places_class.py").write_text("\n\nclass Net:\n    pass\n")
    assert where_defined(importlib.import_module("places_class").Net) == "places_class:Net (places_class.py, line 3)"
    assert where_defined(torch.nn.GELU).startswith("torch.nn.modules.activation:GELU (/")
    assert where_defined(dict) == "builtins:dict"
