"""``accelerator accelerate``: what it leaves, what it measures, and what it refuses, as a user meets it."""

import json
import math
import shutil

import onnx
import pytest
import torch
from safetensors.torch import save

import accelerator
from accelerator.cli.accelerate_command import ACCELERATE
from accelerator.cli.app import main
from accelerator.cli.evaluate import EVALUATE
from accelerator.runtime import quantized
from accelerator.runtime.checkpoint.operation import decode
from accelerator.runtime.export import ExportError

QUIET = ["tracking=none", "callbacks.pictures=null", "callbacks.progress=null", "engine.threads=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small convolutional network after a pass over the digits."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = [
            "experiment=digits",
            "model.channels=[8,16]",
            "trainer.max_epochs=1",
            "hydra.run.dir=outputs/day/run",
        ]
        assert main(["train", *options, *QUIET]) == 0
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs/day"


def result(run):
    return json.loads((run / "result.json").read_text())


def test_pruning_leaves_a_run_with_a_checkpoint_and_both_costs(here, capsys):
    before = decode(next((here / "run/checkpoints").glob("*.safetensors")))
    options = ["acceleration=prune", "acceleration.amount=0.25", "hydra.run.dir=outputs/day/pruned"]
    assert main(["accelerate", "load=last", *options]) == 0
    printed = capsys.readouterr().out
    found = result(here / "pruned")
    metrics = found["metrics"]
    # 1 → 8 → 16 channels and 6 → 12: convolutions of 9 weights, two numbers a norm, ten classes.
    assert metrics["before/parameters"] == 9 * 8 + 2 * 8 + 9 * 8 * 16 + 2 * 16 + 16 * 10 + 10
    assert metrics["parameters"] == 9 * 6 + 2 * 6 + 9 * 6 * 12 + 2 * 12 + 12 * 10 + 10
    assert metrics["before/flops"] == 2 * (64 * 9 * 8 + 16 * 9 * 8 * 16 + 16 * 10)
    assert metrics["flops"] == 2 * (64 * 9 * 6 + 16 * 9 * 6 * 12 + 12 * 10)
    network = accelerator.load_model(here / "pruned").network
    assert metrics["bytes"] == len(save({name: t.contiguous() for name, t in network.state_dict().items()}))
    assert "parameters       1,442 → 868 (60%)" in printed
    assert found["best"] == found["last"] == str(next((here / "pruned/checkpoints").glob("*.safetensors")))
    assert {"val/loss", "before/val/loss", "val/accuracy", "before/val/accuracy"} < set(metrics)
    sidecar = json.loads((here / "pruned/checkpoints/step-00000040.json").read_text())
    assert sidecar["metrics"] == {name: metrics[name] for name in ("val/loss", "val/accuracy")}
    whole = EVALUATE([f"load={here / 'run'}", "evaluate.split=val", "hydra.run.dir=outputs/day/whole"]).metrics
    assert whole == {name: metrics[f"before/{name}"] for name in whole}
    again = EVALUATE(["load=outputs/day/pruned", "evaluate.split=val", "hydra.run.dir=outputs/day/again"]).metrics
    assert again == sidecar["metrics"]
    assert main(["checkpoint", "verify", "outputs"]) == 0
    after = decode(next((here / "run/checkpoints").glob("*.safetensors")))
    assert all(torch.equal(tensor, after["model"][name]) for name, tensor in before["model"].items())


@pytest.mark.slow
def test_a_pruned_network_is_pruned_again_and_trained(here):
    for source, name in (("run", "once"), ("once", "twice")):
        ACCELERATE([f"load={here / source}", "acceleration=prune", f"hydra.run.dir=outputs/day/{name}"])
    network = accelerator.load_model(here / "twice").network
    assert [network.blocks[0].out_channels, network.blocks[3].out_channels] == [2, 4]
    sizes = decode(next((here / "twice/checkpoints").glob("*.safetensors")))["sizes"]
    assert sizes["tensors"]["head.weight"] == [[10, 16], [10, 4]]
    overrides = (here / "twice/overrides.yaml").read_text()
    assert overrides.count("acceleration=prune") == 1


def test_quantization_leaves_both_files_and_measures_them_side_by_side(here, monkeypatch, capsys):
    monkeypatch.setattr(quantized, "latencies", lambda runs, inputs: [1.0, 1.5] if len(inputs) == 1 else [3.0, 2.0])
    assert main(["accelerate", "load=last", "acceleration=quantize", "hydra.run.dir=outputs/day/int8"]) == 0
    printed = capsys.readouterr().out
    found = result(here / "int8")
    metrics, trained = found["metrics"], result(here / "run")["metrics"]
    assert found["best"] is None
    # Floating point is what the training tested, to the rounding of another program.
    assert metrics["before/test/loss"] == pytest.approx(trained["test/loss"], rel=1e-5)
    assert metrics["before/test/accuracy"] == trained["test/accuracy"]
    assert metrics["test/loss"] == pytest.approx(trained["test/loss"], rel=0.05)
    for name, file in (("before/", "model.fp32.onnx"), ("", "model.int8.onnx")):
        assert metrics[f"{name}bytes"] == (here / "int8" / file).stat().st_size
    taken = {name: value for name, value in metrics.items() if "latency" in name}
    assert taken == {
        "before/latency_ms/batch_1": 1.0,
        "latency_ms/batch_1": 1.5,
        "before/latency_ms/batch_64": 3.0,
        "latency_ms/batch_64": 2.0,
    }
    assert "a sample         1 ms → 1.5 ms, one thread: SLOWER by 50% on this machine" in printed
    assert "64 samples       3 ms → 2 ms, one thread: 1.50 times as fast" in printed
    kinds = [node.op_type for node in onnx.load(here / "int8/model.int8.onnx").graph.node]
    assert "QuantizeLinear" in kinds


def test_times_are_taken_in_turns_and_their_median_told(monkeypatch):
    monkeypatch.setattr(quantized, "_SECONDS", 0.0)
    turns, clock = [], [0.0]
    # The second takes 2 s, and once 100 s.
    spent = {"a": iter([1.0] * 99), "b": iter([2.0, 2.0, 100.0, *[2.0] * 99])}

    def runner(name):
        def run(_):
            turns.append(name)
            clock[0] += next(spent[name])

        return run

    monkeypatch.setattr(quantized.time, "perf_counter", lambda: clock[0])
    assert quantized.latencies([runner("a"), runner("b")], torch.zeros(1)) == [1000.0, 2000.0]
    assert turns == ["a", "b"] * (len(turns) // 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["acceleration=prune"], "accelerator accelerate works on a trained network: name it with load=last"),
        (["load=last"], "acceleration=none does nothing: choose acceleration=prune or acceleration=quantize"),
        (
            ["load=last", "acceleration.name=prun"],
            "acceleration.name: unknown acceleration 'prun' — did you mean 'prune'?",
        ),
        (["load=last", "acceleration=prune", "acceleration.amout=0.5"], "'prune' has no such argument — did you mean"),
        (["load=last", "acceleration=prune", "acceleration.amount=1"], "acceleration.amount=1: expected a share"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_and_leaves_no_folder(here, arguments, told, capsys):
    assert main(["accelerate", *arguments]) == 3
    printed = capsys.readouterr().err
    assert told in printed
    assert "Traceback" not in printed
    assert {path.name for path in here.parent.rglob("*") if path.is_dir()} == {"day", "run", "checkpoints"}


def test_what_onnx_cannot_express_is_told_before_anything_is_written(here, monkeypatch, capsys):
    def refuse(*_):
        raise ExportError("ONNX cannot express the operator aten.einsum; use --format torch, which can")

    monkeypatch.setattr(quantized, "export_model", refuse)
    assert main(["accelerate", "load=last", "acceleration=quantize"]) == 3
    told = "error: acceleration=quantize works on an ONNX file: ONNX cannot express the operator aten.einsum\n"
    assert told in capsys.readouterr().err
    assert {path.name for path in here.iterdir()} == {"run"}


def test_a_missing_package_is_told(here, monkeypatch, capsys):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["accelerate", "load=last", "acceleration=quantize"]) == 3
    told = "acceleration=quantize needs onnxscript: install them with pip install 'accelerator-platform[onnx]'"
    assert told in capsys.readouterr().err


def test_a_method_of_the_users_own_takes_the_networks_place(here, monkeypatch, capsys):
    (here.parents[1] / "thinner.py").write_text(
        "import copy\n"
        "class Silent:\n"
        "    def apply(self, network, example_input):\n"
        "        network = copy.deepcopy(network)\n"
        "        network.head.weight.data.zero_()\n"
        "        return network\n"
        "class Nothing:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(here.parents[1])
    own = ["imports=[thinner]", "acceleration._target_=thinner.Silent", "hydra.run.dir=outputs/day/own"]
    found = ACCELERATE(["load=last", *own]).metrics
    assert math.isclose(found["val/loss"], math.log(10), rel_tol=0.05)
    assert not accelerator.load_model(here / "own").network.head.weight.any()
    assert (
        main(["accelerate", f"load={here / 'run'}", "imports=[thinner]", "acceleration._target_=thinner.Nothing"]) == 3
    )
    assert "acceleration: a Nothing has neither apply(network, example_input) nor convert" in capsys.readouterr().err
