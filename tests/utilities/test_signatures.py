"""Signatures are read from source as the interpreter would tell them, and nothing of the source acts."""

import inspect
import math
import sys

import pytest

from accelerator.errors import ConfigError
from accelerator.utilities.base_registry import registries
from accelerator.utilities.docstrings import arguments_of, summary_of
from accelerator.utilities.signatures import REQUIRED, Code, signature_of, trusted_signature
from accelerator.utilities.source_code import SourceCode, module_file


@pytest.fixture
def read(tmp_path):
    """A function that reads the signature of a member of a module with this text."""

    def of(text, name="f", **others):
        for module, content in (("mine", text), *others.items()):
            file = tmp_path / (module.replace("__", "/", 1) + ".py")
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        return signature_of(f"mine.{name}", SourceCode(tmp_path))

    return of


def defaults(signature):
    return {parameter.name: parameter.default for parameter in signature.parameters}


def test_defaults_types_and_what_the_docstring_says(read):
    signature = read(
        '''
def f(a, b: int = 3, *, c: "str | None" = None, d=(1, 2.5), **more):
    """Does a thing. And then more.

    Args:
        a: the first; has
            two lines. And a second sentence.
        b (int, optional): how many (default: 3)

    Returns:
        c: not an argument.
    """
'''
    )
    assert defaults(signature) == {"a": REQUIRED, "b": 3, "c": None, "d": [1, 2.5]}
    assert [parameter.type for parameter in signature.parameters] == ["", "int", "str | None", ""]
    assert [parameter.text for parameter in signature.parameters] == ["the first; has two lines", "how many", "", ""]
    assert (signature.summary, signature.open_ended, signature.is_class) == ("Does a thing", True, False)
    assert signature.path == "mine:f"


def test_constants_are_followed_and_what_only_runs_is_code(read):
    signature = read(
        "from math import inf\nfrom other import SIZE as S\nHERE = [1, 2]\n"
        "def f(a=HERE, b=S, c=float('inf'), d=-inf, e=make(), g=HERE[0], h=-1): ...\n",
        other="SIZE = 7\n",
    )
    assert defaults(signature) == {
        "a": [1, 2],
        "b": 7,
        "c": math.inf,
        "d": Code("-inf"),
        "e": Code("make()"),
        "g": Code("HERE[0]"),
        "h": -1,
    }


def test_a_class_takes_what_its_nearest_init_takes(read):
    text = "from base import Base\nclass A(Base): ...\nclass B(A):\n    def __init__(self, c=1): ...\n"
    base = "class Base:\n    def __init__(self, a, b=2):\n        '''Args:\n            a: one\n        '''\n"
    assert defaults(read(text, "A", base=base)) == {"a": REQUIRED, "b": 2}
    assert read(text, "A", base=base).parameters[0].text == "one"
    assert defaults(read(text, "B", base=base)) == {"c": 1}


def test_fields_of_a_dataclass_and_of_those_above_it(read):
    signature = read(
        "from dataclasses import dataclass, field, KW_ONLY\nfrom typing import ClassVar\n"
        "@dataclass\nclass Base:\n    a: int\n    b: list = field(default_factory=list)\n"
        "@dataclass(frozen=True)\nclass A(Base):\n    kind: ClassVar[str] = 'x'\n    _: KW_ONLY\n    c: float = 0.5\n"
        "    d: int = field(init=False)\n    e: dict = field(default_factory=lambda: {'x': 1})\n    b: list = (1,)\n",
        "A",
    )
    assert defaults(signature) == {"a": REQUIRED, "b": [1], "c": 0.5, "e": {"x": 1}}


def test_re_exports_are_followed_round_a_circle_too(read):
    others = {"pkg____init__": "from .inner import *\nfrom .gone import lost\n", "pkg__inner": "def g(x=1): ...\n"}
    assert read("import pkg as p\nf = p.g\n", **others).path == "pkg.inner:g"
    with pytest.raises(ConfigError, match="mine.f is made when mine is imported.*--trust imports it"):
        read("from pkg import lost as f\n", **others)
    with pytest.raises(ConfigError, match="is made when mine is imported"):
        read("from mine import f\n")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("mine.g", "mine.g: no 'g' in mine — did you mean 'gg'?"),
        ("nowhere.f", "nowhere.f: no source code of a module 'nowhere' is found here"),
        ("mine", "'mine' names no module: write package.module.mine, or file.py:mine"),
        ("mine..f", "'mine..f' is no dotted path"),
        ("mine.gg.deeper", "mine.gg.deeper is made when mine is imported"),
        ("broken.f", "broken.py, line 1: not valid Python"),
        ("null.f", "null.py.*null"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, path, said):
    (tmp_path / "mine.py").write_text("def gg(): ...\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "null.py").write_bytes(b"a = '\0'")
    with pytest.raises(ConfigError, match=said):
        signature_of(path, SourceCode(tmp_path))


def test_a_module_is_found_without_its_packages_being_imported(tmp_path):
    file = tmp_path / "around/inner.py"
    file.parent.mkdir()
    file.write_text("")
    (tmp_path / "around/__init__.py").write_text("raise SystemExit('imported')\n")
    assert module_file("around.inner", tmp_path) == file
    assert "around" not in sys.modules
    assert module_file("math") is None
    assert module_file("torch.no_such_thing") is None


def plain(parameter, made):
    if parameter.default is parameter.empty:
        return REQUIRED
    value = made[parameter.name]() if str(parameter.default) == "<factory>" else parameter.default
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, each in registries().items() for name in each.names()]
)
def test_every_registered_component_is_read_as_the_interpreter_tells_it(kind, name):
    registry = registries()[kind]
    signature = signature_of(registry.path(name), SourceCode())
    target = registry.get(name)
    found = inspect.signature(target).parameters
    made = {field.name: field.default_factory for field in getattr(target, "__dataclass_fields__", {}).values()}
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    assert defaults(signature) == {key: plain(p, made) for key, p in found.items() if p.kind in keywords}
    assert defaults(trusted_signature(target, "")) == defaults(signature)


@pytest.mark.parametrize("path", ["torch.optim.AdamW", "torch.optim.lr_scheduler.OneCycleLR", "torch.nn.SmoothL1Loss"])
def test_read_and_imported_signatures_agree(path):
    read = signature_of(path, SourceCode())
    module, _, name = path.rpartition(".")
    imported = trusted_signature(getattr(sys.modules[module], name), path)
    assert defaults(read) == defaults(imported)
    assert [p.positional for p in read.parameters] == [p.positional for p in imported.parameters]
    # torch puts parts of its docstrings together when it is imported.
    texts = {p.name: p.text for p in imported.parameters}
    assert all(p.text in (texts[p.name], "") for p in read.parameters)
    assert sum(bool(p.text) for p in read.parameters) >= 4
    assert (read.summary, read.open_ended) == (imported.summary, imported.open_ended)


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("One line.", "One line"),
        ("Two\nlines without an end", "Two lines without an end"),
        ("Uses :class:`~torch.nn.Module` and ``x``. More.", "Uses Module and `x`"),
        ("Mean of 0.5 x. Then.", "Mean of 0.5 x"),
        ("", ""),
    ],
)
def test_the_first_sentence_is_the_summary(docstring, summary):
    assert summary_of(docstring) == summary


def test_arguments_of_sphinx_docstrings():
    assert arguments_of("Text.\n\n:param a: the first\n:param int b: the second.") == {
        "a": ("", "the first"),
        "b": ("", "the second"),
    }
