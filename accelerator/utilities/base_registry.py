"""Names become objects here, and only here: one registry for each kind of component.

A registry maps a *name* (what stands in YAML) to a dotted path ``module:attribute`` and imports it on
first use, so listing what exists never imports torch. Three sources fill it:

- the table ``COMPONENTS`` of every package behind an entry point of the group ``accelerator.domains``;
- ``@register("loss", "my_loss")`` on the user's own class or function, found through ``imports:`` in the config;
- a namespace of torch, for kinds whose members are known by their class name (``torch.optim.AdamW`` is ``AdamW``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeGuard, TypeVar

from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.places import where_defined

T = TypeVar("T", bound=Callable[..., Any])

KINDS = (
    "model",
    "data",
    "loss",
    "transform",
    "metric",
    "optimizer",
    "scheduler",
    "callback",
    "engine",
    "multilevel",
    "acceleration",
)

# Kinds that also answer to the class names of a torch namespace.
NAMESPACES = {"optimizer": "torch.optim", "scheduler": "torch.optim.lr_scheduler"}

ENTRY_POINT_GROUP = "accelerator.domains"


class Registry:
    """The names of one kind of component.

    Args:
        kind: what the members are, as written in messages ("loss", "model", …).
        namespace: a module whose public classes are members under their own names.
    """

    def __init__(self, kind: str, namespace: str | None = None) -> None:
        self.kind = kind
        self.namespace = namespace
        self._members: dict[str, str | Callable[..., Any]] = {}

    def add(self, name: str, target: str | Callable[..., Any]) -> None:
        """Give ``target`` (an object, or its path ``module:attribute``) a name.

        Raises:
            ConfigError: another object has the name already.
        """
        known = self._members.get(name)
        if known is not None and _path(known) != _path(target):
            places = " and ".join(each if isinstance(each, str) else where_defined(each) for each in (known, target))
            raise ConfigError(f"two {self.kind} components are called '{name}': {places}; rename one")
        self._members[name] = target

    def names(self) -> list[str]:
        """Every registered name, sorted; the torch namespace's classes are not listed."""
        return sorted(self._members)

    def path(self, name: str) -> str:
        """Where the member lives, as ``module:attribute``."""
        return _path(self._members[name]) if name in self._members else f"{self.namespace}:{name}"

    def get(self, name: str) -> Callable[..., Any]:
        """The class or function called ``name``.

        Raises:
            ConfigError: no such member; the message gives the nearest names.
        """
        if name in self._members:
            target = self._members[name]
            return load(target) if isinstance(target, str) else target
        if self.namespace is not None:
            found = getattr(import_module(self.namespace), name, None)
            if _belongs(found, self.namespace):
                return found
        raise ConfigError(f"unknown {self.kind} '{name}'{did_you_mean(name, self._candidates())}")

    def _candidates(self) -> list[str]:
        if self.namespace is None:
            return self.names()
        public = vars(import_module(self.namespace)).items()
        return self.names() + [name for name, value in public if _belongs(value, self.namespace)]


def load(path: str) -> Callable[..., Any]:
    """Import the object at ``module:attribute``."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


@cache
def registries() -> dict[str, Registry]:
    """All registries by kind, filled from the installed domains."""
    found = {kind: Registry(kind, NAMESPACES.get(kind)) for kind in KINDS}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        for kind, members in import_module(entry.value).COMPONENTS.items():
            if kind not in found:
                raise ConfigError(
                    f"{entry.value}.COMPONENTS: unknown kind of component '{kind}'{did_you_mean(kind, KINDS)}"
                )
            for name, target in members.items():
                found[kind].add(name, target)
    return found


def registry(kind: str) -> Registry:
    """The registry of one kind; see `KINDS`."""
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of component '{kind}'{did_you_mean(kind, KINDS)}")
    return registries()[kind]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class or function decorator: makes it available in configs under ``name``.

    >>> @register("loss", "twice")
    ... def twice(prediction, target): ...
    """

    def decorate(target: T) -> T:
        registry(kind).add(name, target)
        return target

    return decorate


def _belongs(value: Any, namespace: str) -> TypeGuard[type]:
    """Whether it is a public class of this module, and not one that the module itself imports."""
    return isinstance(value, type) and value.__module__.startswith(namespace) and not value.__name__.startswith("_")


def _path(target: str | Callable[..., Any]) -> str:
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
