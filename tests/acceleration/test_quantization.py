"""An ONNX file of integers computes nearly what that of floating point does, and leaves alone what it is told to."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from accelerator.acceleration import Quantize, quantize
from accelerator.acceleration import quantization as module
from accelerator.errors import ConfigError


def exported(network, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network.eval(),
            (inputs,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["inputs"],
            verbose=False,
        )
    return program.model_proto.SerializeToString()


@pytest.fixture(scope="module")
def perceptron():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    inputs = torch.randn(64, 16)
    return exported(network, inputs), inputs, network


def run(model, inputs):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def integers(model):
    """The weights that are 8-bit integers, by name."""
    tensors = onnx.load_from_string(model).graph.initializer
    return {t.name: numpy_helper.to_array(t) for t in tensors if t.name.endswith("weight_quantized")}


@pytest.mark.slow
def test_weights_are_integers_and_the_function_stays(perceptron):
    model, inputs, network = perceptron
    found = quantize(model, inputs)
    held = integers(found)
    assert {name: (array.dtype, array.shape) for name, array in held.items()} == {
        "0.weight_quantized": (np.int8, (64, 16)),
        "2.weight_quantized": (np.int8, (8, 64)),
    }
    expected = network(inputs)
    # A hundredth of the largest prediction; the rounding of 8 bits alone is 1/256 of each range.
    assert (run(found, inputs) - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_scale_for_each_channel_is_as_fine_as_its_weights(perceptron):
    model, inputs, network = perceptron
    found = onnx.load_from_string(quantize(model, inputs)).graph.initializer
    (scale,) = (numpy_helper.to_array(t) for t in found if t.name == "0.weight_scale")
    largest = network[0].weight.detach().abs().amax(dim=1).numpy()
    np.testing.assert_allclose(scale, largest / 127.5, rtol=0.01)
    single = onnx.load_from_string(quantize(model, inputs, per_channel=False)).graph.initializer
    assert next(numpy_helper.to_array(t).size for t in single if t.name == "0.weight_scale") == 1


def test_seven_bits_are_half_the_range(perceptron):
    model, inputs, _ = perceptron
    assert max(abs(array.astype(int)).max() for array in integers(quantize(model, inputs)).values()) == 127
    reduced = integers(quantize(model, inputs, reduce_range=True)).values()
    assert max(abs(array.astype(int)).max() for array in reduced) == 64


def test_what_is_left_out_stays_in_floating_point(perceptron):
    model, inputs, _ = perceptron
    assert list(integers(quantize(model, inputs, leave_out=["2"]))) == ["0.weight_quantized"]
    with pytest.raises(ConfigError, match=r"leave_out names '3', which holds nothing that is quantized"):
        quantize(model, inputs, leave_out=["3"])
    with pytest.raises(ConfigError, match=r"nothing can be quantized: .* but those in leave_out"):
        quantize(model, inputs, leave_out=["0", "2"])


def test_calibration_takes_as_many_samples_as_asked(perceptron):
    model, inputs, _ = perceptron
    far = torch.cat([inputs[:8], 100 * inputs[8:]])
    assert quantize(model, far, samples=8) == quantize(model, inputs, samples=8)
    assert quantize(model, far, samples=9) != quantize(model, inputs, samples=9)


class Masked(nn.Module):
    """Attention with a mask of −∞: a range that no 8 bits can hold."""

    def __init__(self):
        super().__init__()
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        q = self.query(x)
        return self.out(nn.functional.scaled_dot_product_attention(q, q, x, is_causal=True))


@pytest.mark.slow
def test_a_mask_of_attention_stays_in_floating_point():
    torch.manual_seed(0)
    network, inputs = Masked(), torch.randn(32, 1, 5, 8)
    found = quantize(exported(network, inputs), inputs)
    expected = network(inputs)
    assert (run(found, inputs) - expected).abs().max() < 0.03 * expected.abs().max()
    kinds = [node.op_type for node in onnx.load_from_string(found).graph.node]
    assert kinds.count("QuantizeLinear") > 0


def test_bad_input_and_a_missing_package_are_told(monkeypatch, perceptron):
    model, inputs, _ = perceptron
    with pytest.raises(ConfigError, match=r"samples=0: expected at least 1 to calibrate with"):
        Quantize(samples=0)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ConfigError, match=r"needs onnxruntime: install them with pip install 'accelerator-platform\["):
        quantize(model, inputs)
