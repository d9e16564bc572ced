"""Checks of everything in `mxexport.quant` on another device than the CPU; `test_far_device` runs them.

They have a process of their own: a device that is registered stays, and torch then prefers it.
"""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import quant
from mxexport.numbers import quantized
from mxexport.numbers.formats import SCALE_RULES, get_format
from mxexport.quant import Quantizer, QuantSpec
from mxexport.quant.kernels import fused
from tests.far_device import FAR, GPU, FarDevice, FarTensor
from tests.helpers import ALL_FORMATS, assert_equal_bits, assert_equal_up_to_turned_codes, edge_values

aten = torch.ops.aten
FORMATS = (*ALL_FORMATS, "nvfp4", "int4_g16_s6x8", "mxfloat_e7m0")


@pytest.fixture(autouse=True)
def device():
    with contextlib.nullcontext() if GPU else FarDevice() as device:
        yield device


only_stand_in = pytest.mark.skipif(GPU, reason="what runs is a GPU, not the stand-in")


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Bit for bit; up to turned codes behind sums on a GPU, which adds in another order."""
    if GPU:
        assert_equal_up_to_turned_codes(actual.float().numpy(), expected.float().numpy())
    else:
        assert torch.equal(actual, expected)


def there(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(FAR)


# --- the device itself ----------------------------------------------------------------------------------------


@only_stand_in
def test_the_device_refuses_what_a_gpu_refuses():
    x = there(3)
    with pytest.raises(RuntimeError, match="tensors on the CPU and on the far device"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError):
        x.numpy()
    assert (x + torch.tensor(1.0)).device == FAR


# --- bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_values_and_scales_equal_the_reference_on_any_axis(name):
    x = edge_values((64, 70))
    fmt = get_format(name)
    for axis in range(2):
        for rule in SCALE_RULES if fmt.is_mx else ("floor",):
            expected = quantized.quantize(x, name, axis=axis, rule=rule)
            values, scale, _ = Quantizer(fmt, axis, rule).quantize(torch.from_numpy(x).to(FAR))
            assert_equal_bits(scale.cpu().numpy(), expected.scale, (name, rule, axis))
            assert_equal_bits(values.cpu().numpy(), expected.dequantize(), (name, rule, axis))


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_equal_those_on_the_cpu(name):
    x, grad = torch.from_numpy(edge_values((64, 70))), torch.randn(64, 70)
    near, far = x.clone().requires_grad_(), x.to(FAR).requires_grad_()
    quant.fake_quantize(near, name, 1).backward(grad)
    quant.fake_quantize(far, name, 1).backward(grad.to(FAR))
    assert torch.equal(far.grad.cpu(), near.grad)


MOVES = {
    aten._to_copy, aten.alias, aten.constant_pad_nd, aten.contiguous, aten.copy_, aten.detach, aten.empty,
    aten.empty_like, aten.expand, aten.flatten, aten.index, aten.narrow, aten.new_empty_strided, aten.new_full,
    aten.new_zeros, aten.ones_like, aten.pad, aten.scalar_tensor, aten.slice, aten.squeeze, aten.to, aten.unflatten,
    aten.unsqueeze, aten.view, aten.where, aten.zeros, aten.zeros_like,
}  # fmt: skip
OF_BITS = {
    aten.__and__, aten.__lshift__, aten.__or__, aten.__rshift__, aten.bitwise_and, aten.bitwise_not, aten.bitwise_or,
    aten.eq, aten.ge, aten.gt, aten.isfinite, aten.isnan, aten.le, aten.lt, aten.ne, aten.signbit,
}  # fmt: skip
ONE_ROUNDING = {
    aten.abs, aten.add, aten.add_, aten.amax, aten.amin, aten.clamp, aten.clamp_, aten.copysign, aten.copysign_,
    aten.div, aten.max, aten.mul, aten.mul_, aten.round, aten.rsub, aten.sub, aten.sub_,
}  # fmt: skip
"""IEEE 754 leaves these one result. Logarithms, exponentials, powers and sums it does not: devices differ there."""


@only_stand_in
@pytest.mark.parametrize("name", FORMATS)
def test_quantizers_use_operators_only_that_give_the_same_bits_on_every_device(device, name):
    fmt = get_format(name)
    q = Quantizer(fmt, 1)
    x = torch.from_numpy(edge_values((64, 70))).to(FAR).requires_grad_()
    quant.fake_quantize(x, name, 1).backward(torch.ones(64, 70).to(FAR))
    scale = q.scale(x.detach())
    q.apply(x.detach(), scale, q.zero_point(x.detach(), scale))
    mx.quantize(x.detach(), name, axis=1)
    assert len(device.calls) > 30
    for func, args, options in device.calls:
        packet = func.overloadpacket
        assert packet in MOVES | OF_BITS | ONE_ROUNDING, func
        if packet is aten.div:  # by a number of the host GPUs multiply with its reciprocal: two roundings
            assert isinstance(args[1], FarTensor), func
        assert math.frexp(options.get("alpha", 1))[0] == 0.5, func  # a product that needs no rounding of its own


def test_a_slab_of_a_device_changes_no_bit(monkeypatch):
    monkeypatch.setattr(fused, "DEVICE_SLAB", 96)
    for name in ("mxfp8_e5m2", "mxint8", "mxfloat_e7m0"):
        x = edge_values((20, 70))
        for axis in range(2):
            y = quant.fake_quantize(torch.from_numpy(x).to(FAR), name, axis)
            assert_equal_bits(y.cpu().numpy(), quantized.quantize(x, name, axis=axis).dequantize(), name)


# --- layers and models ----------------------------------------------------------------------------------------

SPECS = {
    "mxfp8_e4m3": ("mxfp8_e4m3",) * 2,
    "nvfp4": ("nvfp4",) * 2,
    "asymmetric": ("uint4_g32",) * 2,
    "nested": ("uint4_g32_s6x8", "mxint8"),
    "static": (QuantSpec("mxint8", source="static"),) * 2,
    "static_asymmetric": (QuantSpec("uint4_g32", source="static"),) * 2,
    "static_nvfp4": (QuantSpec("nvfp4", source="static"),) * 2,
    "mse": (QuantSpec("int4_g32", source="mse"), QuantSpec("int8", source="static")),
    "learned": (QuantSpec("mxfp8_e4m3", source="learned"), QuantSpec("int8", "learned", "tensor")),
    "channel": (QuantSpec("int8", scaling_per_output="channel"), "mxint8"),
}
LAYERS = {
    "linear": (lambda **k: quant.QuantLinear(70, 9, **k), (4, 70)),
    "conv2d": (lambda **k: quant.QuantConv2d(8, 9, 3, **k), (2, 8, 7, 7)),
    "conv_transpose2d": (lambda **k: quant.QuantConvTranspose2d(8, 9, 3, **k), (2, 8, 7, 7)),
    "attention": (lambda **k: quant.QuantMultiheadAttention(64, 4, batch_first=True, **k), (2, 5, 64)),
}


def made(kind: str, spec: str, **options) -> nn.Module:
    torch.manual_seed(0)
    weight, activation = SPECS[spec]
    return LAYERS[kind][0](weight=weight, activation=activation, **options)


def results(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output in training and in eval mode, and all gradients, on the CPU."""
    x = x.clone().requires_grad_()
    run = (lambda: layer(x, x, x)[0]) if isinstance(layer, nn.MultiheadAttention) else (lambda: layer(x))
    trained = run()
    trained.sum().backward()
    quant.freeze_scales(layer)
    layer.eval()
    assert trained.device == x.device
    grads = [x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
    return [t.detach().cpu() for t in (trained, run(), *grads)]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_there_what_it_computes_here(kind, spec):
    x = torch.randn(LAYERS[kind][1])
    layer = made(kind, spec)
    initial = {name: value.clone() for name, value in layer.state_dict().items()}
    moved = copy.deepcopy(layer).to(FAR)
    built = made(kind, spec, device=FAR)
    built.load_state_dict(initial)
    expected = results(layer, x)
    for far in (moved, built):
        for actual, wanted in zip(results(far, x.to(FAR)), expected, strict=True):
            assert_same(actual, wanted)


@pytest.mark.parametrize("spec", SPECS)
def test_a_state_dict_of_the_cpu_loads_where_the_layer_is(spec):
    x = torch.randn(4, 70)
    trained = made("linear", spec)
    results(trained, x)
    far = made("linear", spec).to(FAR)
    far.load_state_dict(trained.state_dict())
    assert {t.device for t in (*far.parameters(), *far.buffers())} == {FAR}
    assert_same(far.eval()(x.to(FAR)).cpu(), trained(x))


def train(spec: str, device: torch.device | str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 36, 10)
    model = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), last)
    x = torch.randn(5, 1, 8, 8).to(device)
    model = mx.quantize_model(model.eval().to(device), *SPECS[spec], fold_batch_norm=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    quant.freeze_scales(model)
    return {"output": model.eval()(x).detach().cpu(), **{name: t.cpu() for name, t in model.state_dict().items()}}


@pytest.mark.parametrize("spec", SPECS)
def test_a_model_that_is_there_is_converted_and_trained_there(spec):
    here, far = train(spec, "cpu"), train(spec, FAR)
    assert here.keys() == far.keys()
    for name in here:
        assert_same(far[name], here[name])


# --- quant tensors --------------------------------------------------------------------------------------------

OPERATIONS = {
    "scale": lambda q: q.scale,
    "scale_": lambda q: q.scale_,
    "neg": torch.neg,
    "abs": torch.abs,
    "permute": lambda q: q.permute(2, 0, 1),
    "index": lambda q: q[2],
    "flatten": torch.flatten,
    "cat": lambda q: torch.cat([q, q]),
    "add": lambda q: q + 1,
    "compare": lambda q: q > 0,
    "max_pool": lambda q: nn.functional.max_pool1d(q, 2),
    "clone": torch.clone,
}


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4_e2m1", "mxint8", "nvfp4", "uint4_g32", "uint4_g32_s6x8"])
def test_quant_tensors_live_there(name, tmp_path):
    x = torch.randn(6, 70, 4)
    near, far = mx.quantize(x, name, axis=1), mx.quantize(x.to(FAR), name, axis=1)
    assert torch.equal(near.to(FAR).value.cpu(), near.value)
    for label, operation in OPERATIONS.items():
        here, result = operation(near), operation(far)
        assert result.device == FAR, label
        assert hasattr(result, "value_") == hasattr(here, "value_"), label
        assert torch.equal(getattr(result, "value", result).cpu(), getattr(here, "value", here)), label
    quant.save_file({"weight": far}, tmp_path / "far.safetensors")
    assert torch.equal(quant.load_file(tmp_path / "far.safetensors")["weight"].value, near.value)
