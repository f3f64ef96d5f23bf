"""``accelerator add KIND NAME``: the YAML of a component that exists."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from accelerator.cli.command import working_directory_importable
from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.catalogue import Catalogue, module_of
from accelerator.cli.project.component_yaml import MISSING, PLACES, component_yaml, defaults_of
from accelerator.cli.project.generated import KEPT, NEW, REPLACED, SAME, UPDATED, Generated
from accelerator.cli.project.kind_check import wrong_kind
from accelerator.cli.project.kinds import Kind
from accelerator.cli.project.project import Project, check_name, load_mapping, to_write_in
from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.files import short
from accelerator.utilities.signatures import REQUIRED, Signature, signature_of


class Component(NamedTuple):
    """One that was found.

    Attributes:
        reference: how its YAML names it: ``("name", …)`` or ``("_target_", …)``.
        signature: what it takes.
        needs_import: a module that every run must import for it; None for what is known anyway.
        given: values of arguments without a default, from the packaged option of its name.
    """

    reference: tuple[str, str]
    signature: Signature
    needs_import: str | None
    given: Mapping[str, str] = MappingProxyType({})

    def facts(self, kind: Kind) -> dict[str, Any]:
        """What is remembered of it, to see later how its signature has changed."""
        return {"component": self.signature.path, "defaults": defaults_of(kind.settable(self.signature))}


def add_component(options: Namespace) -> None:
    """Write the YAML of a component, and say how it is used."""
    project, kind, name = to_write_in(), options.kind, options.name
    catalogue = Catalogue(project)
    if not _has_a_hyphen(name) or not (catalogue.names(kind).get(name) or catalogue.elsewhere(kind, name)):
        check_name(name, f"a {kind.name}")
    component = _found(catalogue, kind, name, options.target, trust=options.trust)
    catalogue.warn()
    if wrong := wrong_kind(kind, component.signature.path, catalogue.source):
        raise ConfigError(wrong)
    places = places_of(kind, options.place)
    text = component_yaml(kind, name, component.signature, component.reference, places=places, given=component.given)
    path = project.configs / kind.folder / f"{name}.yaml"
    generated = Generated(project)
    outcome = generated.outcome(path, text, force=options.force)
    if outcome == KEPT or (outcome == UPDATED and not options.force):
        edited = "as somebody edited it" if outcome == KEPT else "as it was generated"
        raise ConfigError(f"{short(path)} is there already, {edited}, and differs: --force replaces it")
    imports = None if component.needs_import is None else project.with_import(component.needs_import)
    if not options.dry_run:
        files = {} if imports is None else {project.file: imports}
        if outcome != SAME:
            files[path] = text
            generated.remember(path, text, by="add", **component.facts(kind))
        if files:
            generated.write(files)
    told(path, text, outcome, dry_run=options.dry_run)
    if imports is not None:
        added = "would get" if options.dry_run else "has"
        print(f"{short(project.file)}: {added} '{component.needs_import}' among its imports")
    if (packaged_configs() / kind.folder / path.name).exists() and not project.is_the_platform:
        print(f"it takes the place of the packaged configs/{kind.folder}/{path.name}")
    print(f"component: {component.signature.path}")
    tell_next(kind, name, component)


def _has_a_hyphen(name: str) -> bool:
    """Whether it is no name of Python, and yet one that a component can be registered under, and an option called."""
    return re.fullmatch(r"[A-Za-z]\w*(-\w+)+", name, re.ASCII) is not None


def written_again(catalogue: Catalogue, kind: Kind, name: str) -> str | None:
    """What ``accelerator add KIND NAME`` writes of an installed component; None where it would write nothing."""
    if name in catalogue.own[kind.name]:
        return None
    try:
        component = _found(catalogue, kind, name, None, trust=False)
    except ConfigError:
        return None
    if component.needs_import is not None:
        return None
    return component_yaml(kind, name, component.signature, component.reference, given=component.given)


def told(path: Path, text: str, outcome: str, *, dry_run: bool) -> None:
    """Say what became of a file; in a dry run, show it."""
    does = {NEW: "write", REPLACED: "replace", UPDATED: "replace", SAME: "leave as it is"}[outcome]
    done = {NEW: "written", REPLACED: "replaced", UPDATED: "replaced", SAME: "unchanged"}[outcome]
    print(f"{short(path)}: {f'would {does}' if dry_run else done}")
    if dry_run and outcome != SAME:
        print("".join(f"  {line}\n" for line in text.splitlines()), end="")


def tell_next(kind: Kind, name: str, component: Component) -> None:
    """What to type next, what must be given included."""
    parameters = kind.settable(component.signature).parameters
    required = [p.name for p in parameters if p.default is REQUIRED and p.name not in component.given]
    section = {
        "metric": f"metrics.{name}",
        "callback": f"callbacks.{name}",
        "transform": f"transform.{PLACES[0]}.{name}",
    }
    given = "".join(f" {section.get(kind.name, kind.name)}.{argument}=…" for argument in required)
    print(f"next: {kind.use.format(name)}{given}")
    if required:
        print(f"      or write the values into the file, in place of {MISSING}")


def places_of(kind: Kind, place: str | None) -> tuple[str, ...]:
    """What a transform is applied to.

    Raises:
        ConfigError: there is no such place, or this is no transform.
    """
    if place is None:
        return PLACES[:1]
    if kind.name != "transform":
        raise ConfigError(f"--place is for transforms: a {kind.name} has none")
    chosen = tuple(place.split(","))
    if wrong := [each for each in chosen if each not in PLACES]:
        raise ConfigError(f"--place {place}: no place '{wrong[0]}'{did_you_mean(wrong[0], PLACES)}")
    return chosen


def _found(catalogue: Catalogue, kind: Kind, name: str, target: str | None, *, trust: bool) -> Component:
    if target is not None:
        return _by_target(catalogue, target, trust=trust)
    if (path := catalogue.names(kind).get(name)) is not None:
        return Component(("name", name), _signature(catalogue, path, trust=trust), None)
    if (path := catalogue.in_namespace(kind, name)) is not None:
        return Component(("name", name), _signature(catalogue, path, trust=trust), None)
    if (elsewhere := catalogue.elsewhere(kind, name)) is not None:
        module, path = elsewhere
        return Component(("name", name), _signature(catalogue, path, trust=trust), module)
    preset = packaged_configs() / kind.folder / f"{name}.yaml"
    if preset.is_file() and isinstance(registered := (values := load_mapping(preset)).get("name"), str):
        found = _found(catalogue, kind, registered, None, trust=trust)
        given = {key: value for key, value in values.items() if isinstance(value, str) and value.startswith("${")}
        return Component(("name", registered), found.signature, None, given)
    raise catalogue.unknown(kind, name)


def _by_target(catalogue: Catalogue, target: str, *, trust: bool) -> Component:
    file, colon, attribute = target.partition(":")
    if colon and file.endswith(".py"):
        path = f"{module_of(Path(file), catalogue.project.root)}.{attribute}"
    elif target.endswith(".py"):
        raise ConfigError(f"--target {target}: which class or function in it? {target}:Name")
    else:
        path = target.replace(":", ".")
    signature = _signature(catalogue, path, trust=trust)
    return Component(("_target_", path), signature, _import_for(path, signature, catalogue.project))


def _signature(catalogue: Catalogue, path: str, *, trust: bool) -> Signature:
    if not trust:
        return signature_of(path, catalogue.source)
    from accelerator.utilities.signatures import trusted_signature

    with working_directory_importable():
        return trusted_signature(_imported(path.replace(":", ".")), path)


def _imported(path: str) -> Any:
    """What stands at a dotted path, imported: only where the user said so."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:split])
        try:
            found: Any = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise ConfigError(f"importing {name} failed: {error}") from error
            continue
        except Exception as error:
            raise ConfigError(f"importing {name} failed: {type(error).__name__}: {error}") from error
        for part in parts[split:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
        raise ConfigError(f"{path}: no class or function of that name in {name}")
    raise ConfigError(f"{path}: no module '{parts[0]}' here; install it or mend the path")


def _import_for(path: str, signature: Signature, project: Project) -> str | None:
    """The module to import so that a config may build from this path; None where it may anyway.

    Raises:
        ConfigError: no config may, whatever it imports.
    """
    from accelerator.runtime.context.component import ALLOWED_PREFIXES, REFUSED_PREFIXES, has_prefix, own_packages

    head = path.split(".")[0]
    home = signature.path.replace(":", ".")
    if has_prefix(path, ALLOWED_PREFIXES) and has_prefix(home, ALLOWED_PREFIXES):
        if has_prefix(path, REFUSED_PREFIXES) or has_prefix(home, REFUSED_PREFIXES) or "._" in path:
            raise ConfigError(f"{path} is not for a config to build: name a public class or function")
        return None
    if not own_packages((head,)) or not (has_prefix(home, own_packages((head,))) or has_prefix(home, ALLOWED_PREFIXES)):
        allowed = ", ".join(ALLOWED_PREFIXES)
        raise ConfigError(
            f"{path} ({home}) is not among what a config may build from: {allowed}, or a package of yours"
        )
    module = path.rpartition(".")[0] if (project.root / f"{head}.py").is_file() else head
    return None if head in _heads(project.imports) else module


def _heads(imports: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in imports}
