import errno
import hashlib
import io
import json
import math
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from accelerator.errors import CheckpointError
from accelerator.runtime.checkpoint.operation import (
    CHUNK,
    decode,
    encode,
    remove_temporary,
    write_bytes,
    write_steps,
)


def back(tree, folder):
    path = folder / "x.safetensors"
    path.write_bytes(encode(tree))
    return decode(path)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        2**70,
        0.1,
        5e-324,
        float("inf"),
        "näme\n\"'",
        "",
        [],
        {},
        [1, [2.5, [None]]],
        {"a": {"b": {"c": 1}}},
        {0: "zero", 3: {"step": 1}},
        {True: 1, None: 2, 0.5: 3},
        {"0": "text", 1: "number"},
    ],
    ids=repr,
)
def test_plain_values_come_back(value, tmp_path):
    found = back({"value": value}, tmp_path)["value"]
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, dict):
        assert list(map(type, found)) == list(map(type, value))


def test_nan_comes_back(tmp_path):
    found = back([float("nan")], tmp_path)
    assert found[0] != found[0]


def test_tuples_come_back_as_lists(tmp_path):
    assert back({"betas": (0.9, 0.999), "t": (torch.tensor(1), (2,))}, tmp_path) == {
        "betas": [0.9, 0.999],
        "t": [torch.tensor(1), [2]],
    }


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4, dtype=torch.float64),
        torch.randn(3, 4).bfloat16(),
        torch.randn(3, 4).half(),
        torch.randn(3, 4, dtype=torch.complex64),
        torch.randn(3, 4, dtype=torch.complex128),
        torch.tensor(2.5),
        torch.tensor(7),
        torch.empty(0),
        torch.empty(0, 3),
        torch.tensor([True, False]),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([torch.nan, -0.0, torch.inf]),
        torch.randn(4, 6).t(),
        torch.randn(8)[::2],
        torch.randn(1, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.zeros(1).expand(5),
    ],
    ids=lambda t: f"{tuple(t.shape)} {t.dtype} {t.stride()}",
)
def test_tensors_come_back_to_the_last_bit(tensor, tmp_path):
    found = back({"a": [{"b": tensor}]}, tmp_path)["a"][0]["b"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    ours, theirs = (
        (found, tensor)
        if tensor.numel() == 0
        else (t.contiguous().reshape(-1).view(torch.uint8) for t in (found, tensor))
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("make", [lambda: torch.eye(2).to_sparse(), lambda: torch.zeros(2, dtype=torch.bits8)])
def test_tensors_that_the_format_has_no_place_for_are_refused_with_their_own(make):
    with pytest.raises(TypeError, match="/a/0: a checkpoint holds dense tensors of plain numbers, not torch"):
        encode({"a": [make()]})


def test_any_reader_of_the_format_reads_it_and_finds_every_tensor_aligned(tmp_path):
    tree = {"b": torch.tensor([True]), "d": torch.randn(3).double(), "h": torch.randn(3).half(), "n": "näme"}
    path = tmp_path / "x.safetensors"
    path.write_bytes(encode(tree))
    found = load_file(path)
    assert found.keys() == {"/b", "/d", "/h"}
    assert torch.equal(found["/d"], tree["d"])
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert [header[name]["data_offsets"] for name in ("/d", "/h", "/b")] == [[0, 24], [24, 30], [30, 31]]
    assert len(data) == 8 + length + 31


def test_tied_weights_are_each_kept(tmp_path):
    weight = torch.randn(3, 3)
    found = back({"encoder": weight, "decoder": weight, "row": weight[1]}, tmp_path)
    assert torch.equal(found["encoder"], weight)
    assert torch.equal(found["decoder"], weight)
    assert torch.equal(found["row"], weight[1])


def test_a_parameter_is_kept_by_its_values(tmp_path):
    weight = torch.nn.Parameter(torch.randn(2))
    found = back([weight], tmp_path)[0]
    assert torch.equal(found, weight.detach())
    assert not found.requires_grad


def test_what_is_encoded_does_not_change_with_the_network_afterwards(tmp_path):
    weight = torch.ones(3)
    path = tmp_path / "x.safetensors"
    data = encode({"w": weight})
    weight.zero_()
    path.write_bytes(data)
    assert decode(path)["w"].tolist() == [1.0, 1.0, 1.0]


def test_keys_that_read_alike_are_kept_apart(tmp_path):
    tree = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2), "n": {0: torch.tensor(3), "0": torch.tensor(4)}}
    found = back(tree, tmp_path)
    assert [found["a"]["b"].item(), found["a/b"].item()] == [1, 2]
    assert [found["n"][0].item(), found["n"]["0"].item()] == [3, 4]


def test_the_state_of_an_optimizer_is_loadable(tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    other = torch.optim.Adam(layer.parameters())
    other.load_state_dict(back(optimizer.state_dict(), tmp_path))
    assert other.param_groups[0]["lr"] == 0.1
    expected, found = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[i][key], expected[i][key]) for i in expected for key in expected[i])


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), torch.float32, {(1, 2): 3}, complex(1, 2)])
def test_what_is_neither_plain_nor_a_tensor_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match="/callbacks/mine: .*a checkpoint"):
        encode({"callbacks": {"mine": value}})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1})], ids=["empty", "text", "pickle"])
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a whole checkpoint of ours"):
        decode(path)


def test_safetensors_of_somebody_else_are_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a whole checkpoint of ours"):
        decode(tmp_path / "x.safetensors")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="x.safetensors"):
        decode(tmp_path / "x.safetensors")


def test_nothing_read_back_can_run_code(tmp_path, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *args, **options: pytest.fail("a checkpoint was unpickled"))
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("a checkpoint went through torch.load"))
    assert back({"a": torch.ones(2), "b": [1, "os.system"]}, tmp_path)["b"] == [1, "os.system"]


def test_a_write_leaves_the_new_file_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a.json", b"old")
    write_bytes(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_a_file_of_several_parts_is_written_whole_and_its_hash_told(tmp_path, size):
    data = os.urandom(size)
    found = []

    def collect():
        found.append((yield from write_steps(tmp_path / "a", [b"head", memoryview(data)])))

    pieces = [(tmp_path / "a").exists() for _ in collect()]
    assert pieces == [False] * (1 + math.ceil(size / CHUNK))
    assert (tmp_path / "a").read_bytes() == b"head" + data
    assert found == [(hashlib.sha256(b"head" + data).hexdigest(), size + 4)]


def test_a_system_that_takes_less_than_it_is_given_gets_the_rest(tmp_path, monkeypatch):
    class Miserly(io.FileIO):
        def write(self, data):
            return super().write(data[:7])

    monkeypatch.setattr(type(tmp_path), "open", lambda self, mode, **options: Miserly(self, mode))
    write_bytes(tmp_path / "a", bytes(range(100)))
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_the_temporary_file_stands_beside_its_target(tmp_path, monkeypatch):
    moved = []
    replace = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, target: moved.append(self) or replace(self, target))
    write_bytes(tmp_path / "a.json", b"new")
    assert [path.parent for path in moved] == [tmp_path]


def test_data_is_on_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("fsync") or fsync(handle))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, target: events.append("rename") or replace(self, target)
    )
    write_bytes(tmp_path / "a", b"x")
    assert events == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "a.safetensors"
    write_bytes(path, b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (type(path), "replace")), full)
    with pytest.raises(
        CheckpointError, match=r"could not write .*a\.safetensors \(1,000 bytes\): No space.* bytes free"
    ):
        write_bytes(path, bytes(1000))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="No such file or directory"):
        write_bytes(tmp_path / "gone" / "a", b"x")


def test_only_what_killed_writes_left_is_removed(tmp_path):
    (tmp_path / ".step-00000001.safetensors.77.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_text("the user's")
    (tmp_path / "step-00000001.json").write_text(json.dumps({}))
    remove_temporary(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["notes.tmp", "step-00000001.json"]
    remove_temporary(tmp_path / "not made yet")


def test_a_tensor_that_stands_in_two_places_is_written_once_and_read_twice(tmp_path):
    weights = torch.randn(1000)
    data = encode({"a": weights, "b": {"c": weights, "part": weights[:500], "turned": weights.view(10, 100)}})
    assert weights.nbytes * 2 < len(data) + 2000 - weights.nbytes // 2 < weights.nbytes * 3
    (tmp_path / "x.safetensors").write_bytes(data)
    found = decode(tmp_path / "x.safetensors")
    assert torch.equal(found["a"], found["b"]["c"])
    assert torch.equal(found["b"]["turned"], weights.view(10, 100))
    found["a"].zero_()
    assert torch.equal(found["b"]["c"], weights)
