"""torch.func and forward-mode autograd: the values and gradients of an ordinary backward pass."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn import functional

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.quant import QuantSpec, fake_quantize

CASES = {
    "mx": ("mxfp4_e2m1", "dynamic", None),
    "mxint": ("mxint3", "dynamic", None),
    "nvfp4": ("nvfp4", "dynamic", None),
    "nested": ("uint4_g32_s6x8", "dynamic", None),
    "asymmetric": ("uint4_g16", "static", None),
    "mse": ("int4_g32", "mse", None),
    "tensor": ("float_e4m3", "dynamic", "tensor"),
    "channel": ("int3", "learned", "channel"),
    "learned": ("mxint3", "learned", None),
    "learned_float": ("float_fnuz_e4m3_g16", "learned", None),
    "learned_asymmetric": ("uint4_g32", "learned", None),
}


def layer_of(case: str) -> tuple[mx.QuantLinear, torch.Tensor]:
    torch.manual_seed(0)
    fmt, source, per = CASES[case]
    layer = mx.QuantLinear(48, 6, weight=QuantSpec(fmt, source=source, scaling_per_output=per), activation="mxint8")
    with torch.no_grad():
        layer.weight[0, 0], layer.weight[1] = -0.0, 0.0
        if source == "learned":
            layer.weight_quant.raw_scale *= 0.3  # some weights are clipped
    return layer, torch.randn(4, 48)


@pytest.mark.parametrize("case", CASES)
def test_torch_func_gives_the_gradients_of_a_backward_pass(case):
    layer, x = layer_of(case)
    parameters, upstream = dict(layer.named_parameters()), torch.randn(4, 6)

    def loss(parameters, x, upstream):
        return (functional_call(layer, parameters, (x,)) * upstream).sum()

    loss(parameters, x, upstream).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as that of vmap about operators it knows no batches of
        whole = grad(loss)(parameters, x, upstream)
        each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, upstream)
        backward = jacrev(lambda p: functional_call(layer, p, (x,)))(parameters)
        forward = jacfwd(lambda p: functional_call(layer, p, (x,)))(parameters)
    for name, parameter in parameters.items():
        assert parameter.grad.any()
        torch.testing.assert_close(whole[name], parameter.grad)
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(forward[name], backward[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_values_keep_their_bits(case):
    layer, _ = layer_of(case)
    quantizer, weight = layer.weight_quant, layer.weight.detach()
    expected = quantizer(weight).detach()
    assert not torch.signbit(expected[0, 0]) or quantizer.format.element.signed_zero
    for values in (
        jvp(quantizer, (weight,), (torch.ones_like(weight),))[0],
        torch.func.vjp(quantizer, weight)[0],
        vmap(quantizer)(weight.unsqueeze(0))[0],
        vmap(quantizer, in_dims=2)(torch.stack([weight, weight], 2))[1],
    ):
        assert torch.equal(values.view(torch.int32), expected.view(torch.int32))


def test_forward_mode_passes_tangents_where_nothing_is_clipped():
    x, tangent = torch.randn(4, 70).clamp(-1.7, 1.7), torch.randn(4, 70)
    x[:, ::9] = 1.9  # beyond the largest code, 1.5, by more than half a step
    mask = x.clone().requires_grad_()
    fake_quantize(mask, "mxint3").sum().backward()
    assert 0 < mask.grad.sum() < mask.grad.numel()
    with forward_ad.dual_level():
        for primal in (x, x.clone().requires_grad_()):
            result = fake_quantize(forward_ad.make_dual(primal, tangent), "mxint3")
            assert torch.equal(forward_ad.unpack_dual(result).tangent, tangent * mask.grad)
        assert torch.equal(mx.quantize(x, "mxint3").value, forward_ad.unpack_dual(result).primal)
        with pytest.raises(UnsupportedError, match="forward-mode autograd cannot make quant tensors"):
            mx.quantize(forward_ad.make_dual(x, tangent), "mxint3")


def test_transforms_take_quant_tensors_of_outside():
    q, x = mx.quantize(torch.randn(8, 70), "mxint8"), torch.randn(4, 70)
    for product in (lambda x: functional.linear(x, q), lambda x: x @ q.value.t()):
        torch.testing.assert_close(grad(lambda x: product(x).sum())(x), q.value.sum(0).expand(4, 70))  # noqa: B023
        torch.testing.assert_close(vmap(product)(x), product(x))
    assert torch.equal(grad(lambda x: (x.sum() * q.value_).sum())(x), q.value_.sum().expand(4, 70))


def test_integer_bias_has_its_gradient_in_forward_mode_and_keeps_its_bits():
    static = QuantSpec("int8", source="static", scaling_per_output="tensor")
    layer = mx.QuantLinear(8, 2, weight="int8", activation=static, bias_format="int32")
    layer(torch.randn(4, 8))
    mx.quant.freeze_scales(layer)
    layer.bias.data = torch.tensor([-1e-30, 0.3])
    with torch.no_grad():
        expected = layer.quant_bias()
    assert torch.equal(torch.signbit(layer.quant_bias()), torch.signbit(expected)) and expected[0] == 0
    values, tangent = jvp(
        lambda b: functional_call(_BiasOf(layer), {"layer.bias": b}), (layer.bias.data,), (torch.ones(2),)
    )
    assert torch.equal(values, expected) and torch.equal(tangent, torch.ones(2))


class _BiasOf(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return self.layer.quant_bias()


@pytest.mark.parametrize("source", ["static", "learned"])
def test_scales_do_not_start_inside_torch_func(source):
    layer = mx.QuantIdentity(QuantSpec("int8", source=source))
    with pytest.raises(UnsupportedError, match="scale of int8 has no value yet.*run data through"):
        vmap(layer)(torch.randn(3, 8))


def test_compiled_transforms_equal_eager_ones():
    torch.compiler.reset()
    layer, x = layer_of("learned")
    parameters = dict(layer.named_parameters())
    gradient = grad(lambda p, x: functional_call(layer, p, (x,)).square().sum())
    compiled = torch.compile(gradient, backend="aot_eager", fullgraph=True)(parameters, x)
    for name, expected in gradient(parameters, x).items():
        torch.testing.assert_close(compiled[name], expected, rtol=1e-4, atol=1e-4)
