"""``accelerator status``: what a project's configs override, what differs, and what in them is broken or unused."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerator import __version__
from accelerator.cli.actions import run_alone
from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.add_sync import compared
from accelerator.cli.project.catalogue import Catalogue
from accelerator.cli.project.config_tree import Option, chosen_by, read_option
from accelerator.cli.project.configure import packaged_groups
from accelerator.cli.project.generated import Generated
from accelerator.cli.project.project import PROJECT_FILE, Project, here, load_mapping
from accelerator.cli.project.trial import trials
from accelerator.errors import ConfigError, UserError, did_you_mean
from accelerator.utilities.files import short
from accelerator.utilities.nested import leaves
from accelerator.utilities.source_code import module_file

_SHOWN = 3  # differences of a file that are told; the rest are counted

_EPILOG = """examples
  accelerator status                 the files of ./configs, each with what it is
  accelerator status --json          the same for programs

A run is composed with each file that one can choose, and compared with the signatures of what it names, as accelerator
train does before it builds anything. For that the project's modules are imported, and torch: a few seconds. With
--no-import the files are only composed, and their components read from source.

Exit code 3 if a file is broken: it does not compose, or does not fit what it names."""


@dataclass
class FileStatus:
    """One file of the project's configs.

    Attributes:
        file: below ``configs``.
        state: ``own``, ``generated`` (and as it was), or ``edited`` (generated, and edited since).
        overrides: whether it takes the place of a packaged one.
        differences: from that one, one for each key; empty if they say the same.
        outdated: a copy nobody edited, of a packaged file that has changed since.
        chosen_by: the files that choose it.
        problems: why it is broken.
        unused: why no run reads it.
    """

    file: str
    state: str
    overrides: bool
    differences: list[str] = field(default_factory=list)
    outdated: bool = False
    chosen_by: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unused: str | None = None


def status_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "What ./configs overrides, how it differs from the packaged configs, what is broken or unused."
    return run_alone("status", description, _EPILOG, _arguments, status, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it for programs")
    no_import_argument(parser)


def no_import_argument(parser: ArgumentParser) -> None:
    """The flag of what looks at the project without running anything of it."""
    parser.add_argument(
        "--no-import",
        action="store_true",
        help="read the project's modules and import none, as for one you do not trust; less is found",
    )


def status(options: Namespace) -> int:
    """Look at every file of the project's configs and say what it is.

    Returns:
        The exit code: 3 if one is broken, else 0.
    """
    project = here()
    wrong_imports = _wrong_imports(project)
    own = not project.is_the_platform and project.configs.is_dir()
    # What cannot be imported keeps every run from beginning: to try them would tell the same of each.
    found = statuses(project, signatures=not wrong_imports and not options.no_import) if own else []
    broken = bool(wrong_imports) or any(each.problems for each in found)
    if options.json:
        print(json.dumps(_for_programs(project, wrong_imports, found), indent=2))
    else:
        _print(project, wrong_imports, found)
    return UserError.exit_code if broken else 0


def statuses(project: Project, *, signatures: bool = True) -> list[FileStatus]:
    """Every YAML of a project's configs.

    Args:
        project: whose they are.
        signatures: compare each with the signatures of what it names; for that the project's modules are imported.
    """
    generated, packaged = Generated(project), packaged_configs()
    found: dict[Path, FileStatus] = {}
    options: list[Option] = []
    for file in sorted(project.configs.rglob("*.y*ml")):
        relative = file.relative_to(project.configs)
        entry = generated.entry(file)
        state = "own" if entry is None else "generated" if generated.untouched(file) else "edited"
        status = found[file] = FileStatus(relative.as_posix(), state, (packaged / relative).is_file())
        if file.suffix == ".yml":
            status.problems.append(f"Hydra reads .yaml only: rename it to {file.stem}.yaml")
            continue
        try:
            option = read_option(file, project.configs)
        except ConfigError as error:
            status.problems += [problem.removeprefix(f"{short(file)}, ") for problem in error.problems]
            continue
        options.append(option)
        if status.overrides:
            status.differences = _differences(load_mapping(packaged / relative), load_mapping(file))
            copied = entry is not None and entry.get("by") == "configure"
            status.outdated = copied and state == "generated" and bool(status.differences)
    for finding in compared(project, generated):
        status = found[finding.file]
        if finding.text not in status.problems:
            status.problems.append(finding.text)
    for option in options:
        status = found[option.file]
        status.chosen_by = chosen_by(option, options)
        status.unused = _unused(option, status.chosen_by)
    tried = [option for option in options if not found[option.file].problems and not found[option.file].unused]
    known = {file for file, status in found.items() if status.problems}
    for file, problem in trials(project, options, tried, signatures=signatures):
        if file not in known:
            found[file].problems.append(problem)
    return list(found.values())


def _unused(option: Option, chosen_by: list[str]) -> str | None:
    """Why no run reads a file that is fine by itself."""
    groups = packaged_groups()
    known = {*groups, *_LONG, "project", "experiment", "sweep", "pipeline", "tune"}
    if chosen_by or option.group.split("/")[0] == "hydra":
        return None
    if option.group == "":
        alone = [file.stem for file in packaged_configs().glob("*.yaml")]
        near = did_you_mean(option.name, alone, show=0)
        return None if option.name in alone else f"it is in no group, and no defaults list names it{near}"
    if option.group == "project" and option.name != "default":
        return f"runs begin with configs/{PROJECT_FILE}; project={option.name} takes this instead"
    if option.group not in known and not option.group.endswith("/options"):
        near = did_you_mean(option.group, known, show=0)
        return f"runs have no group '{option.group}'{near}; +{option.group}={option.name} adds it"
    return None


_LONG = tuple(f"training_components/{name}" for name in ("loss", "optimizer", "scheduler", "transform"))


def _differences(packaged: dict[str, Any], own: dict[str, Any]) -> list[str]:
    before, now = ({key: _read(value) for key, value in leaves(content)} for content in (packaged, own))
    return [
        *(f"{key}: {before[key]} → {now[key]}" for key in before if key in now and before[key] != now[key]),
        *(f"without {key}" for key in before if key not in now),
        *(f"with {key}: {value}" for key, value in now.items() if key not in before),
    ]


def _read(value: Any) -> Any:
    """A value as a run reads it: what the loader takes for a word (1e-3) is the number."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _wrong_imports(project: Project) -> list[str]:
    """Which of the project's imports lead nowhere, and what in its modules keeps them from being imported."""
    told: list[str] = []
    for name in project.imports:
        if (head := name.split(".")[0]) in sys.stdlib_module_names:
            told.append(f"{short(project.file)}: imports '{name}', and '{head}' is a module of Python's own: rename it")
        elif module_file(name, project.root) is None:
            told.append(f"{short(project.file)}: imports '{name}', and there is no such module here")
    return [*told, *Catalogue(project).problems]


def _paths(project: Project) -> list[tuple[str, str]]:
    """What is searched for configs and components, in order, and where each leads."""
    own = f"{project.configs}" if project.configs.is_dir() else f"{project.configs}: not there (accelerator init)"
    rows = [("configs", own), ("", f"{packaged_configs()}: packaged, accelerator {__version__}")]
    if project.is_the_platform:
        rows = [("configs", f"{packaged_configs()}: the packaged configs themselves")]
    rows += [(f"imports {name}", str(module_file(name, project.root) or "not found")) for name in project.imports]
    return rows


def _for_programs(project: Project, wrong_imports: list[str], found: list[FileStatus]) -> dict[str, Any]:
    return {
        "project": str(project.root),
        "configs": str(project.configs) if project.configs.is_dir() else None,
        "packaged": str(packaged_configs()),
        "imports": list(project.imports),
        "problems": wrong_imports,
        "files": [asdict(each) for each in found],
    }


def _print(project: Project, wrong_imports: list[str], found: list[FileStatus]) -> None:
    from accelerator.cli.tables import clean, console, table

    for name, where in _paths(project):
        print(f"{name:<{max(len(n) for n, _ in _paths(project))}}  {clean(where)}")
    if found:
        rows = table(("file", "state", "against the packaged one", "chosen by"))
        for each in found:
            against = _against(each) if each.overrides else "–"
            rows.add_row(clean(each.file), each.state, clean(against), clean(", ".join(each.chosen_by)) or "–")
        print()
        console().print(rows)
    problems = [*wrong_imports, *(f"{each.file}: {problem}" for each in found for problem in each.problems)]
    for title, lines in (
        ("broken", problems),
        ("unused", [f"{each.file}: {each.unused}" for each in found if each.unused]),
        (
            "outdated",
            [f"{each.file}: the packaged one has changed since it was copied" for each in found if each.outdated],
        ),
    ):
        if lines:
            print(f"\n{title}")
            print("\n".join(f"  {clean(line)}" for line in lines))
    if any(each.outdated for each in found):
        print("\nnext: accelerator configure GROUP=OPTION  copies one anew")
    if found and not problems:
        print(f"\n{len(found)} files, none of them broken")


def _against(status: FileStatus) -> str:
    if not status.differences:
        return "the same"
    more = len(status.differences) - _SHOWN
    return "; ".join(status.differences[:_SHOWN]) + (f"; {more} more" if more > 0 else "")
