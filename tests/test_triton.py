"""The Triton kernels: what `test_kernels` leaves out, and what happens where there is no triton.

Most of it runs in triton's interpreter (`make test-triton`), which TRITON_INTERPRET=1 switches on at the start of a
process: torch imports triton early.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch

from mxexport.numbers import quantized
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format
from mxexport.quant import Quantizer
from mxexport.quant.kernels import choice, fused, native, on_gpu
from tests.helpers import assert_equal_bits, edge_values, run_python

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
INSTALLED = importlib.util.find_spec("triton") is not None
MISSING = "triton is not installed: make test-triton gets it from PyPI"
with_triton = pytest.mark.skipif(not INSTALLED, reason=MISSING)
interpreted = pytest.mark.skipif(
    not INSTALLED or os.environ.get(on_gpu.INTERPRETER) != "1",
    reason=f"{on_gpu.INTERPRETER}=1 is not set: make test-triton does" if INSTALLED else MISSING,
)
FLOATS = [(e, m) for e in range(1, 8) for m in range(8 - e)]
FAMILIES = (
    *(f"mxfloat_{kind}e{e}m{m}" for kind in ("", "fnuz_") for e, m in FLOATS),
    *("mxfloat_ocp_e4m3", "mxfloat_ocp_e5m2"),
    *(f"mxint{bits}" for bits in range(2, 9)),
)
KEYS = ("values", "scale", "mask")


def spec_of(name: str, rule: str = "floor") -> fused.MXSpec:
    return Quantizer(get_format(name), -1, rule).spec


def run(kernel: str, x: torch.Tensor, axis: int, group_size: int, spec: fused.MXSpec) -> dict[str, torch.Tensor]:
    """Values, scale and mask; says so if another kernel would have run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.SWITCH, {"triton": "triton", "torch": "0"}[kernel])
        assert choice.status().kernel == kernel, choice.status().reason
        return dict(zip(KEYS, fused.mx_quantize_dequantize(x, axis, group_size, spec, True), strict=True))


def assert_equals_torch(x: torch.Tensor, axis: int, group_size: int, spec: fused.MXSpec, context: object) -> None:
    """NaN is any NaN; all other bits of values, scales and mask are equal."""
    found, expected = (run(kernel, x, axis, group_size, spec) for kernel in ("triton", "torch"))
    for key in KEYS:
        a, b = found[key], expected[key]
        if a.is_floating_point():
            assert torch.equal(a.isnan(), b.isnan()), (context, key)
            a, b = (t.nan_to_num(0.0, torch.inf, -torch.inf).view(on_gpu._INTEGERS[t.element_size()]) for t in (a, b))
        assert torch.equal(a, b), (context, key)


def any_bits(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """float32: random patterns of all exponents, NaN and subnormals among them; 16 bits: all patterns there are."""
    if dtype != torch.float32:
        return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)[torch.randperm(1 << 16)].view(dtype)
    bits = torch.randint(-(1 << 31), 1 << 31, (count,), dtype=torch.int64).to(torch.int32)
    near = (torch.randint(1, 254, (count // 32,)) << 23).repeat_interleave(32)  # groups of similar magnitudes, too
    near = (near + torch.randint(-(6 << 23), 1 << 23, (count,))).clamp(0, 0x7F7FFFFF).to(torch.int32)
    return torch.where(torch.arange(count) % 64 < 8, bits, near | (bits & -(1 << 31))).view(torch.float32)


# --- in the interpreter ---------------------------------------------------------------------------------------


@interpreted
@pytest.mark.parametrize("name", FAMILIES)
def test_every_element_and_rule_equals_the_reference(name):
    x = edge_values((64, 70))
    for rule in SCALE_RULES:
        for axis in range(2):
            found = run("triton", torch.from_numpy(x), axis, 32, spec_of(name, rule))
            expected = quantized.quantize(x, name, axis=axis, rule=rule)
            assert_equal_bits(found["scale"].numpy(), expected.scale, (name, rule, axis))
            assert_equal_bits(found["values"].numpy(), expected.dequantize(), (name, rule, axis))
            assert torch.equal(found["mask"], run("torch", torch.from_numpy(x), axis, 32, spec_of(name, rule))["mask"])


@interpreted
@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", [*MX_FORMATS, "mxfloat_fnuz_e5m2", "mxfloat_fnuz_e7m0"])
def test_any_bits_of_float32_equal_the_reference(name, rule):
    x = any_bits(1 << 16).view(64, 1024)
    x[::2, ::64] = x[::2, ::64].nan_to_num(0)  # or hardly a group of random bits were finite
    found = run("triton", x, 1, 32, spec_of(name, rule))
    expected = quantized.quantize(x.numpy(), name, axis=1, rule=rule)
    assert_equal_bits(found["scale"].numpy(), expected.scale)
    assert_equal_bits(found["values"].numpy(), expected.dequantize())
    assert found["scale"].isfinite().any() and found["scale"].isnan().any()


@interpreted
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp4_e2m1", "mxint8", "mxfloat_fnuz_e7m0"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_numbers_of_sixteen_bits(name, dtype):
    x = any_bits(0, dtype)
    by_size = x[x.float().abs().argsort()]  # few groups are not finite, and scales of all sizes occur
    for values in (x, by_size):
        assert_equals_torch(values.view(8, -1), 1, 32, spec_of(name), (name, dtype))
        assert_equals_torch(values.view(64, 64, 16), 1, 32, spec_of(name), (name, dtype))


SHAPES = [
    *(((3, length, inner), g) for length in (1, 7, 64, 70) for inner in (1, 5, 8, 40) for g in (1, 3, 8, 24, 32, 100)),
    *(((2, 1096, inner), g) for inner in (1, 3, 16) for g in (257, 520, 1096)),
    *(((1, 1, 1), 32), ((700, 8, 1), 8), ((1, 33, 2500), 32), ((5, 600, 1), 300)),
]


@interpreted
@pytest.mark.parametrize("wide", [False, True])
def test_groups_of_any_size_and_place(wide, monkeypatch):
    if wide:
        monkeypatch.setattr(on_gpu, "_WIDE", 0)
    for shape, group_size in SHAPES:
        x = torch.randn(shape) * torch.exp2(torch.randint(-30, 30, (shape[0], 1, 1)))
        x.view(-1)[::97] *= 1e30
        assert_equals_torch(x, 1, group_size, spec_of("mxfp8_e4m3"), (shape, group_size))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masked_gradients_of_any_count(dtype, monkeypatch):
    for count in (1, 7, 8, 9, 1000, 5000):
        mask = torch.randint(0, 256, (fused.mask_bytes(count),), dtype=torch.uint8)
        grad = torch.randn(count).to(dtype)
        grad[::5] = torch.inf
        results = []
        for switch in ("triton", "0"):
            monkeypatch.setenv(native.SWITCH, switch)
            results.append(fused.mask_gradient(grad, mask))
        assert torch.equal(*results), count


@interpreted
def test_subnormals_count_on_a_processor_that_flushes_them():
    """The interpreter computes with the flush-to-zero setting of its thread: the kernels must not notice."""
    x, tiny = edge_values((64, 70)), torch.tensor([1e-44])
    names = (*MX_FORMATS, "mxint2", "mxfloat_e7m0")
    expected = {name: quantized.quantize(x, name).dequantize() for name in names}
    assert any(((v != 0) & (np.abs(v) < 2.0**-126)).any() for v in expected.values())
    assert torch.set_flush_denormal(True)
    try:
        assert (tiny * 1 == 0).all()
        found = {name: run("triton", torch.from_numpy(x), 1, 32, spec_of(name))["values"].numpy() for name in names}
    finally:
        torch.set_flush_denormal(False)
    for name in names:
        assert_equal_bits(found[name], expected[name], name)


# --- compiled -------------------------------------------------------------------------------------------------

COMPILE = """
import re, torch, triton
from triton.backends.compiler import GPUTarget
from mxexport.numbers.formats import get_format
from mxexport.quant import Quantizer
from mxexport.quant.kernels import fused, on_gpu, triton_kernels

class Driver:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", CAPABILITY, 32))
    get_current_device = get_current_stream = staticmethod(lambda *_: 0)

class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        return lambda *args, **options: found.append(self.kernel.warmup(*args, grid=grid, **options).asm)

SHAPES = ((4, 64, 1), 32), ((4, 64, 16), 32), ((4, 7, 9), 3), ((4, 4096, 1), 1024), ((2, 512, 64), 512)
found = []

def build(shape, group, dtype, with_mask=True):
    x = torch.randn(shape).to(dtype)
    scale = torch.empty(shape[0], -(-shape[1] // group), shape[2])
    mask = torch.empty(fused.mask_bytes(x.numel()), dtype=torch.uint8) if with_mask else None
    on_gpu.quantize_dequantize(x, torch.empty_like(x), scale, mask, group, spec.kernel_format())

def build_gradient(dtype):
    on_gpu.mask_gradient(*(torch.empty(64, dtype=d) for d in (dtype, torch.uint8, dtype)))

triton.runtime.driver.set_active(Driver())
for name in ("quantize_dequantize", "mask_gradient"):
    setattr(triton_kernels, name, Compiled(getattr(triton_kernels, name)))
spec = Quantizer(get_format("mxfp8_e4m3"), -1).spec
for dtype in on_gpu.KINDS:
    for shape, group in SHAPES:
        build(shape, group, dtype)
for shape, group in SHAPES[:2]:  # the common ones: sixteen bytes at a time
    assert "ld.global.v4.b32" in found[SHAPES.index((shape, group))]["ptx"], shape
build(*SHAPES[2], torch.float32, with_mask=False)
for dtype in (*on_gpu.KINDS, torch.float64):
    build_gradient(dtype)
on_gpu._WIDE = 0
build(*SHAPES[1], torch.float32)
build(*SHAPES[3], torch.float32)
build_gradient(torch.float32)
for asm in found:
    assert asm["cubin"]
    assert not re.search(r"\\.ftz|mul(\\.rn)?\\.f32|fma|div[a-z.]*\\.f32", asm["ptx"])
print(len(found), sum("add.rn.f32" in asm["ptx"] for asm in found))
"""


@with_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus_to_what_cannot_depend_on_flushing_or_fusion(capability, tmp_path):
    told = run_python(
        COMPILE.replace("CAPABILITY", str(capability)), TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)
    )
    assert told == "23 18\n"


# --- the choice -----------------------------------------------------------------------------------------------

QUANTIZE = """
import sys, torch
HIDE
from mxexport.quant import fake_quantize
from mxexport.quant.kernels import choice
x = torch.ones(1, 32, requires_grad=True)
y = fake_quantize(x, "mxfp8_e4m3")
y.sum().backward()
assert (y == 1).all() and (x.grad == 1).all()
print("mxexport.quant.kernels.triton_kernels" in sys.modules)
for device in ("cpu", "cuda"):
    print(choice.status(device).kernel, choice.status(device).reason)
"""
ASKED_FOR = {"MXEXPORT_NATIVE": "triton", "TRITON_INTERPRET": "1"}


def test_without_triton_the_others_run_even_if_it_is_asked_for():
    told = run_python(QUANTIZE.replace("HIDE", "sys.modules['triton'] = None"), **ASKED_FOR).splitlines()
    assert told[0] == "False"
    assert told[1].startswith(("native", "torch")) and told[1].endswith("; triton is not installed")
    assert told[2] == "torch triton is not installed"


def test_a_triton_that_fails_is_named_and_the_others_run(tmp_path):
    (tmp_path / "triton.py").write_text("raise ImportError('out of order')")
    told = run_python(QUANTIZE.replace("HIDE", f"sys.path.insert(0, {str(tmp_path)!r})"), **ASKED_FOR).splitlines()
    assert told[1].startswith(("native", "torch"))
    assert told[1].endswith("; triton could not run a kernel: ImportError: out of order")


def test_cpu_tensors_do_not_import_the_kernels():
    told = run_python(QUANTIZE.replace("HIDE", ""), MXEXPORT_NATIVE="1", TRITON_INTERPRET="0").splitlines()
    assert told[0] == "False" and not told[1].startswith("triton")


@interpreted
def test_the_interpreter_is_named():
    told = run_python(QUANTIZE.replace("HIDE", ""), **ASKED_FOR).splitlines()
    assert told[:2] == ["True", "triton triton runs in its interpreter"]


def test_the_switch_is_for_every_device(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    for device in ("cpu", "cuda"):
        assert choice.status(device) == choice.Status("torch", "switched off by MXEXPORT_NATIVE=0")
    monkeypatch.setenv(native.SWITCH, "1")
    assert choice.status("meta") == choice.Status("torch", "they run on CUDA devices, not on 'meta'")
