"""``accelerator configure``: packaged configs are copied into ``./configs``, to be edited there."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from accelerator.cli.actions import run_alone
from accelerator.cli.paths import packaged_configs
from accelerator.cli.project.config_tree import options_below
from accelerator.cli.project.generated import KEPT, NEW, SAME, UPDATED, Generated
from accelerator.cli.project.project import Project, load_mapping, to_write_in
from accelerator.errors import ConfigError, did_you_mean
from accelerator.utilities.files import short

_EPILOG = """examples
  accelerator configure                    the groups there are to choose from
  accelerator configure model=mlp loss     one model, every loss
  accelerator configure --all              every option of every group
  accelerator configure main               what a run is composed of: seldom needed, and see below

A file in ./configs takes the place of the packaged one of its name, for good: what later versions of accelerator change
in theirs, they do not change in yours; accelerator status shows how the two differ. To set a value for every run,
configs/project/default.yaml is enough. Files that somebody edited are left as they are."""

OF_ADD = "of add"  # nobody edited it, and it is no copy

_DONE = {
    NEW: "copied",
    SAME: "there already, as packaged",
    UPDATED: "copied anew: the packaged one has changed, and nobody had edited this",
    KEPT: "edited: left as it is",
    OF_ADD: "written by accelerator add: left as it is; remove it to have the packaged one",
}


def configure_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Copy packaged configs into ./configs, to edit them."
    return run_alone("configure", description, _EPILOG, _arguments, configure, arguments)


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("chosen", nargs="*", metavar="GROUP[=OPTION]", help="what to copy")
    parser.add_argument("--all", action="store_true", help="copy every option of every group")
    parser.add_argument("--dry-run", action="store_true", help="show what would be copied, and copy nothing")


def configure(options: Namespace) -> None:
    """Copy what was chosen, unless somebody has edited the file that is there.

    Raises:
        ConfigError: there is no such group or option.
    """
    root, project = packaged_configs(), to_write_in()
    groups = packaged_groups()
    if options.chosen and options.all:
        raise ConfigError(f"--all copies everything: leave out {' '.join(options.chosen)}")
    if not options.chosen and not options.all:
        width = max(map(len, groups))
        print("\n".join(f"{group:<{width}}  {', '.join(names)}" for group, names in groups.items()))
        print("\nnext: accelerator configure GROUP=OPTION  copies one into ./configs")
        return
    if project.is_the_platform:
        raise ConfigError("./configs are the packaged configs themselves: edit them here")
    wanted = [f"{group}/{name}" for group, names in groups.items() for name in names] if options.all else []
    problems: list[str] = []
    for said in options.chosen:
        try:
            wanted += _named(said, groups)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    copied = _copy(root, project, list(dict.fromkeys(wanted)), dry_run=options.dry_run)
    print(f"\n{copied} of {len(set(wanted))} {'would be ' if options.dry_run else ''}copied")
    print("next: edit them; accelerator status  shows how they differ from the packaged ones")


def packaged_groups() -> dict[str, list[str]]:
    """The options of each packaged group, by its short name where it has one."""
    root = packaged_configs()
    short_names = {long: short for short, long in aliases().items()}
    groups: dict[str, list[str]] = {}
    for file in options_below(root):
        group = file.parent.relative_to(root).as_posix()
        if group != ".":
            groups.setdefault(short_names.get(group, group), []).append(file.stem)
    return groups


def aliases() -> dict[str, str]:
    """The short names of groups, as ``main.yaml`` has them; Hydra is not needed for that."""
    return load_mapping(packaged_configs() / "main.yaml")["hydra"]["aliases"]


def _named(said: str, groups: dict[str, list[str]]) -> list[str]:
    """The files that ``group``, ``group=option``, ``group=a,b`` or the name of a config means, without ending."""
    group, _, names = said.partition("=")
    group = {long: short for short, long in aliases().items()}.get(group, group)
    if not names and group in _alone():
        return [group]
    if group not in groups:
        raise ConfigError(f"{said}: there is no group '{group}'{did_you_mean(group, [*groups, *_alone()])}")
    chosen = names.strip("[]").split(",") if names else groups[group]
    if wrong := [name for name in chosen if name not in groups[group]]:
        near = did_you_mean(wrong[0], groups[group])
        raise ConfigError(f"{said}: no '{wrong[0]}' in configs/{aliases().get(group, group)}/{near}")
    return [f"{group}/{name}" for name in chosen]


def _alone() -> list[str]:
    """The configs that are in no group: what runs and pipelines are composed of."""
    return [file.stem for file in sorted(packaged_configs().glob("*.yaml"))]


def _copy(root: Path, project: Project, wanted: list[str], *, dry_run: bool) -> int:
    generated, long = Generated(project), aliases()
    files: dict[Path, str] = {}
    told: list[str] = []
    for name in wanted:
        group, _, option = name.rpartition("/")
        relative = f"{long.get(group, group)}/{option}.yaml".lstrip("/")
        path, text = project.configs / relative, (root / relative).read_text(encoding="utf-8")
        outcome = generated.outcome(path, text)
        if outcome == UPDATED and (generated.entry(path) or {}).get("by") != "configure":
            outcome = OF_ADD
        if outcome in (NEW, UPDATED):
            files[path] = text
            generated.remember(path, text, by="configure")
        told.append(f"{short(path)}: {'would be ' if dry_run and path in files else ''}{_DONE[outcome]}")
    if files and not dry_run:
        generated.write(files)
    print("\n".join(told))
    return len(files)
