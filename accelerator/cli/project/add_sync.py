"""``accelerator add --sync``: the config tree beside what is registered: what is new, stale or different.

New is what the project, or an installed package of components, registers and no file names. The platform's own need no
file; ``accelerator add --sync KIND`` writes one for those too that have none.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.add_component import Component
from accelerator.cli.project.catalogue import Catalogue
from accelerator.cli.project.component_yaml import MISSING, PLACES, component_yaml, defaults_of
from accelerator.cli.project.config_tree import Option, Part, options_below, read_option
from accelerator.cli.project.generated import Generated
from accelerator.cli.project.kind_check import wrong_kind
from accelerator.cli.project.kinds import KINDS, Kind
from accelerator.cli.project.project import Project, to_write_in
from accelerator.errors import ConfigError
from accelerator.utilities.files import short
from accelerator.utilities.signatures import REQUIRED, Signature, signature_of

_PLATFORM = ("accelerator.", "domain.")  # modules of this distribution

NEW, STALE, DIFFERENT, UPDATED, BROKEN = "new", "stale", "different", "updated", "broken"


class Finding(NamedTuple):
    """One thing that is to be said of a config.

    Attributes:
        state: `NEW`, `STALE` (its component is gone), `DIFFERENT` (the signature says something else), `UPDATED` (the
            same, and nobody has edited the file), or `BROKEN` (it cannot be read, or is of another kind).
        file: the config.
        text: what is so.
        content: what the file is to hold, for `NEW` and `UPDATED`.
        component: for the same two, what it is of.
    """

    state: str
    file: Path
    text: str
    content: str = ""
    component: Component | None = None


def sync(options: Namespace) -> None:
    """Write what is new, update what nobody edited, and report what is left to the user."""
    project = to_write_in()
    generated = Generated(project)
    kind: Kind | None = options.kind
    findings = [finding for finding in compared(project, generated) if _is_meant(finding.file, project, options)]
    told = {finding.file for finding in findings}
    findings += [finding for finding in missing(project, kind, options.name) if finding.file not in told]
    Catalogue(project).warn()
    files: dict[Path, str] = {}
    for finding in findings:
        if finding.component is not None:
            generated.outcome(finding.file, finding.content)  # refuses what leads out of the project
            facts = finding.component.facts(_kind_at(finding.file, project))
            generated.remember(finding.file, finding.content, by="add", **facts)
            files[finding.file] = finding.content
    if files and not options.dry_run:
        generated.write(files)
    width = max((len(finding.state) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.state:<{width}}  {short(finding.file)}  {finding.text}")
    written = sum(finding.component is not None for finding in findings)
    left = len(findings) - written
    if not findings:
        print(_nothing(project, kind, options.name))
    elif options.dry_run and written:
        meant = " ".join(["accelerator add --sync", *([] if kind is None else [kind.name]), options.name or ""])
        print(f"\nnext: {meant.strip()}  writes {_files(written)}")
    if left:
        print(f"\n{left} of these are for you to mend: edit or remove the file, or accelerator add KIND NAME --force")


def compared(project: Project, generated: Generated) -> Iterator[Finding]:
    """What the project's own files say that their components' signatures do not."""
    catalogue = Catalogue(project)
    if project.is_the_platform or not project.configs.is_dir():
        return
    for file in options_below(project.configs):
        try:
            option = read_option(file, project.configs)
        except ConfigError as error:
            for problem in error.problems:
                yield Finding(BROKEN, file, problem.removeprefix(f"{short(file)}, "))
            continue
        for part in option.parts:
            if part.is_open or (part.kind.name, part.reference[1]) in catalogue.twice:
                continue
            try:
                signature = part.signature(catalogue)
            except ConfigError as error:
                yield Finding(STALE, file, f"{part.key}: {error}" if part.key else str(error))
                continue
            if wrong := wrong_kind(part.kind, signature.path, catalogue.source):
                yield Finding(BROKEN, file, f"{part.key}: {wrong}" if part.key else wrong)
            elif changes := list(_changes(part, signature, generated.entry(file))):
                yield _changed(option, part, signature, generated, "; ".join(changes))


def missing(project: Project, only: Kind | None = None, called: str | None = None) -> Iterator[Finding]:
    """The registered components that no file names.

    Args:
        project: whose files they are.
        only: of this kind, with those of the platform; else of every kind, without.
        called: only the one of this name.
    """
    catalogue = Catalogue(project)
    named = set(_named(packaged_configs())) | (set(_named(project.configs)) if project.configs.is_dir() else set())
    for kind in KINDS.values() if only is None else [only]:
        for name, path in sorted(catalogue.names(kind).items()):
            if (kind.name, name) in named or called not in (None, name):
                continue
            if only is None and name not in catalogue.own[kind.name] and path.startswith(_PLATFORM):
                continue
            component = Component(("name", name), signature_of(path, catalogue.source), None)
            text = component_yaml(kind, name, component.signature, component.reference)
            file = project.configs / kind.folder / f"{name}.yaml"
            if file.exists():
                yield Finding(DIFFERENT, file, f"it does not hold the {kind.name} '{name}' ({path})")
            else:
                yield Finding(NEW, file, path, text, component)


def _changes(part: Part, signature: Signature, entry: dict[str, object] | None) -> Iterator[str]:
    """How a component's signature differs from what a file sets, and from what it was when the file was generated."""
    settable = part.kind.settable(signature)
    known = {parameter.name for parameter in signature.parameters}
    if not signature.open_ended:
        for name in part.values:
            if name not in known:
                yield f"it sets '{name}', which {signature.path} does not take"
    for parameter in settable.parameters:
        if parameter.default is REQUIRED and parameter.name not in part.values:
            yield f"{signature.path} needs '{parameter.name}', which it does not set"
    before = (entry or {}).get("defaults")
    if not isinstance(before, dict) or (entry or {}).get("component") != signature.path:
        return
    for name, value in defaults_of(settable).items():
        if name not in before:
            yield f"'{name}' has come since, with the default {value}"
        elif before[name] != value:
            yield f"the default of '{name}' was {before[name]}, and is {value}"


def _changed(option: Option, part: Part, signature: Signature, generated: Generated, text: str) -> Finding:
    entry = generated.entry(option.file)
    if entry is None or entry.get("by") != "add" or not generated.untouched(option.file):
        return Finding(DIFFERENT, option.file, text)
    places = tuple(p for p in PLACES if any(each.key.startswith(f"{p}.") for each in option.parts)) or PLACES[:1]
    given = {key: value for key, value in part.values.items() if isinstance(value, str) and value != MISSING}
    component = Component(part.reference, signature, None, given)
    name = option.name if part.kind.form == "section" else part.key.rpartition(".")[2]
    content = component_yaml(part.kind, name, signature, part.reference, places=places, given=given)
    return Finding(UPDATED, option.file, text, content, component)


def _named(root: Path) -> Iterator[tuple[str, str]]:
    """Kind and name of every registered component that a file below a folder names."""
    for file in options_below(root):
        try:
            option = read_option(file, root)
        except ConfigError:
            continue
        yield from ((part.kind.name, part.reference[1]) for part in option.parts if part.reference[0] == "name")


def _is_meant(file: Path, project: Project, options: Namespace) -> bool:
    """Whether a file is of the kind and the name that were given."""
    if options.kind is None:
        return True
    return file.parent == project.configs / options.kind.folder and options.name in (None, file.stem)


def _nothing(project: Project, kind: Kind | None, name: str | None) -> str:
    """What is said where nothing is to be done.

    Raises:
        ConfigError: there is no component of the name.
    """
    if kind is None:
        return "every component of this project is in the config tree, with the arguments it takes"
    catalogue = Catalogue(project)
    if name is not None and name not in catalogue.names(kind):
        raise catalogue.unknown(kind, name)
    what = f"every {kind.name}" if name is None else f"the {kind.name} '{name}'"
    return f"{what} is in the config tree, with the arguments it takes"


def _kind_at(file: Path, project: Project) -> Kind:
    folder = file.parent.relative_to(project.configs).as_posix()
    return next(kind for kind in KINDS.values() if kind.folder == folder)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
