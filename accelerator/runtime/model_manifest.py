"""What a model folder holds: facts about the model, and the checksum of each of its files.

The folder is what a run leaves of its trained network for others to use. It is read here without torch, so that the
uploader and the command line can tell what is in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerator.errors import CheckpointError, ConfigError, did_you_mean

SCHEMA = 1

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
EXAMPLE = "input_example.json"  # an array
SERVED_EXAMPLE = "serving_input_example.json"  # the same, as it is sent to `mlflow models serve`
REQUIREMENTS = "requirements.txt"

# MLflow's own names, so that `mlflow.pytorch.load_model` finds them in the folder its flavor points to.
PT2, PT2_FOLDER = "pt2/model.pt2", "pt2"
PICKLE, PICKLE_FOLDER, PICKLE_MODULE = "pickle/model.pth", "pickle", "pickle/pickle_module_info.txt"

FORMATS = ("safetensors", "pt2", "pickle")


@dataclass(frozen=True)
class Manifest:
    """The facts of a model folder.

    Attributes:
        model: the component's name, or its dotted path.
        cls: the network's class, as a dotted path.
        parameters: how many numbers were trained.
        inputs: shape (the batch as -1) and NumPy dtype of what it takes.
        outputs: the same of what it gives.
        metrics: of the checkpoint's validation, and of the test where there was one.
        step: optimizer steps of the checkpoint.
        epoch: its epochs.
        checkpoint: name and SHA-256 of the checkpoint it was made of.
        fingerprint: of the run's config.
        commit: of the git repository the run was started in.
        data: name, digest and samples of each split; empty where nobody looked at the data.
        imports: modules of the user's that it is built with.
        created: of the checkpoint, UTC, ISO 8601.
        versions: of what made it.
        files: SHA-256 and size of each file.
        notes: what was asked for and is not there, and why.
        schema: version of the format.
    """

    model: str
    cls: str
    parameters: int
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    metrics: dict[str, float]
    step: int
    epoch: int
    checkpoint: dict[str, str]
    fingerprint: str
    created: str
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]
    commit: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def encoded(self) -> bytes:
        """The manifest as its file."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def formats(self) -> list[str]:
        """What of `FORMATS` is there."""
        names = {"safetensors": WEIGHTS, "pt2": PT2, "pickle": PICKLE}
        return [name for name in FORMATS if names[name] in self.files]


def read_manifest(folder: Path, *, digest: str | None = None) -> Manifest:
    """The manifest of a model folder.

    Args:
        folder: the model's.
        digest: SHA-256 that the record of it, kept elsewhere, says the manifest has.

    Raises:
        CheckpointError: there is none, it is damaged, of a newer format, or not the one that was recorded.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder} is no model of this platform: {MANIFEST} cannot be read ({error.strerror})"
        ) from error
    if digest is not None and (found := hashlib.sha256(data).hexdigest()) != digest:
        raise CheckpointError(
            f"{path} was changed after it was recorded: its SHA-256 is {found[:12]}…, recorded was {digest[:12]}…; "
            "the model is refused"
        )
    try:
        values = json.loads(data)
        if values["schema"] > SCHEMA:
            raise CheckpointError(
                f"{folder} has format {values['schema']}; this version reads up to {SCHEMA}: upgrade "
                "accelerator-platform"
            )
        return Manifest(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def verify(folder: Path, manifest: Manifest, *names: str) -> None:
    """Compare files of a model folder with its manifest; all of them, unless some are named.

    Raises:
        CheckpointError: one is missing, or differs in any bit from what was written.
    """
    for name in names or manifest.files:
        if (facts := manifest.files.get(name)) is None:
            raise CheckpointError(f"{folder} has no {name}; it has {', '.join(sorted(manifest.files))}")
        path = folder / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        if found != facts["sha256"]:
            raise CheckpointError(
                f"{path} is not the file that was written: {path.stat().st_size:,} bytes with SHA-256 {found[:12]}…, "
                f"expected {facts['bytes']:,} bytes with {facts['sha256'][:12]}…; the model is refused"
            )


def check_formats(formats: list[str] | tuple[str, ...], key: str = "tracking.model") -> list[str]:
    """The formats, each once, in the order of `FORMATS`.

    Raises:
        ConfigError: one is unknown, or safetensors, which all loading reads, is not among them.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"{key}: there is no format '{name}'{did_you_mean(name, FORMATS)}")
    if formats and "safetensors" not in formats:
        raise ConfigError(
            f"{key}=[{','.join(formats)}]: safetensors is missing, which is what load_model reads; "
            f"set {key}=[safetensors,{','.join(formats)}], or {key}=[] for no model"
        )
    return [name for name in FORMATS if name in formats]
