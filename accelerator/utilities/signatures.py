"""What a class or function takes, read from its source: names, defaults, types and what its docstring says of them.

Nothing is imported (`signature_of`), unless the user trusts the module (`trusted_signature`).
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from accelerator.utilities.docstrings import arguments_of, summary_of
from accelerator.utilities.source_code import Found, Module, SourceCode, assigned, imported_from

Texts = dict[str, tuple[str, str]]  # type and text of each argument, as a docstring has them

_BASES = 12  # classes above one that are looked at
_CONSTANTS = {"inf": math.inf, "pi": math.pi, "e": math.e, "tau": math.tau, "nan": math.nan}


@dataclass(frozen=True)
class Code:
    """A default that only the running program knows; as it is written there."""

    text: str


class Required:
    """Stands where a parameter has no default."""


REQUIRED = Required()


@dataclass(frozen=True)
class Parameter:
    """One argument.

    Attributes:
        name: its keyword.
        default: a plain value, `Code`, or `REQUIRED`.
        type: its annotation as written; "" without one.
        text: what the docstring says of it, in one line.
        positional: whether it can be given by place.
    """

    name: str
    default: Any
    type: str = ""
    text: str = ""
    positional: bool = True


@dataclass(frozen=True)
class Signature:
    """What a component takes.

    Attributes:
        path: where it is defined, as ``module:attribute``.
        is_class: a class, not a function.
        summary: the first sentence of its docstring.
        parameters: without ``self``.
        open_ended: it takes any keyword beside them.
    """

    path: str
    is_class: bool
    summary: str
    parameters: tuple[Parameter, ...]
    open_ended: bool

    def without(self, names: frozenset[str], first: int = 0) -> Signature:
        """The same without some parameters: by name, and the first so many that are given by place."""
        leading = [parameter.name for parameter in self.parameters if parameter.positional][:first]
        kept = tuple(p for p in self.parameters if p.name not in names and p.name not in leading)
        return replace(self, parameters=kept)


def signature_of(path: str, source: SourceCode) -> Signature:
    """Read the signature of what stands at a path; nothing is imported.

    Raises:
        ConfigError: there is no such class or function, or its signature cannot be read from source.
    """
    found = source.find(path)
    docstring = docstring_of(found)
    if isinstance(found.node, ast.ClassDef):
        parameters, open_ended, more = _of_class(found, source, _BASES)
        texts = more | arguments_of(docstring)
    else:
        parameters, open_ended = _of_function(found.node, found.module, source)
        texts = arguments_of(docstring)
    return Signature(
        found.path,
        isinstance(found.node, ast.ClassDef),
        summary_of(docstring),
        _described(parameters, texts),
        open_ended,
    )


def trusted_signature(target: Callable[..., Any], path: str) -> Signature:
    """The signature of an object that was imported."""
    docstring = inspect.getdoc(target) or ""
    texts = arguments_of(docstring)
    if inspect.isclass(target):
        texts |= arguments_of(inspect.getdoc(target.__init__) or "")
    fields: Mapping[str, Any] = getattr(target, "__dataclass_fields__", {})
    made = {name: field.default_factory for name, field in fields.items() if callable(field.default_factory)}
    parameters, open_ended = [], False
    for name, parameter in inspect.signature(target).parameters.items():
        open_ended |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            note = parameter.annotation
            default = made[name]() if name in made else parameter.default
            parameters.append(
                Parameter(
                    name,
                    REQUIRED if default is parameter.empty else _plain(default),
                    "" if note is parameter.empty else inspect.formatannotation(note),
                    positional=parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
                )
            )
    return Signature(path, inspect.isclass(target), summary_of(docstring), _described(parameters, texts), open_ended)


def _of_class(found: Found, source: SourceCode, bases: int) -> tuple[list[Parameter], bool, Texts]:
    """Parameters, whether any keyword is taken, and what docstrings other than the class's own say of them."""
    node = found.node
    assert isinstance(node, ast.ClassDef)
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if methods:
        parameters, open_ended = _of_function(methods[-1], found.module, source, skip=1)
        return parameters, open_ended, arguments_of(ast.get_docstring(methods[-1]) or "")
    if any(_called(decorator).rpartition(".")[2] == "dataclass" for decorator in node.decorator_list):
        fields, texts = _of_dataclass(found, source, bases)
        return fields, False, texts
    for base in node.bases:
        above = source.resolve(found.module, base) if bases else None
        if isinstance(above, Found) and isinstance(above.node, ast.ClassDef):
            parameters, open_ended, texts = _of_class(above, source, bases - 1)
            if parameters or open_ended:
                return parameters, open_ended, arguments_of(docstring_of(above)) | texts
    return [], False, {}


def _of_dataclass(found: Found, source: SourceCode, bases: int) -> tuple[list[Parameter], Texts]:
    fields: dict[str, Parameter] = {}
    texts: Texts = {}
    assert isinstance(found.node, ast.ClassDef)
    for base in reversed(found.node.bases):
        above = source.resolve(found.module, base) if bases else None
        if isinstance(above, Found) and isinstance(above.node, ast.ClassDef):
            inherited, _, further = _of_class(above, source, bases - 1)
            fields |= {parameter.name: parameter for parameter in inherited}
            texts |= arguments_of(docstring_of(above)) | further
    for node in found.node.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        note = ast.unparse(node.annotation)
        if note.rpartition(".")[2] == "KW_ONLY" or "ClassVar" in note:
            continue
        default: Any = REQUIRED if node.value is None else _evaluated(node.value, found.module, source)
        if isinstance(node.value, ast.Call) and _called(node.value).rpartition(".")[2] == "field":
            given = {keyword.arg: keyword.value for keyword in node.value.keywords}
            if isinstance(init := given.get("init"), ast.Constant) and init.value is False:
                continue
            default = _of_field(given, found.module, source)
        fields[node.target.id] = Parameter(node.target.id, default, note)
    return list(fields.values()), texts


def _of_field(given: Mapping[str | None, ast.expr], module: Module, source: SourceCode) -> Any:
    if "default" in given:
        return _evaluated(given["default"], module, source)
    if (factory := given.get("default_factory")) is None:
        return REQUIRED
    if isinstance(factory, ast.Lambda):
        return _evaluated(factory.body, module, source)
    empty: dict[str, Any] = {"list": [], "tuple": [], "dict": {}}
    name = ast.unparse(factory)
    return empty.get(name, Code(f"{name}()"))


def _of_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | Any, module: Module, source: SourceCode, skip: int = 0
) -> tuple[list[Parameter], bool]:
    given: ast.arguments = node.args
    by_place = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(by_place) - len(given.defaults)) + list(given.defaults)
    pairs = [(argument, default, True) for argument, default in zip(by_place, defaults, strict=True)][skip:]
    pairs += [(argument, default, False) for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    parameters = [
        Parameter(
            argument.arg,
            REQUIRED if default is None else _evaluated(default, module, source),
            "" if argument.annotation is None else _annotation(argument.annotation),
            positional=positional,
        )
        for argument, default, positional in pairs
    ]
    return parameters, given.kwarg is not None


def _evaluated(node: ast.expr, module: Module, source: SourceCode) -> Any:
    """A default as a plain value: a literal, a constant of a module, infinity; else `Code`."""
    try:
        return _plain(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    text = ast.unparse(node)
    head, _, name = text.rpartition(".")
    if head in ("math", "torch", "np", "numpy", "") and name in _CONSTANTS and (head or text == "inf"):
        return _CONSTANTS[name]
    if re.fullmatch(r"-?float\(['\"][-+]?(inf|nan)['\"]\)", text):
        return float(re.sub(r"float|[()'\"]", "", text))
    if isinstance(node, ast.Name) and (value := _constant(node.id, module, source)) is not None:
        return value
    return Code(text)


def _constant(name: str, module: Module, source: SourceCode) -> Any:
    """The plain value of a module's constant, of one that it imports too; None if it has none."""
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom):
            original = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in original and (other := source.module(imported_from(module, node))) is not None:
                return _literal(assigned(other.tree, original[name]))
    return _literal(assigned(module.tree, name))


def _literal(node: ast.expr | None) -> Any:
    try:
        value = None if node is None else _plain(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return None if isinstance(value, Code) else value


def _plain(value: Any) -> Any:
    """A value as YAML has it: tuples are lists; `Code` for what YAML has no form for."""
    if value is None or isinstance(value, bool | int | float | str):
        # An enumeration's member that is also a string or number would lose what it is.
        return value if type(value) in (type(None), bool, int, float, str) else Code(repr(value))
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return Code(repr(value)) if any(isinstance(item, Code) for item in items) else items
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = {key: _plain(item) for key, item in value.items()}
        return Code(repr(value)) if any(isinstance(item, Code) for item in items.values()) else items
    return Code(repr(value))


def _called(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _annotation(node: ast.expr) -> str:
    """As written; one in quotes without them."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def docstring_of(found: Found) -> str:
    """Its docstring; what the module assigns to ``Name.__doc__`` where there is none (torch's optimizers)."""
    if text := ast.get_docstring(found.node):
        return text
    for node in found.module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{found.qualname}.__doc__":
            parts = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            return inspect.cleandoc("\n".join(parts))
    return ""


def _described(parameters: list[Parameter], texts: Texts) -> tuple[Parameter, ...]:
    return tuple(
        replace(p, text=texts.get(p.name, ("", ""))[1], type=p.type or texts.get(p.name, ("", ""))[0])
        for p in parameters
    )
