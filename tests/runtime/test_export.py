"""Exported models: what is written is what was trained, or nothing is written."""

import io

import pytest
import torch
from safetensors.torch import load
from torch import nn
from toy_problem import plane

from accelerator.errors import ConfigError
from accelerator.runtime import export
from accelerator.runtime.export import DifferentError, ExportError, example_inputs, export_model
from accelerator.runtime.trained import build_model

NORMALIZED = {role: {"normalize": {"name": "normalize", "per": "channel"}} for role in ("input", "target")}
MLP = {"name": "mlp", "hidden": [4]}
FNO = {"name": "fno", "width": 4, "modes": 2, "layers": 1, "projection": 4}


def trained(section, shape=(1, 8, 8)):
    recipe = {
        "imports": [],
        "model": section,
        "transform": NORMALIZED,
        "facts": {"input_shape": list(shape), "output_shape": list(shape)},
    }
    torch.manual_seed(0)
    model = build_model(recipe).eval().requires_grad_(False)
    inputs = 3 + 2 * torch.randn(5, *shape)
    model.transforms.fit(inputs, 100 + 10 * torch.randn(5, *shape))
    return model, recipe, inputs[:3]


@pytest.mark.parametrize("section", [MLP, FNO], ids=["mlp", "fno"])
def test_torch_export_runs_any_number_of_samples_in_the_datas_own_units(section):
    model, recipe, inputs = trained(section)
    exported = export_model(model, recipe, inputs, "torch")
    assert exported.difference <= 1e-6 * exported.largest
    assert exported.largest > 50  # targets have mean 100: the transforms are in it
    again = torch.export.load(io.BytesIO(exported.data)).module()
    for count in (1, 2, 11):
        batch = torch.randn(count, 1, 8, 8)
        torch.testing.assert_close(again(batch), model(batch))


def test_onnx_runs_without_us_and_agrees():
    runtime = pytest.importorskip("onnxruntime")
    model, recipe, inputs = trained(MLP)
    session = runtime.InferenceSession(export_model(model, recipe, inputs, "onnx").data)
    for count in (1, 2, 11):
        batch = torch.randn(count, 1, 8, 8)
        (found,) = session.run(["predictions"], {"inputs": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(batch))


def test_what_onnx_cannot_express_is_told_with_its_operator():
    pytest.importorskip("onnxruntime")
    model, recipe, inputs = trained(FNO)
    with pytest.raises(ExportError, match=r"operator aten\.\w+.* on complex numbers.*use --format torch"):
        export_model(model, recipe, inputs, "onnx")


def test_onnx_without_its_extra_names_what_to_install(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"needs onnxscript: .*pip install 'accelerator-platform\[onnx\]'"):
        export_model(*trained(MLP), "onnx")


def test_safetensors_hold_weights_and_statistics_under_their_names():
    model, recipe, inputs = trained(MLP)
    exported = export_model(model, recipe, inputs, "safetensors")
    tensors = load(exported.data)
    assert exported.difference == 0
    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["transforms.target.0.mean"], model.transforms.target[0].mean)


class Wrong(nn.Module):
    def forward(self, x):
        return x.new_full((len(x), 1, 8, 8), 99.0)


class Fewer(nn.Module):
    def forward(self, x):
        return torch.zeros(3, 1, 8, 8)


@pytest.mark.parametrize(("other", "told"), [(Wrong(), "more than rounding"), (Fewer(), r"gives shape \(3, 1, 8, 8\)")])
def test_what_predicts_otherwise_is_not_handed_out(monkeypatch, other, told):
    monkeypatch.setitem(export.FORMATS, "torch", lambda *_: (b"", other))
    with pytest.raises(DifferentError, match=told):
        export_model(*trained(MLP), "torch")


class OneByOne(nn.Module):
    def forward(self, x):
        return torch.stack([row * row.sum().item() for row in x])


def test_a_network_that_cannot_be_traced_is_named():
    model, recipe, inputs = trained(MLP)
    model.network = OneByOne()
    with pytest.raises(ExportError, match="torch.export cannot trace OneByOne for any batch size"):
        export_model(model, recipe, inputs, "torch")


def test_examples_are_the_tests_first_samples_before_any_transform(tiny_config):
    assert torch.equal(example_inputs(tiny_config()), plane()["test"][0][:3])


def test_examples_come_from_datasets_too(tiny_config):
    config = tiny_config(imports=["toy_problem"])
    config["data"] = {"_target_": "toy_problem.Items", "inputs": [[1.0], [2.0]], "targets": [0, 1]}
    config["loader"]["split"] = [1.0, 0.0, 0.0]
    assert sorted(example_inputs(config).flatten().tolist()) == [1.0, 2.0]
