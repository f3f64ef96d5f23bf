"""``accelerator model register|promote|delete-alias|delete``: what changes the registry."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from accelerator.cli.model.look import as_plain
from accelerator.cli.runs.delete import agreed
from accelerator.cli.runs.look import find
from accelerator.errors import UserError
from accelerator.runtime.run_directory import CHECKPOINTS, MODEL
from accelerator.tracking import spool
from accelerator.tracking.model_registry import CHAMPION, PREVIOUS, Registry, check_alias, check_name
from accelerator.tracking.query import Store, StoredRun, open_store

FORMATS = ("safetensors", "pt2")  # of a model that is made of a checkpoint


def register(options: Namespace) -> None:
    """Make a run's model the next version of a name."""
    check_name(options.name)
    if options.alias is not None:
        check_alias(options.alias)
    store = open_store(options.uri)
    registry = Registry(store)
    run = _recorded(store, options.run)
    if registry.logged(run) is None:
        _log_from_checkpoint(store, run)
    version = registry.register(run, options.name, description=options.description, tags=dict(options.tags))
    same = [other for other in registry.versions(version.name) if other.model_id == version.model_id]
    if options.alias is not None:
        registry.promote(version, options.alias)
        version = registry.find(str(version))
    if options.json:
        print(json.dumps(as_plain(version), indent=1))
        return
    print(f"{version} is the model of run {run.id[:8]} {run.name}")
    if earlier := [str(other.number) for other in reversed(same) if other.number != version.number]:
        print(f"the same model is version {', '.join(earlier)} too")
    if options.alias is not None:
        print(f"{options.alias} is now {version}")
    else:
        print(f"put it to use with: accelerator model promote {version}")


def promote(options: Namespace) -> None:
    """Point an alias at a version, or set its stage."""
    registry = Registry(open_store(options.uri))
    version = registry.find(options.model)
    alias = options.alias or (None if options.stage else CHAMPION)
    if alias is not None:
        before = registry.promote(version, alias)
        if before is not None and before.number == version.number:
            print(f"{alias} was {version} already")
        elif before is None:
            print(f"{alias} is now {version}; there was none before")
        else:
            print(f"{alias} is now {version}; before, it was {before}")
            if alias == CHAMPION:
                print(f"back again with: accelerator model promote {version.name}@{PREVIOUS}")
    if options.stage is not None:
        registry.set_stage(version, options.stage)
        print(f"{version} has stage {registry.find(f'{version.name}/{version.number}').stage}")


def delete_alias(options: Namespace) -> None:
    """Remove an alias."""
    name, at, alias = options.model.removeprefix("models:/").partition("@")
    if not at:
        raise UserError(f"{options.model} names no alias: write NAME@ALIAS")
    version = Registry(open_store(options.uri)).delete_alias(name, alias)
    print(f"{alias} is removed; it was {version}, which stays")


def delete(options: Namespace) -> int:
    """Remove a version, or all of a name."""
    registry = Registry(open_store(options.uri))
    name = options.model.removeprefix("models:/")
    versions = [registry.find(name)] if "/" in name or "@" in name else registry.versions(name)
    for version in versions:
        used = f"  ({', '.join(version.aliases)})" if version.aliases else ""
        print(f"{version}{used}")
    print("their runs, and the models these have logged, stay")
    if not options.yes and not agreed():
        print("nothing was deleted")
        return UserError.exit_code
    for version in versions:
        registry.delete(version)
    if not versions:
        registry.delete_name(name)
    print(f"deleted {len(versions)} {'version' if len(versions) == 1 else 'versions'} of {name.partition('/')[0]}")
    return 0


def _recorded(store: Store, wanted: str) -> StoredRun:
    folder = Path(wanted)
    if folder.is_dir() and (folder / CHECKPOINTS).is_dir() and not (folder / spool.SETTINGS).exists():
        raise UserError(
            f"{wanted}: this run was never recorded in MLflow, so it has nothing to be registered by; train with "
            f"tracking.enabled=true, or write its network as a file with: accelerator checkpoint export {wanted} "
            "-o model.safetensors"
        )
    return find(store, wanted)


def _log_from_checkpoint(store: Store, run: StoredRun) -> None:
    """Give a run that has logged no model one of the best checkpoint in its folder."""
    folder = run.folder
    if folder is None:
        raise UserError(
            f"run {run.id[:8]} {run.name} has logged no model, and its folder is not here to make one of: register it "
            "where its folder is, or train it with tracking.model=[safetensors,pt2]"
        )
    if not any((folder / CHECKPOINTS).glob("*.safetensors")):
        raise UserError(
            f"run {run.id[:8]} {run.name} has logged no model, and its folder {folder} holds no checkpoint to make one "
            f"of; it {'is still running' if run.status == 'RUNNING' else f'is {run.status}'}"
        )
    from accelerator.runtime.model_folder import write_model
    from accelerator.tracking.answers import answering
    from accelerator.tracking.model_files import ModelRefusedError, log_model

    tested = {name: value for name, value in run.metrics.items() if name.startswith("test/")}
    manifest = write_model(folder, folder / MODEL, FORMATS, metrics=tested)
    print(f"run {run.id[:8]} had logged no model: one was made of {manifest.checkpoint['file']}")
    for note in manifest.notes:
        print(note)
    try:
        with answering(store.uri):
            log_model(store.client, run.id, run.experiment_id, folder / MODEL)
    except ModelRefusedError as error:
        raise UserError(str(error)) from error
