"""Quantize-dequantize in one pass: the compiled kernel and the torch path give the bits of the numpy reference."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import mxexport as mx
from mxexport.native import building
from mxexport.numbers import quantized
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format
from mxexport.quant import Quantizer, fake_quantize
from mxexport.quant.kernels import choice, fused, native, on_gpu
from tests.helpers import assert_equal_bits, edge_values, run_python

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
FNUZ = ("mxfloat_fnuz_e4m3", "mxfloat_fnuz_e1m2_g9")
FORMATS = (*MX_FORMATS, "mxint4", "mxint2", "mxfp6_e3m2_g7", "mxint8_g128", "mxfloat_e4m3", "mxfloat_e7m0", *FNUZ)


SWITCHES = {"native": "1", "torch": "0", "triton": "triton"}
# In triton's interpreter only where it was on before the first import of triton: `test_triton` starts such a process.
ENGINES = tuple(SWITCHES) if os.environ.get(on_gpu.INTERPRETER) == "1" else ("native", "torch")


@pytest.fixture(params=ENGINES)
def engine(request, monkeypatch):
    monkeypatch.setenv(native.SWITCH, SWITCHES[request.param])
    found = choice.status()
    if request.param == "native" and found.kernel != "native":
        pytest.skip(f"no native kernel here: {found.reason}")
    assert found.kernel == request.param, found.reason
    return request.param


# --- the same bits --------------------------------------------------------------------------------------------


@pytest.fixture
def plain_loops(monkeypatch):
    """The kernel as processors without AVX2 get it: the loops of the C file as they stand."""
    monkeypatch.setenv(native.SWITCH, "1")
    monkeypatch.setattr(building, "_TUNING", ((),))
    native._load.cache_clear()
    if not native.status().active:
        pytest.skip(f"no native kernel here: {native.status().reason}")
    yield
    native._load.cache_clear()


def test_loops_without_vectors_by_hand_give_the_same_bits(plain_loops):
    x = np.concatenate([edge_values((64, 70)), np.random.default_rng(0).standard_normal((64, 70)).astype(np.float32)])
    for name in FORMATS:
        given = torch.from_numpy(x).requires_grad_()
        y = fake_quantize(given, name)
        assert_equal_bits(y.detach().numpy(), quantized.quantize(x, name).dequantize(), name)
        assert_gradient_is_that_of_the_operators(given, y, name, -1)


def scales_from_end_to_end(groups: int, size: int) -> np.ndarray:
    """Groups of ordinary values from the least magnitudes of float32 to the largest, with one group of zeros of both
    signs, one with Inf and one with NaN between them; ties and values that are clipped in each."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (groups, size)).astype(np.float32)
    x[:, :16] = rng.integers(-64, 65, (groups, 16)) / 32 + 1 / 64
    x[:, 16:20] = (1.9999999, -1.9999999, 0.0, -0.0)
    x = np.ldexp(x, np.linspace(-149, 127, groups).astype(np.int64)[:, None]).astype(np.float32)
    x[groups // 2] = np.where(np.arange(size) % 2, 0.0, -0.0)
    x[groups // 3, 5], x[groups // 4, 7] = np.inf, np.nan
    return x


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_every_scale_that_float32_has_gives_the_bits_of_the_reference(engine, rule):
    for name in FORMATS:
        size = get_format(name).group_size
        x = scales_from_end_to_end(320, max(size, 32))
        expected = quantized.quantize(x, name, rule=rule)
        values, scale, _ = Quantizer(get_format(name), -1, rule).quantize(torch.from_numpy(x))
        assert_equal_bits(scale.numpy(), expected.scale, (name, rule))
        assert_equal_bits(values.numpy(), expected.dequantize(), (name, rule))


def test_masks_of_every_scale_are_those_of_the_operators(engine):
    for name in ("mxfp8_e4m3", "mxfp4_e2m1", "mxint8", "mxfloat_fnuz_e4m3"):
        x = torch.from_numpy(scales_from_end_to_end(320, 32)).requires_grad_()
        assert_gradient_is_that_of_the_operators(x, fake_quantize(x, name), name, -1)


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", FORMATS)
def test_values_and_scales_equal_the_reference_on_any_axis(engine, name, rule):
    x = np.stack([edge_values((64, 70), seed) for seed in range(3)], axis=2)
    for axis in range(3):
        expected = quantized.quantize(x, name, axis=axis, rule=rule)
        values, scale, _ = Quantizer(get_format(name), axis, rule).quantize(torch.from_numpy(x))
        assert_equal_bits(scale.numpy(), expected.scale, (name, rule, axis))
        assert_equal_bits(values.numpy(), expected.dequantize(), (name, rule, axis))


@pytest.mark.parametrize("inner", [2, 9, 255, 256, 300])
def test_groups_across_rows_of_any_width_equal_the_reference(engine, inner):
    x = edge_values((40, 5 * inner)).reshape(2, 20, 5 * inner)
    for name, axis in (("mxfp8_e5m2", 1), ("mxint8_g16", 1), ("mxfp4_e2m1", 0)):
        expected = quantized.quantize(x[..., :inner], name, axis=axis).dequantize()
        assert_equal_bits(fake_quantize(torch.from_numpy(x[..., :inner].copy()), name, axis).numpy(), expected, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_go_through_float32(engine, dtype, monkeypatch):
    monkeypatch.setattr(fused, "SLAB", 128)
    x = (torch.randn(7, 70) * torch.exp2(torch.randint(-8, 8, (7, 1)))).to(dtype).requires_grad_()
    y = fake_quantize(x, "mxfp6_e2m3", scale_rule="even")
    expected = torch.from_numpy(quantized.quantize(x.detach().float().numpy(), "mxfp6_e2m3", rule="even").dequantize())
    assert y.dtype == dtype and torch.equal(y, expected.to(dtype))
    y.sum().backward()
    wide = x.detach().float().requires_grad_()
    fake_quantize(wide, "mxfp6_e2m3", scale_rule="even").sum().backward()
    assert x.grad.dtype == dtype and torch.equal(x.grad.float(), wide.grad)


def test_threads_do_not_show(engine, monkeypatch):
    monkeypatch.setattr(native, "_ELEMENTS_PER_THREAD", 1 << 10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for shape, axis in (((37, 301), 1), ((301, 37), 0), ((5, 70, 9), 1)):
            x = torch.randn(shape).clamp(-1.5, 1.5)
            x.flatten()[0] = -1.9999  # over half a step beyond the largest code
            x.requires_grad_()
            y = fake_quantize(x, "mxint8", axis)
            assert_equal_bits(y.detach().numpy(), quantized.quantize(x.detach().numpy(), "mxint8", axis).dequantize())
            assert_gradient_is_that_of_the_operators(x, y, "mxint8", axis)
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=200, deadline=None)
@given(
    outer=st.integers(1, 20), length=st.integers(1, 40), inner=st.integers(1, 20), group=st.integers(1, 33),
    limit=st.integers(1, 2000),
)  # fmt: skip
def test_slabs_cover_a_tensor_once_in_whole_groups_and_bytes(outer, length, inner, group, limit):
    memory = torch.arange(outer * length * inner).view(outer, length, inner)
    seen, bytes_seen = [], []
    for o, k, bits in fused._slabs((outer, length, inner), group, limit):
        run_of_memory = memory[o, k].reshape(-1)
        assert k.start % group == 0 and (k.stop % group == 0 or k.stop == length)
        assert run_of_memory[0] == 8 * bits.start
        seen.append(run_of_memory)
        bytes_seen += range(bits.start, bits.stop)
    assert torch.equal(torch.cat(seen), memory.flatten())
    assert bytes_seen == list(range(fused.mask_bytes(memory.numel())))


@pytest.mark.parametrize("limit", [1, 100, 5000])
def test_slabs_do_not_show(engine, limit, monkeypatch):
    x = torch.randn(30, 70, 8) * torch.exp2(torch.randint(-30, 30, (30, 1, 1)))
    whole = [fake_quantize(x, "mxfp8_e4m3", axis) for axis in range(3)]
    monkeypatch.setattr(fused, "SLAB", limit)
    for axis in range(3):
        assert torch.equal(fake_quantize(x, "mxfp8_e4m3", axis), whole[axis])


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxint8", "mxint2"])
def test_layouts_other_than_row_major_are_kept(engine, name):
    image = torch.randn(2, 40, 6, 5).to(memory_format=torch.channels_last)
    for x, axis in ((image, 1), (image, -1), (torch.randn(64, 6).t(), 1), (torch.randn(64, 6).t(), 0)):
        y, scale, _ = Quantizer(get_format(name), axis).quantize(x)
        expected, expected_scale, _ = Quantizer(get_format(name), axis).quantize(x.contiguous())
        assert torch.equal(y, expected) and y.stride() == x.stride() and torch.equal(scale, expected_scale)
    every_other = torch.randn(8, 128)[:, ::2]
    assert torch.equal(fake_quantize(every_other, name), fake_quantize(every_other.contiguous(), name))


def test_empty_tensors_stay_empty(engine):
    for shape in ((0, 64), (64, 0), (3, 5, 0)):
        x = torch.empty(shape, requires_grad=True)
        fake_quantize(x, "mxint8", 1).sum().backward()
        assert x.grad.shape == shape


FLUSHED = """
import numpy as np, torch
from mxexport.numbers import numerics, quantized
from mxexport.quant import fake_quantize
from tests.helpers import assert_equal_bits, edge_values, run_python
from mxexport.numbers.formats import MX_FORMATS
x, tiny = edge_values((64, 70)), np.float32(1e-44)
expected = {name: quantized.quantize(x, name).dequantize() for name in (*MX_FORMATS, "mxint2")}
assert torch.set_flush_denormal(True)
for name, values in expected.items():
    y = fake_quantize(torch.from_numpy(x), name).numpy()
    ROWS
assert (torch.tensor([tiny]) * 1 == 0).all()  # the caller's setting is as it was
"""


def test_native_kernel_gives_reference_bits_under_flush_to_zero():
    if not native.status().active:
        pytest.skip(f"no native kernel here: {native.status().reason}")
    run_python(FLUSHED.replace("ROWS", "assert_equal_bits(y, values, name)"))


def test_torch_path_flushes_nothing_but_subnormals():
    # Row 0, 1: zeros; 5: the largest numbers, whose scale has a subnormal reciprocal in mxint2; 10: ties.
    rows = "for row in (0, 1, 2, 3, 5, 10): assert_equal_bits(y[row], values[row], (name, row))"
    run_python(FLUSHED.replace("ROWS", rows), MXEXPORT_NATIVE="0")


# --- gradients ------------------------------------------------------------------------------------------------


def assert_gradient_is_that_of_the_operators(x, y, name, axis):
    q, weight = Quantizer(get_format(name), axis), torch.randn(x.shape)
    (gradient,) = torch.autograd.grad((y * weight).sum(), x)
    (expected,) = torch.autograd.grad((q.apply(x, q.scale(x)) * weight).sum(), x)
    assert torch.equal(gradient, expected)
    assert (gradient == 0).any() and (gradient != 0).any()


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4_e2m1", "mxint8", "mxint4", "mxfp6_e3m2_g7"])
def test_gradient_equals_that_of_the_operators(engine, name):
    for axis in range(3):
        x = torch.randn(9, 71, 5).clamp(-1.5, 1.5)
        x[0, 0, 0] = -1.9999  # over half a step beyond the largest code of every format here
        x[1, 33, 2] = torch.inf
        x.requires_grad_()
        assert_gradient_is_that_of_the_operators(x, fake_quantize(x, name, axis), name, axis)


def test_clipped_values_take_no_gradient_even_from_infinite_ones(engine):
    x = torch.tensor([[1.9999] + [0.5] * 31], requires_grad=True)
    fake_quantize(x, "mxint8").backward(torch.full((1, 32), torch.inf))
    assert x.grad[0, 0] == 0 and (x.grad[0, 1:] == torch.inf).all()


def test_gradient_can_be_differentiated(engine):
    x = torch.full((1, 32), 0.5, requires_grad=True)
    (first,) = torch.autograd.grad((fake_quantize(x, "mxint8") ** 2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(first, 2 * x) and torch.equal(second, torch.full_like(x, 2))


def test_backward_keeps_one_bit_per_element(engine):
    kept = []
    x = torch.randn(64, 100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fake_quantize(x, "mxfp8_e4m3")
    assert [(t.dtype, t.numel()) for t in kept] == [(torch.uint8, 64 * 100 // 8)]


def test_peak_memory_of_training_stays_below_one_weight(engine):
    weight, gradient = torch.randn(512, 2048, requires_grad=True), torch.randn(512, 2048)
    with torch.profiler.profile(profile_memory=True) as profile:
        fake_quantize(weight, "mxfp8_e4m3").backward(gradient)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    assert 2 <= sizes.max() / (4 * weight.numel()) <= 3  # output and the weight's gradient, less than one beside them


# --- tracing, devices, the choice -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
def test_compiled_functions_give_eager_bits_and_gradients(engine, axis):
    torch.manual_seed(0)
    x = torch.randn(4, 70, 3, requires_grad=True)
    y = torch.compile(Quantizer(get_format("mxfp6_e2m3"), axis), backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(y, fake_quantize(x, "mxfp6_e2m3", axis))
    assert_gradient_is_that_of_the_operators(x, y, "mxfp6_e2m3", axis)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_traced_model_gives_eager_bits():
    model = mx.quantize_model(torch.nn.Linear(70, 4), "mxfp8_e4m3", "mxint8").eval()
    x = torch.randn(3, 70)
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("kernel", ["triton", "torch"])
@pytest.mark.parametrize("name", FORMATS)
def test_cuda_equals_the_reference(name, kernel, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0" if kernel == "torch" else "1")
    found = choice.status("cuda")
    if kernel == "triton" and "not installed" in found.reason:
        pytest.skip(found.reason)
    assert found.kernel == kernel, found.reason
    x = edge_values((64, 70))
    on_device = torch.from_numpy(x).cuda().requires_grad_()
    y = fake_quantize(on_device, name, 1)
    assert_equal_bits(y.detach().cpu().numpy(), quantized.quantize(x, name, axis=1).dequantize())
    on_cpu = torch.from_numpy(x).requires_grad_()
    y.sum().backward()
    fake_quantize(on_cpu, name, 1).sum().backward()
    assert torch.equal(on_device.grad.cpu(), on_cpu.grad)


def test_quantize_takes_the_values_and_scales_of_one_pass(engine):
    x = torch.randn(3, 40, 5, requires_grad=True)
    q = mx.quantize(x, "mxfp8_e5m2", axis=1)
    values, scale, _ = Quantizer(get_format("mxfp8_e5m2"), 1).quantize(x)
    assert torch.equal(q.value, values) and torch.equal(q.scale_.squeeze(2), scale)


STATUS = "from mxexport.quant.kernels import native; s = native.status(); print(s.active, s.reason)"


def test_the_choice_is_visible_and_can_be_switched_off():
    assert run_python(STATUS, MXEXPORT_NATIVE="0") == "False switched off by MXEXPORT_NATIVE=0\n"
    missing = run_python(STATUS, MXEXPORT_NATIVE="1", CC="no-such-compiler", PATH="/nowhere")
    assert missing.startswith("False no C compiler found")


def test_a_compiler_that_fails_is_named_and_torch_takes_over(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "out of order" >&2; exit 1\n')
    compiler.chmod(0o755)
    script = (
        STATUS + "\nimport torch; from mxexport.quant import fake_quantize; fake_quantize(torch.ones(32), 'mxint8')"
    )
    told = run_python(script, MXEXPORT_NATIVE="1", CC=str(compiler), XDG_CACHE_HOME=str(tmp_path))
    assert told == f"False {compiler} could not build fake_quantization.c: out of order\n"


def test_the_kernel_is_compiled_once(tmp_path):
    if not native.status().active:
        pytest.skip(f"no native kernel here: {native.status().reason}")
    log, compiler = tmp_path / "log", tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\necho "$1" >> {log}\nexec cc "$@"\n')
    compiler.chmod(0o755)
    for _ in range(2):
        told = run_python(STATUS, MXEXPORT_NATIVE="1", CC=str(compiler), XDG_CACHE_HOME=str(tmp_path))
        assert told.startswith("True")
    assert [line for line in log.read_text().split() if line != "--version"] == ["-std=c11"]
