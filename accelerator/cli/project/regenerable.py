"""Which generated configs may go: those that nobody edited, nothing chooses, and a command would write again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.add_component import written_again
from accelerator.cli.project.catalogue import Catalogue
from accelerator.cli.project.config_tree import Option, chosen_by, options_below, read_option
from accelerator.cli.project.generated import Generated
from accelerator.cli.project.kinds import KINDS
from accelerator.cli.project.project import Project
from accelerator.errors import ConfigError
from accelerator.utilities.files import short


def regenerable(project: Project) -> Iterator[Path | str]:
    """The files that may go, and a sentence on each that may not."""
    generated = Generated(project)
    options: dict[Path, Option] = {}
    for file in options_below(project.configs) if generated.entries else ():
        try:
            options[file] = read_option(file, project.configs)
        except ConfigError as error:
            yield f"every generated config: what chooses one is not known, for {error.problems[0]}"
            return
    going, edited, lost = _sorted(project, generated, options)
    staying = [option for file, option in options.items() if file not in going]
    while chosen := [file for file in going if chosen_by(options[file], staying)]:
        staying += [options[file] for file in chosen]
        going = [file for file in going if file not in chosen]
        for file in chosen:
            yield f"{short(file)} is chosen by {', '.join(chosen_by(options[file], staying))}"
    for file in lost:
        choosing = chosen_by(options[file], options.values()) if file in options else []
        also = f", and is chosen by {', '.join(choosing)}" if choosing else ""
        yield f"{short(file)} could not be generated again as it is{also}"
    if edited:
        yield f"{edited} generated {'config' if edited == 1 else 'configs'} that somebody edited"
    for name in generated.entries:
        if _leads_elsewhere(project.configs / name, project):
            yield f"{project.configs / name} is not a file of ./configs"
    yield from going


def _sorted(
    project: Project, generated: Generated, options: Mapping[Path, Option]
) -> tuple[list[Path], int, list[Path]]:
    """The generated configs: those a command would write again, how many were edited, and the rest."""
    catalogue = Catalogue(project)
    going: list[Path] = []
    lost: list[Path] = []
    edited = 0
    for name, entry in generated.entries.items():
        path = project.configs / name
        if _leads_elsewhere(path, project):
            continue
        if not generated.untouched(path):
            edited += path.exists()
        elif path in options and path.read_text(encoding="utf-8") == _again(options[path], entry, catalogue):
            going.append(path)
        else:
            lost.append(path)
    return going, edited, lost


def _leads_elsewhere(path: Path, project: Project) -> bool:
    return path.is_symlink() or not path.resolve().is_relative_to(project.configs.resolve())


def _again(option: Option, entry: Mapping[str, Any], catalogue: Catalogue) -> str | None:
    """What the command that generated a config would write today; None where it cannot."""
    if entry.get("by") == "configure":
        packaged = packaged_configs() / option.file.relative_to(catalogue.project.configs)
        return packaged.read_text(encoding="utf-8") if packaged.is_file() else None
    kind = next((kind for kind in KINDS.values() if kind.folder == option.group), None)
    return None if kind is None else written_again(catalogue, kind, option.name)
