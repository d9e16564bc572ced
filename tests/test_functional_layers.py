"""Layers that only subclass Conv2d or Linear are quantized at the product that their own forward calls."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.quant.folding.proof import plan_folds
from mxexport.quant.layers.bias import product_step
from mxexport.running import executors, verification
from tests.helpers import assert_equal_up_to_turned_codes


def padding(size: int, kernel: int, stride: int) -> int:
    return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


class Same(nn.Conv2d):
    """Pads as TensorFlow does."""

    def forward(self, x):
        high, wide = (padding(n, k, s) for n, k, s in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True))
        x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardized(nn.Conv2d):
    """By the batch norm of a batch of one, as timm does."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


class Gained(nn.Conv2d):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 1.5))

    def scaled(self):
        return (self.weight - self.weight.mean([1, 2, 3], keepdim=True)) * self.gain

    def forward(self, x):
        return F.conv2d(x, self.scaled(), self.bias, self.stride, self.padding)


class Equalized(nn.Linear):
    """Scales weight and bias at run time."""

    def forward(self, x):
        return F.linear(3 * x, self.weight * (1 / math.sqrt(self.in_features)), self.bias * 0.5)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Padded(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(F.pad(x, (1, 1, 1, 1)), weight, bias)


class Causal(nn.Conv1d):
    def forward(self, x):
        return F.conv1d(F.pad(x, (2, 0)), self.weight, self.bias)


class Upsampled(nn.ConvTranspose2d):
    def forward(self, x):
        return F.conv_transpose2d(input=x - 1, weight=self.weight, bias=self.bias, stride=self.stride)


class Volume(nn.Conv3d):
    def forward(self, x):
        return F.conv3d(F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate"), self.weight, bias=self.bias).relu()


class Pixels(nn.Conv2d):
    """A linear layer of every pixel."""

    def forward(self, x):
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


LAYERS = {
    "same": (lambda: Same(40, 6, 3, stride=2), (2, 40, 7, 7)),
    "standardized": (lambda: Standardized(40, 6, 3), (2, 40, 5, 5)),
    "gained": (lambda: Gained(40, 6, 3), (2, 40, 5, 5)),
    "equalized": (lambda: Equalized(40, 6), (3, 40)),
    "doubled": (lambda: Doubled(40, 6), (3, 5, 40)),
    "padded": (lambda: Padded(40, 6, 3), (2, 40, 5, 5)),
    "causal": (lambda: Causal(40, 6, 3), (2, 40, 9)),
    "upsampled": (lambda: Upsampled(40, 6, 2, stride=2), (2, 40, 4, 4)),
    "volume": (lambda: Volume(40, 6, 3), (2, 40, 3, 3, 3)),
    "pixels": (lambda: Pixels(40, 6, 1), (2, 40, 3, 3)),
}


def made(name: str) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return nn.Sequential(make()).eval(), torch.randn(shape)


def q8(x: torch.Tensor, axis: int) -> torch.Tensor:
    return mx.quantize(x, "mxfp8_e4m3", axis=axis).dequantize()


def q4(x: torch.Tensor, axis: int = 1) -> torch.Tensor:
    return mx.quantize(x, "mxfp4_e2m1", axis=axis).dequantize()


def by_hand(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The layer's forward with input and weight quantized where its product takes them."""
    w, b = layer.weight, layer.bias
    if isinstance(layer, Same):
        return F.conv2d(q8(F.pad(x, (1, 1, 1, 1)), 1), q4(w), b, 2)  # 7 pixels, kernel 3, stride 2
    if isinstance(layer, Standardized):
        standard = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True, eps=1e-6).reshape_as(w)
        return F.conv2d(q8(x, 1), q4(standard), b)
    if isinstance(layer, Gained):
        return F.conv2d(q8(x, 1), q4(layer.scaled()), b)
    if isinstance(layer, Equalized):
        return F.linear(q8(3 * x, -1), q4(w * (1 / math.sqrt(40))), b * 0.5)
    if isinstance(layer, Doubled):
        return 2 * F.linear(q8(x, -1), q4(w), b)
    if isinstance(layer, Padded):
        return F.conv2d(q8(F.pad(x, (1, 1, 1, 1)), 1), q4(w), b)
    if isinstance(layer, Causal):
        return F.conv1d(q8(F.pad(x, (2, 0)), 1), q4(w), b)
    if isinstance(layer, Upsampled):
        return F.conv_transpose2d(q8(x - 1, 1), q4(w, 0), b, 2)
    if isinstance(layer, Volume):
        return F.conv3d(q8(F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate"), 1), q4(w), b).relu()
    return F.linear(q8(x.permute(0, 2, 3, 1), -1), q4(w.flatten(1)), b).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_the_product_takes_input_and_weight_quantized_as_the_call_sees_them(name, recwarn):
    model, x = made(name)
    quantized, report = mx.quantize_model(model, "mxfp4_e2m1", "mxfp8_e4m3", return_report=True)
    assert [(c.name, c.kind) for c in report.converted] == [("0", f"Quant{type(model[0]).__name__}")]
    assert not report.left and not recwarn.list
    with torch.no_grad():
        assert torch.equal(quantized(x), by_hand(model[0], x))
        assert not torch.equal(quantized(x), model(x))


@pytest.mark.parametrize("name", LAYERS)
def test_names_copies_files_and_gradients_are_those_of_any_layer(name):
    model, x = made(name)
    quantized = mx.quantize_model(model, "mxfp4_e2m1", "mxfp8_e4m3")
    assert list(quantized.state_dict()) == list(model.state_dict()) and isinstance(quantized[0], type(model[0]))
    y = quantized(x)
    y.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in quantized.parameters())
    file = io.BytesIO()
    torch.save(quantized, file)
    file.seek(0)
    for other in (copy.deepcopy(quantized), torch.load(file, weights_only=False)):
        assert type(other[0]) is type(quantized[0]) and torch.equal(other(x), y)
    again = mx.quantize_model(nn.Sequential(LAYERS[name][0]()), "mxfp4_e2m1", "mxfp8_e4m3").eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), y)


@pytest.mark.parametrize("name", LAYERS)
def test_the_file_holds_the_operators_with_the_weight_as_a_constant(name, tmp_path):
    model, x = made(name)
    quantized = mx.quantize_model(model, "mxfp4_e2m1", "mxfp8_e4m3")
    state = copy.deepcopy(quantized.state_dict())
    mx.export(quantized, (x,), tmp_path / "m.onnx")
    assert list(quantized.state_dict()) == list(state)
    exported = graph.load(tmp_path / "m.onnx")
    quantizers = [node for node in exported.graph if node.op_type == "MXFloatQuant"]
    weights = [node for node in quantizers if all(constant(value) is not None for value in node.inputs)]
    assert len(quantizers) == 2 and len(weights) == 1
    name = weights[0].outputs[0].name
    found = executors.run(tmp_path / "m.onnx", {"input": x.numpy()}, outputs=[name])[name]
    assert np.array_equal(found, quantized[0].quant_weight().dequantize().detach().numpy())
    counts = verification.count_quantizer_differences(exported, {"input": x.numpy()}, executors.run)
    assert counts and not any(counts.values())
    with torch.no_grad():
        expected = quantized(x).numpy()
    (found,) = mx.run(tmp_path / "m.onnx", x.numpy()).values()
    assert_equal_up_to_turned_codes(found, expected)


@pytest.mark.parametrize("name", ["same", "standardized", "equalized"])
def test_compiled_layers_compute_the_same(name):
    model, x = made(name)
    quantized = mx.quantize_model(model, "mxfp4_e2m1", "mxfp8_e4m3")
    torch._dynamo.reset()
    assert torch.equal(torch.compile(quantized, backend="aot_eager")(x), quantized(x))


@pytest.mark.parametrize("source", ["static", "mse", "learned"])
def test_stored_scales_are_those_of_the_weight_that_the_product_sees(source):
    model, x = made("gained")
    spec = mx.QuantSpec("int8", source=source, scaling_per_output="channel")
    quantized = mx.quantize_model(model, spec, None)
    with torch.no_grad():
        seen = model[0].scaled()
        expected = F.conv2d(x, quantized[0].weight_quant(seen), model[0].bias)
        assert torch.equal(quantized(x), expected)
        assert (expected - model(x)).abs().max() < 0.05 * model(x).abs().max()
        for parameter in (*model.parameters(),):
            parameter.mul_(16)
        quantized.load_state_dict(model.state_dict(), strict=False)
        assert (quantized(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


def test_integer_biases_need_the_layer_s_own_weight_and_bias():
    static = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
    weight = mx.QuantSpec("int8", scaling_per_output="channel")
    model, x = made("same")
    quantized = mx.quantize_model(model, weight, static, bias_format="int32")
    quantized(x)
    mx.quant.freeze_scales(quantized)
    steps = quantized[0].quant_bias() / product_step(quantized[0])
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    with pytest.raises(FormatError, match="0: an integer bias needs .* and Equalized computes its own"):
        mx.quantize_model(made("equalized")[0], weight, static, bias_format="int32")


class Gated(nn.Conv2d):
    """Holds a layer of its own."""

    def __init__(self):
        super().__init__(4, 4, 1)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return super().forward(x) * self.gate(x).sigmoid()


def test_children_of_such_a_layer_are_converted_too():
    quantized = mx.quantize_model(nn.Sequential(Gated()), "mxint8", "mxint8", formats={"0.gate": "mxint4"})
    assert type(quantized[0].gate) is mx.QuantConv2d and quantized[0].gate.weight_quant.format.name == "mxint4"
    assert quantized[0].weight_quant.format.name == "mxint8"


class Einsum(nn.Linear):
    def forward(self, x):
        return torch.einsum("...i,oi->...o", x, self.weight)


class Dynamic(nn.Conv2d):
    """Its weight depends on the input."""

    def forward(self, x):
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class Unused(nn.Linear):
    def forward(self, x):
        return x * self.bias.mean()


class TwoKinds(nn.Conv2d):
    def forward(self, x):
        pixel = F.linear(x.mean([2, 3]), self.weight.flatten(1))
        return F.conv2d(x, self.weight) + pixel[:, :, None, None]


class Conditioned(nn.Conv2d):
    def forward(self, x, condition):
        return super().forward(x + condition)


LEFT = {
    "einsum": (Einsum(4, 4), "Einsum is a subclass of Linear, and its weight meets the input in einsum; quantized are"),
    "dynamic": (Dynamic(4, 4, 1), "Dynamic is a subclass of Conv2d, and its weight meets the input in mul"),
    "unused": (Unused(4, 4), "Unused is a subclass of Linear, and it calls no product on its weight that can be seen"),
    "two_kinds": (TwoKinds(4, 4, 1), "TwoKinds is .*, and it calls several kinds of products .* .conv2d, linear."),
    "conditioned": (
        Conditioned(4, 4, 1),
        "Conditioned is .*, and its forward does not run on inputs made for it .*cond",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_forward_whose_product_cannot_be_seen_stays_in_float_with_the_reason(name):
    layer, reason = LEFT[name]
    with pytest.warns(UserWarning, match=f"left in float: 1: {reason}"):
        quantized = mx.quantize_model(nn.Sequential(nn.Linear(4, 4), layer))
    assert type(quantized[1]) is type(layer)


def test_the_warning_names_three_layers_and_counts_the_rest():
    model = nn.Sequential(nn.Linear(4, 4), *(Einsum(4, 4) for _ in range(49)))
    with pytest.warns(UserWarning, match="and 46 more, see mxexport.conversion_report") as caught:
        quantized = mx.quantize_model(model)
    message = str(caught[0].message)
    assert len(message) < 1000 and "3: Einsum" in message and "4: Einsum" not in message
    assert len(mx.conversion_report(quantized).left) == 49
    assert "49: Einsum left as it is: Einsum is a subclass of Linear, and its weight" in str(
        mx.conversion_report(quantized)
    )


class Switching(nn.Conv2d):
    def forward(self, x):
        if x.shape[-1] == 1:
            return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)
        return super().forward(x)


def test_another_product_than_was_converted_is_refused_when_it_is_called():
    quantized = mx.quantize_model(nn.Sequential(Switching(4, 4, 1)))
    quantized(torch.randn(1, 4, 3, 3))
    with pytest.raises(UnsupportedError, match="QuantSwitching: its forward calls linear .* converted .* calls conv2d"):
        quantized(torch.randn(1, 4, 1, 1))


def test_batch_norm_is_folded_into_what_returns_its_product_as_it_comes():
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.weight)
    norm.running_mean.normal_()
    model = nn.Sequential(Same(8, 6, 3, bias=False), norm).eval()
    quantized = mx.quantize_model(model, "mxint8", None, fold_batch_norm=True)
    assert mx.conversion_report(quantized).folded == [("1", "0")]
    x = torch.randn(2, 8, 9, 9)
    assert (quantized(x) - model(x)).std() < 0.02 * model(x).std()
    for kind in (Standardized, Gained, Switching):
        plan = plan_folds(nn.Sequential(kind(6, 6, 1), nn.BatchNorm2d(6)))
        assert plan.left == {"1": f"0 ({kind.__name__}) is a subclass of Conv2d and may compute otherwise"}


class Network(nn.Module):
    """An EfficientNet in small: every convolution pads by itself."""

    def __init__(self):
        super().__init__()
        widths = [3, *[8] * 17]
        blocks = [
            nn.Sequential(Same(i, o, 3, groups=1 if i == 3 else o, bias=False), nn.BatchNorm2d(o), nn.ReLU6())
            for i, o in zip(widths, widths[1:], strict=False)
        ]
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.blocks(x).mean([2, 3]))


def test_no_layer_of_a_network_that_pads_by_itself_stays_in_float(recwarn):
    torch.manual_seed(0)
    report = mx.quantize_model(Network().eval(), fold_batch_norm=True, return_report=True)[1]
    assert len(report.converted) == 18 and len(report.folded) == 17
    assert not report.left and not report.not_folded
    assert [str(w.message).partition(" take ")[0] for w in recwarn.list] == ["16 depthwise layers"]
