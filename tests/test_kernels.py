"""Fused kernels: the native and the chunked torch path give the bits of the numpy reference, and the same gradient."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import mxexport as mx
from mxexport import numerics
from mxexport.formats import MX_FORMATS, SCALE_RULES, get_format
from mxexport.quant import Quantizer, kernels, library, native
from tests.helpers import assert_equal_bits, edge_values

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
FORMATS = (*MX_FORMATS, "mxint4", "mxint2", "mxfp6_e3m2_g7")
ENGINES = {"native": native, "torch": kernels}


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "native" and not native.available():
        pytest.skip(f"no native kernel here ({native.status()})")
    return ENGINES[request.param]


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", FORMATS)
def test_one_pass_equals_the_reference_on_any_axis(engine, name, rule):
    x = np.stack([edge_values((64, 70), seed) for seed in range(3)], axis=2)
    for axis in range(3):
        expected = numerics.quantize(x, name, axis=axis, rule=rule)
        spec = Quantizer(get_format(name), axis, rule).spec(3)
        values, scale = engine.mx_quantize_dequantize(torch.from_numpy(x), spec)
        assert_equal_bits(scale.numpy(), expected.scale, (name, rule, axis))
        assert_equal_bits(values.numpy(), expected.dequantize(), (name, rule, axis))


def test_chunks_do_not_show(engine):
    x = torch.randn(300, 1000) * torch.exp2(torch.randint(-30, 30, (300, 1)))
    spec = Quantizer(get_format("mxfp8_e4m3"), 1).spec(2)
    values, scale = engine.mx_quantize_dequantize(x, spec)
    whole, scale_of_whole = kernels._quantize_chunk(x, spec)
    assert torch.equal(values, whole) and torch.equal(scale, scale_of_whole)


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4_e2m1", "mxint8", "mxint4"])
def test_gradient_equals_that_of_the_operators(engine, name, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: engine is native)
    for axis in (0, 1, 2):
        q = Quantizer(get_format(name), axis)
        x = torch.randn(9, 70, 5).clamp(-1.5, 1.5)
        x[0, 0, 0] = -1.9999  # over half a step beyond the largest code of every format here
        x.requires_grad_()
        weight = torch.randn_like(x)
        (q(x) * weight).sum().backward()
        fused, x.grad = x.grad, None
        scale = library.mx_scale(x, axis, 32, q.format.element.emax, 0, q.format.step_frac_bits, 0, 254)
        (q.apply(x, scale) * weight).sum().backward()
        assert torch.equal(fused, x.grad) and (fused == 0).any() and (fused != 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_through_float32(dtype):
    x = torch.randn(8, 64).to(dtype).requires_grad_()
    y = mx.quant.fake_quantize(x, "mxint8")
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert torch.equal(y, mx.quant.fake_quantize(x.detach().float(), "mxint8").to(dtype))


def test_non_contiguous_and_empty_tensors_are_fine():
    x = torch.randn(64, 6).t()
    assert torch.equal(mx.quant.fake_quantize(x, "mxint8"), mx.quant.fake_quantize(x.contiguous(), "mxint8"))
    assert mx.quant.fake_quantize(torch.empty(0, 64), "mxint8").shape == (0, 64)


def test_the_choice_is_visible_and_can_be_switched_off():
    script = "from mxexport.quant import native; print(native.status(), native.available())"
    for value, expected in (("0", "torch: MXEXPORT_NATIVE=0 False"), ("1", native.status())):
        environment = os.environ | {"MXEXPORT_NATIVE": value}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith(expected), (done.stdout, done.stderr)
    environment = os.environ | {"MXEXPORT_NATIVE": "1", "CC": "no-such-compiler", "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "torch: no C compiler" in done.stdout and done.stdout.endswith("False\n"), (done.stdout, done.stderr)


def test_compiled_layers_give_eager_bits():
    torch.manual_seed(0)
    q = Quantizer(get_format("mxfp6_e2m3"), -1)
    x = torch.randn(4, 70)
    assert torch.equal(torch.compile(q, backend="aot_eager", fullgraph=True)(x), q(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", FORMATS)
def test_cuda_equals_the_reference(name):
    x = edge_values((64, 70))
    y = Quantizer(get_format(name), 1)(torch.from_numpy(x).cuda()).cpu().numpy()
    assert_equal_bits(y, numerics.quantize(x, name, axis=1).dequantize())
