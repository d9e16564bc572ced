"""hls4ml's C simulation of networks whose values are read twice, on inputs on ties; and what it cannot take."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.quant import activation_quantizer
from mxexport.quant.layers.layer import QuantLayer
from mxexport.running import executors
from mxexport.targets import convert, hls4ml
from mxexport.targets.check import require
from mxexport.targets.hls4ml_project import project
from tests import pass_helpers
from tests.test_hls4ml import needs_hls4ml

STATIC = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
PER_CHANNEL = mx.QuantSpec("mxint4", scaling_per_output="channel")


class Images(nn.Module):
    """Residuals around a convolution with groups and dilations and a depthwise one; a padded pool, constants."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.shift = nn.Parameter(torch.tensor([0.5, -0.25, 1, 2]).reshape(1, 4, 1, 1))
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = functional.max_pool2d(torch.relu(self.grouped(y) + y), 3, 2, 1) + self.shift
        w = (self.depthwise(z) + self.shift) * 2 + z
        return self.fc(w.flatten(1)), w


class Vectors(nn.Module):
    """Two layers read one value, each by a quantizer of its own, and so do a residual and the reader of the model."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = self.second(y) + self.third(y)
        return self.last(z + z + y), y


def quantized(model, weight, x):
    """Calibrated, with biases on a grid that products share; scales are powers of two."""
    model = mx.quantize_model(model, weight=weight, activation=STATIC)
    for layer in (m for m in model.modules() if isinstance(m, QuantLayer)):
        layer.bias.data = (layer.bias.data * 16).round() / 16
    model.train()(x)
    mx.freeze_scales(model)
    return model.eval()


def on_ties(model, shape, count=256):
    """Inputs halfway between two codes of the first quantizer, some beyond the last; and ties in each quantizer."""
    step = model.first.input_quant.stored_scale
    x, ties = (torch.randint(-131, 131, (count, *shape)) + 0.5) * step, {}

    def watch(quantizer, inputs):
        ties[quantizer] = int(((inputs[0] / quantizer.stored_scale.reshape(-1)[0]) % 1 == 0.5).sum())

    sources = [m.input_quant for m in model.modules() if isinstance(m, QuantLayer)]
    handles = [source.register_forward_pre_hook(watch) for source in sources]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return x, [ties[source] for source in sources]


def exported(tmp_path, model, x, **options):
    mx.export(model, (x,), tmp_path / "m.onnx")
    return convert(tmp_path / "m.onnx", tmp_path / "h.onnx", to="hls4ml", **options)


def simulated(tmp_path, x):
    made = project(tmp_path / "h.onnx", tmp_path / "hls", input_type=(24, 12))
    made.compile()
    return made.predict(np.ascontiguousarray(x))


def assert_simulation_equals(tmp_path, x):
    expected = list(executors.run_qonnx(tmp_path / "m.onnx", x).values())
    found = simulated(tmp_path, x)
    for name, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        assert np.array_equal(got.reshape(wanted.shape), wanted + 0.0), f"output {name}"


@needs_hls4ml
def test_a_residual_network_of_images_is_simulated_with_the_same_bits(tmp_path):
    torch.manual_seed(0)
    model = quantized(Images(), PER_CHANNEL, (torch.randn(32, 3, 4, 4) * 64).round() / 64)
    x, ties = on_ties(model, (3, 4, 4))
    report = exported(tmp_path, model, x)
    assert (
        "grouped",
        "kernel (4, 2, 3, 3) filled up with zeros to (4, 4, 5, 5): hls4ml takes no groups and dilations",
    ) in report.notes
    assert min(ties) > 0 and ties[0] == x.numel()
    assert_simulation_equals(tmp_path, x.numpy())


@needs_hls4ml
def test_a_residual_network_of_vectors_is_simulated_with_the_same_bits(tmp_path):
    torch.manual_seed(0)
    model = Vectors()
    for layer in (model.first, model.second):
        layer.weight.data *= torch.exp2(-(torch.arange(layer.weight.shape[1]) // 4 % 3))
    model = quantized(model, "mxint4_g4", (torch.randn(32, 16) * 64).round() / 64)
    unsigned = activation_quantizer("uint8", -1, source="static", scaling_per_output="tensor", signed=False)
    unsigned.stored_scale = model.third.input_quant.stored_scale / 2
    model.third._hold(input_quant=unsigned)
    x, ties = on_ties(model, (16,))
    report = exported(tmp_path, model, x, fold="groups")
    assert any(why.endswith("products summed (groups)") for _, why in report.notes)
    assert min(ties) > 0 and ties[0] == x.numel()
    assert_simulation_equals(tmp_path, x.numpy())


# --- converted, not compiled ----------------------------------------------------------------------------------

QUANT = "qonnx.custom_op.general.Quant"
Q = f"[in] q = {QUANT}<signed=1, narrow=1>(x, step, zero, eight)"
UNSIGNED = f"[in] q = {QUANT}<signed=0, narrow=0>(x, step, zero, eight)"
ARRAYS = {
    "step": np.float32(0.5), "zero": np.float32(0), "eight": np.float32(8), "one": np.float32(1),
    "w": np.eye(4, 3, dtype=np.float32), "square": np.eye(4, dtype=np.float32),
    "image": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1), "batch": np.arange(8, dtype=np.float32).reshape(2, 4),
    "k": np.ones((4, 4, 1, 1), np.float32), "k3": np.ones((4, 4, 1, 1, 1), np.float32),
}  # fmt: skip
VECTORS, PIXELS = ("float[2,4] x", "float[2,4] y"), ("float[2,4,5,5] x", "float[2,4,a,b] y")


def built(body, inputs, outputs):
    return pass_helpers.model(body, inputs, outputs, table=ARRAYS)


def test_a_value_read_twice_gets_a_type_that_holds_it_and_others_none():
    made = built(
        f"{Q} [fc] m = MatMul(q, square) [r] r = Relu(m) "
        f"[p] p = {QUANT}<signed=1, narrow=1>(r, step, zero, eight) [fc2] n = MatMul(p, square) [add] y = Add(n, r)",
        *VECTORS,
    )
    converted = hls4ml.convert(made).model
    (added,) = (node for node in converted.graph if node.name == "r_type")
    assert [value.producer().op_type for value in added.inputs[:1]] == ["Relu"]
    assert {user.name for user, _ in added.outputs[0].uses()} == {"p", "add"}
    assert sum(node.op_type == "Quant" for node in converted.graph) == 5  # q, p, r_type and the two weights
    x = np.linspace(-70, 70, 8, dtype=np.float32).reshape(2, 4)
    (expected,), (found,) = executors.run_qonnx(ir.to_proto(made), x).values(), executors.run(converted, x).values()
    assert np.array_equal(found, expected)


KERNELS = {
    "groups": {"groups": 2}, "dilation": {"dilation": 2}, "both": {"groups": 2, "dilation": (1, 2)},
    "depthwise": {"groups": 4}, "multiplier": {"groups": 4, "out_channels": 8},
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_groups_and_dilations_become_zeros_but_for_depthwise_kernels(tmp_path, kernel):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(**({"in_channels": 4, "out_channels": 4, "kernel_size": 3} | KERNELS[kernel])))
    model, x = quantized(model, PER_CHANNEL, torch.randn(2, 4, 6, 6)), torch.randn(2, 4, 6, 6)
    exported(tmp_path, model, x, batch=2)
    (conv,) = (node for node in graph.load(tmp_path / "h.onnx").graph if node.op_type == "Conv")
    assert conv.attributes["group"].value == (4 if kernel == "depthwise" else 1)
    assert set(conv.attributes["dilations"].value) == {1}
    (expected,), (found,) = (executors.run(tmp_path / name, x.numpy()).values() for name in ("m.onnx", "h.onnx"))
    assert np.array_equal(found, expected)


REFUSED = {
    "tokens": (f"{Q} [fc] y = MatMul(q, square)", "float[2,3,4] x", "float[2,3,4] y", "fc",
               "its input has 3 dimensions, expected 2: .* take vectors; flatten"),
    "three dimensions": (f"{Q} [c] y = Conv(q, k3)", "float[2,4,5,5,5] x", "float[2,4,5,5,5] y", "c",
                         "its input has 5 dimensions, expected 3 or 4"),
    "last window": (f"{Q} [p] y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(q)", *PIXELS, "p",
                    "ceil_mode is 1, expected 0"),
    "padded unsigned": (f"{UNSIGNED} [p] y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(q)", *PIXELS, "p",
                        "around unsigned values, expected none or signed values: .*; use a signed quantizer"),
    "pads by name": (f'{Q} [c] y = Conv<auto_pad="SAME_UPPER">(q, k)', *PIXELS, "c", "auto_pad is SAME_UPPER"),
    "repeated": (f"{Q} [p] p = MaxPool<kernel_shape=[5,5]>(q) [a] y = Add(q, p)", *PIXELS, "a",
                 r"it adds shapes \[2,4,5,5\] and \[2,4,1,1\], expected equal ones"),
    "two values": (f"{Q} [m] y = Mul(q, q)", *VECTORS, "m", "two values found at run time, expected a constant"),
    "constant by sample": (f"{Q} [a] y = Add(q, batch)", *VECTORS, "a", "the same for every sample; make it an input"),
    "image of one pixel": (f"{Q} [a] y = Add(q, image)", "float[2,4,1,1] x", "float[2,4,1,1] y", "a",
                           "expected no dimension of size 1, which hls4ml drops; flatten"),
    "moved batch": (f"{Q} [t] y = Transpose<perm=[1,0]>(q)", "float[2,4] x", "float[4,2] y", "t", "it moves the batch"),
    "one bit": (f"[in] y = {QUANT}<signed=1, narrow=0>(x, step, zero, one)", *VECTORS, "in",
                "signed quantizer of 1 bit .* expected 2 bits or more"),
    "narrow": (f"[in] y = {QUANT}<signed=0, narrow=1>(x, step, zero, eight)", *VECTORS, "in",
               "unsigned and narrow, expected the whole range"),
    "shared image": (f"{Q} [c] c = Conv(q, k) [a] a = Add(c, image) [n] y = Add(a, c)", *PIXELS, "a",
                     "others read the image it changes by a constant, expected no other reader"),
    "raw fork": (f"[r] r = Relu(x) [in] q = {QUANT}<signed=1, narrow=1>(r, step, zero, eight) [a] y = Add(q, r)",
                 *VECTORS, "r", r"2 nodes read it and it has no fixed-point type; .*input_type="),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_hls4ml_would_compute_otherwise_is_refused_by_check_and_conversion(case):
    body, inputs, outputs, node, message = REFUSED[case]
    for ask in (hls4ml.convert, lambda model: require(model, "hls4ml")):
        with pytest.raises(UnsupportedError) as caught:
            ask(built(body, inputs, outputs))
        assert any(where == node and re.search(message, why) for where, why in caught.value.problems), caught.value


def test_an_output_given_twice_is_refused():
    made = built(f"{Q} [r] y = Relu(q)", *VECTORS)
    made.graph.outputs.append(made.graph.outputs[0])
    with pytest.raises(UnsupportedError, match="y: it is an output twice"):
        hls4ml.convert(made)
