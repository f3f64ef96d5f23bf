import hashlib
import json

import pytest

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.meta_handler import (
    SCHEMA,
    Meta,
    fingerprint,
    read_meta,
    sidecar,
    verify,
    write_meta,
)

DATA = bytes(range(256)) * 4


def meta(**changes):
    values = {
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "bytes": len(DATA),
        "step": 120,
        "epoch": 3,
        "level": 0,
        "work": 119.5,
        "metrics": {"val/loss": float("inf")},
        "fingerprint": "f",
        "created": "2026-11-21T00:00:00+00:00",
        "versions": {"torch": "2"},
    }
    return Meta(**{**values, **changes})


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "step-00000120.safetensors"
    path.write_bytes(DATA)
    write_meta(path, meta())
    return path


def test_a_sidecar_comes_back_as_written(checkpoint):
    assert read_meta(checkpoint) == meta()
    assert sidecar(checkpoint).name == "step-00000120.json"
    verify(checkpoint, meta())


@pytest.mark.parametrize("position", [0, 511, len(DATA) - 1])
@pytest.mark.parametrize("bit", [1, 128])
def test_any_flipped_bit_is_found(checkpoint, position, bit):
    data = bytearray(DATA)
    data[position] ^= bit
    checkpoint.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged: 1,024 bytes with SHA-256 .*expected 1,024 bytes"):
        verify(checkpoint, meta())


@pytest.mark.parametrize("length", [0, 1, len(DATA) - 1])
def test_a_file_cut_short_is_found_and_its_length_told(checkpoint, length):
    checkpoint.write_bytes(DATA[:length])
    with pytest.raises(
        CheckpointError, match=rf"{checkpoint.name} is damaged: {length:,} bytes .*expected 1,024 bytes"
    ):
        verify(checkpoint, meta())


def test_a_file_that_is_gone_is_told(checkpoint):
    checkpoint.unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        verify(checkpoint, meta())


def test_without_a_sidecar_the_save_never_finished(tmp_path):
    with pytest.raises(CheckpointError, match="has no sidecar a.json: its save never finished"):
        read_meta(tmp_path / "a.safetensors")


def test_a_newer_format_is_refused_with_the_remedy(checkpoint):
    write_meta(checkpoint, meta(schema=SCHEMA + 1))
    with pytest.raises(CheckpointError, match=f"has format {SCHEMA + 1}; this version reads up to {SCHEMA}: upgrade"):
        read_meta(checkpoint)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", json.dumps({"schema": 1}), json.dumps({"schema": "one"}), "\x00\x01"]
)
def test_a_damaged_sidecar_is_told(checkpoint, text):
    sidecar(checkpoint).write_text(text)
    with pytest.raises(CheckpointError, match=r"step-00000120\.json is damaged"):
        read_meta(checkpoint)


def test_a_fingerprint_depends_on_every_value_and_on_no_order():
    config = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert fingerprint(config) == fingerprint({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert len({fingerprint(c) for c in (config, {**config, "a": 2}, {**config, "b": {"c": [2, 1], "d": None}})}) == 3
