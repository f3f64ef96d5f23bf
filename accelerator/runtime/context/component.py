"""A section of the config becomes an object, in one way.

A section is ``name: <registered name>`` or ``_target_: <dotted path>``, plus the plain keyword arguments of what it
names. A nested mapping with either key is a component too. A few arguments, such as ``input_shape``, are
*offered* by the run: they are passed when the signature asks for them and the config leaves them open.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Container, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.base_registry import load, registry
from accelerator.utilities.places import where_defined, where_raised

# A config is data: it must not be able to run os.system. `torch` itself is too wide (torch.load, torch.hub), and so is
# `accelerator.runtime` (it writes files).
ALLOWED_PREFIXES = (
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "accelerator.runtime.callbacks",
    "accelerator.runtime.engine",
    "accelerator.multilevel",
    "accelerator.acceleration",
    "domain",
    "kornia",
    "torchmetrics",
)

# Inside them, and yet refused: its decoders unpickle what they are given.
REFUSED_PREFIXES = ("torch.utils.data.datapipes",)

# Kinds whose functions are the component: their arguments are bound now, and the call comes later.
CALLED_LATER = frozenset({"loss", "metric"})

# What a run calls methods of that its own code cannot do without.
_BASES = {
    "model": "torch.nn:Module",
    "transform": "torch.nn:Module",
    "optimizer": "torch.optim:Optimizer",
    "callback": "accelerator.runtime.callbacks.base:Callback",
}

_RESERVED = frozenset({"name", "_target_"})


def is_component(value: object) -> bool:
    """Whether a config value is a mapping that names something to build."""
    return isinstance(value, Mapping) and ("name" in value or "_target_" in value)


def label_of(section: Mapping[str, Any]) -> str:
    """What a section calls its component: the name or the path."""
    target = section.get("_target_")
    return str(section.get("name") if target in (None, "???") else target)


def present(sections: Mapping[str, Any] | None) -> dict[str, Any]:
    """A mapping of components by the user's names for them, without those set to null: that is how one is removed."""
    return {name: section for name, section in (sections or {}).items() if section is not None}


def find(kind: str, section: Mapping[str, Any], key: str, imports: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The class or function a section names.

    Args:
        kind: the registry to look in.
        section: the mapping with ``name`` or ``_target_``.
        key: where the section stands in the config, for messages.
        imports: the user's own packages, allowed as prefixes of ``_target_``.

    Raises:
        ConfigError: nothing is named, the name is unknown, or the path is not importable or not allowed.
    """
    if section.get("_target_") == "???" and section.get("name") is None:
        raise ConfigError(
            f"{key}._target_ is required: set {key}._target_=<package>.<module>.<Class>, and imports=[<package>]; what "
            f"is registered has a name: {key}.name=…"
        )
    if section.get("_target_") not in (None, "???") and section.get("name") is not None:
        raise ConfigError(
            f"{key} has both a name ({section['name']}) and a _target_ ({section['_target_']}); choose one: "
            f"{key}=custom holds a _target_ alone, {key}.name=null drops the name"
        )
    if section.get("_target_") not in (None, "???"):
        return _locate(str(section["_target_"]), key, imports)
    name = section.get("name")
    if not isinstance(name, str) or name == "???":
        raise ConfigError(f"{key}.name is missing: set it to a registered {kind}{did_you_mean('', _names(kind))}")
    try:
        return registry(kind).get(name)
    except ConfigError as error:
        raise ConfigError(f"{key}.name: {error}") from None


def check(
    kind: str,
    section: Mapping[str, Any],
    key: str,
    *,
    offered: tuple[str, ...] = (),
    imports: tuple[str, ...] = (),
) -> list[str]:
    """Every mistake in a section that can be told from the signature of what it names.

    Returns:
        One sentence for each: unknown or missing arguments, values of the wrong type, nested components included.
    """
    try:
        target = find(kind, section, key, imports)
    except ConfigError as error:
        return error.problems
    label = label_of(section)
    arguments = {name: value for name, value in section.items() if name not in _RESERVED}
    parameters = parameters_of(target)
    # What a loss or metric function is called with later is not for the config to give.
    later = 2 if kind in CALLED_LATER and not inspect.isclass(target) else 0
    for name in [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD][:later]:
        del parameters[name]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    types = _types(target)

    problems = []
    for name, value in arguments.items():
        if name not in known and not open_ended:
            settable = [argument for argument in known if argument not in offered]
            near = did_you_mean(name, known, show=0) or did_you_mean(name, settable)
            problems.append(f"{key}.{name}: '{label}' has no such argument{near}")
        elif value == "???":
            problems.append(f"{key}.{name} is required: set {key}.{name}=…")
        elif is_component(value):
            problems += check(kind, value, f"{key}.{name}", offered=offered, imports=imports)
        elif isinstance(value, Mapping) and any(is_component(item) for item in value.values()):
            for item, nested in value.items():
                problems += check(kind, nested, f"{key}.{name}.{item}", offered=offered, imports=imports)
        elif value is None and name in offered:
            continue  # left open: the run fills it
        elif name in types and (complaint := _wrong_type(types[name], value)):
            problems.append(f"{key}.{name}={value!r}: {complaint}")
    problems += [
        f"{key}.{name} is required by '{label}': set {key}.{name}=…"
        for name in known
        if parameters[name].default is inspect.Parameter.empty and name not in arguments and name not in offered
    ]
    return problems


def build(
    kind: str,
    section: Mapping[str, Any],
    key: str,
    *,
    imports: tuple[str, ...] = (),
    **offered: Any,
) -> Any:
    """Make the object a section describes.

    Args:
        kind: the registry to look in.
        section: ``name`` or ``_target_`` and keyword arguments.
        key: where the section stands in the config, for messages.
        imports: the user's own packages, allowed as prefixes of ``_target_``.
        offered: arguments passed if the signature has them and the config does not set them (or sets null).

    Raises:
        ConfigError: the section does not fit the signature, the constructor refused its arguments, or what it made is
            of another kind.
    """
    made = _made(kind, section, key, imports, offered)
    _check_kind(kind, made, key)
    return made


def _made(kind: str, section: Mapping[str, Any], key: str, imports: tuple[str, ...], offered: Mapping[str, Any]) -> Any:
    if problems := check(kind, section, key, offered=tuple(offered), imports=imports):
        raise ConfigError(problems)
    target = find(kind, section, key, imports)
    arguments = {
        name: _nested(kind, value, f"{key}.{name}", imports, offered)
        for name, value in section.items()
        if name not in _RESERVED
    }
    wanted = parameters_of(target)
    for name, value in offered.items():
        if name in wanted and arguments.get(name) is None:
            arguments[name] = value
    if kind in CALLED_LATER and not inspect.isclass(target):
        return functools.partial(target, **arguments) if arguments else target
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {label_of(section)}: {error}") from error
    except ConfigError as error:
        raise ConfigError(_placed(problem, key, arguments, wanted) for problem in error.problems) from error


def _check_kind(kind: str, made: object, key: str) -> None:
    """See that an object is what a run uses it as."""
    base = load(_BASES[kind]) if kind in _BASES else object
    if not isinstance(made, cast("type", base)):
        raise ConfigError(f"{key}: {where_defined(type(made))} is no {_BASES[kind].replace(':', '.')}")
    if kind == "optimizer":
        closure = inspect.signature(cast("Any", made).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError(
                f"{key}: {type(made).__name__} evaluates the loss several times a step, by a closure that the training "
                "loop does not give: choose another, such as optimizer=adam"
            )


def _placed(problem: str, key: str, arguments: Mapping[str, Any], known: Container[str]) -> str:
    """What a constructor says of its arguments, with the key that one of them has in the config."""
    if (first := re.match(r"\w+\b(?!\.)", problem)) is not None and first.group() in known:
        return f"{key}.{problem}"
    if re.match(r"\w+\.[\w.]+\b|\w+=", problem):  # it names a key itself
        return problem
    given = [name for name, value in arguments.items() if isinstance(value, str) and repr(value) in problem]
    return f"{key}.{given[0]}: {problem}" if len(given) == 1 else f"{key}: {problem}"


def _nested(kind: str, value: Any, key: str, imports: tuple[str, ...], offered: Mapping[str, Any]) -> Any:
    if is_component(value):
        return _made(kind, value, key, imports, offered)
    if isinstance(value, Mapping):
        return {name: _nested(kind, item, f"{key}.{name}", imports, offered) for name, item in value.items()}
    return value


def _locate(path: str, key: str, imports: tuple[str, ...]) -> Callable[..., Any]:
    own = own_packages(imports)
    allowed = (*ALLOWED_PREFIXES, *own)
    if not has_prefix(path, allowed):
        module, package = path.rpartition(".")[0], path.split(".")[0]
        if not module:
            raise ConfigError(f"{key}._target_={path}: expected a dotted path, <package>.<module>.{path}")
        near = did_you_mean(module, allowed, most=1, show=0)
        own_one = "" if package == "torch" else f"; if it is your own, add it: imports=[{package}]"
        raise ConfigError(
            f"{key}._target_={path}: '{package}' is not among the packages a config may build from "
            f"({', '.join(allowed)}){near}{own_one}"
        )
    if has_prefix(path, REFUSED_PREFIXES) or ("._" in path and not has_prefix(path, own)):
        raise ConfigError(f"{key}._target_={path} is not for a config to build: name a public class or function")
    parts = path.split(".")
    found: Any = None
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if error.name and not ".".join(parts).startswith(error.name):
                raise ConfigError(
                    f"{key}._target_={path}: importing it failed: {error} {where_raised(error)}"
                ) from error
            continue
        except Exception as error:
            told = f"{type(error).__name__}: {error} {where_raised(error)}".rstrip()
            raise ConfigError(f"{key}._target_={path}: importing it failed: {told}") from error
        parts = parts[split:]
        break
    else:
        raise ConfigError(f"{key}._target_={path}: no module '{parts[0]}' here; install it or mend the path")
    for part in parts:
        around = found
        found = getattr(found, part, None)
        if found is None:
            raise ConfigError(f"{key}._target_={path}: no '{part}' there{did_you_mean(part, _public(around))}")
    # The path may lead out of its package through a module it imports (torch.nn.functional.importlib): look again.
    home = getattr(found, "__module__", "") or ""
    inside = has_prefix(f"{home}.", (*allowed, "torch._C._nn")) and not has_prefix(f"{home}.", REFUSED_PREFIXES)
    if isinstance(found, ModuleType) or not callable(found) or not inside:
        raise ConfigError(f"{key}._target_={path} is not a class or function of an allowed package")
    return found


def own_packages(imports: tuple[str, ...]) -> tuple[str, ...]:
    """The user's own packages: to import the standard library, or torch, does not open them to a config."""
    heads = {name.split(".")[0] for name in imports} - sys.stdlib_module_names - {"torch", "accelerator"}
    return tuple(sorted(heads))


def has_prefix(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted path leads into one of some packages."""
    return any(path.startswith(prefix + ".") for prefix in prefixes)


def _public(namespace: Any) -> list[str]:
    return [name for name in dir(namespace) if not name.startswith("_")]


def _names(kind: str) -> list[str]:
    return registry(kind).names()


def parameters_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a class or function takes, by name."""
    try:
        return dict(inspect.signature(target).parameters)
    except ValueError:  # torch's compiled functions have no signature: any argument may be right
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


def _types(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}  # annotations that only a type checker can read


def _wrong_type(annotation: Any, value: Any) -> str | None:
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        # A list may stand for a tuple, but "5" is no number: what is checked here is passed on as it is.
        adapter.validate_python(value, strict=isinstance(value, str | int | float))
    except ValidationError as error:
        first = error.errors()[0]
        return f"expected {_readable(annotation)}: {first['msg']}"
    except (PydanticUserError, TypeError):
        return None
    return None


def _readable(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
