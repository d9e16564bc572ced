"""Claims about whole tensors: quantized.quantize equals torchao, gfloat, ml_dtypes and plain recomputation.

Left out of the comparison with torchao 0.18, with the reason:
- groups of scale code 0: it divides by 2**-126 there instead of 2**-127;
- groups of scale code 254 under rceil: it takes them for infinite and multiplies by 2**-127 or so;
- rceil within 1e-5 of a power of two (float32 log2), and elements of groups with Inf or NaN.
Left out of the comparison with gfloat 0.5: groups just below a power of two (log2 again) and -2 in mxint8.
"""

import warnings
from fractions import Fraction

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat.formats import all_block_formats
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.kernels import unpack_uint4
from torchao.prototype.mx_formats.mx_tensor import to_mx

from mxexport.errors import FormatError, ScaleShapeError, ShapeError
from mxexport.numbers import groups, numerics
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format
from mxexport.numbers.quantized import quantize
from tests.exact_oracles import clamp, nearest_float_code, round_half_even

TORCHAO = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": DTYPE_FP6_E3M2,
    "mxfp6_e2m3": DTYPE_FP6_E2M3,
    "mxfp4_e2m1": torch.float4_e2m1fn_x2,
}
MX = [*MX_FORMATS, "mxint4", "mxint2"]
FLOAT_SCALED = ["int2_g8", "int4_g8", "int8_g8", "float_e4m3_g8", "float_ocp_e4m3_g8", "float_fnuz_e4m3_g8",
                "float_ocp_e5m2_g8", "float_e2m1_g8", "float_e3m0_g8"]  # fmt: skip
ASYMMETRIC = ["uint2_g8", "uint4_g8", "uint8_g8"]
EVERY_KIND = [*MX, *FLOAT_SCALED, *ASYMMETRIC, "nvfp4"]
each_kind = pytest.mark.parametrize("name", EVERY_KIND)
each_mx_rule = pytest.mark.parametrize("name, rule", [(n, r) for n in MX for r in SCALE_RULES], ids=lambda v: v)


def wide_range(seed: int, shape=(64, 128)) -> np.ndarray:
    """Normal numbers whose groups of 8 are scaled over the whole float32 range, with zeros of both signs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    x[rng.random(shape) < 0.05] *= 0.0
    exponents = np.repeat(rng.integers(-150, 126, (shape[0], shape[1] // 8)), 8, axis=1)
    if seed % 2:  # one magnitude per 128 elements, so that every group size sees a full range
        exponents[:] = exponents[:, :1]
    return np.ldexp(x, exponents).astype(np.float32)


def same_floats(a, b) -> bool:
    """Equal bits, any NaN equal to any NaN."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return bool(np.all((a.view(np.int32) == b.view(np.int32)) | (np.isnan(a) & np.isnan(b))))


# --- power-of-two scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCHAO)
@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_mx_floats_equal_torchao(name, rule, seed):
    x = wide_range(seed)
    scale, data = to_mx(torch.from_numpy(x), TORCHAO[name], 32, ScaleCalculationMode[rule.upper()])
    codes = (unpack_uint4(data) if name == "mxfp4_e2m1" else data.view(torch.uint8)).numpy().reshape(64, 4, 32)
    scale = scale.view(torch.uint8).numpy()
    q = quantize(x, name, rule=rule)
    right = np.ones(scale.shape, bool)
    if rule == "rceil":
        amax = groups.to_groups(abs(x), 1, 32).max(axis=2).astype(np.float64)
        with np.errstate(divide="ignore"):
            exact = np.log2(amax / q.format.element.max_val)
        right = ~(abs(exact - np.rint(exact)) <= 1e-5) & (q.scale_codes < 254)
    assert np.array_equal(q.scale_codes[right], scale[right])
    right &= q.scale_codes > 0
    assert right.sum() > 150
    assert np.array_equal(q.codes[right], codes[right])


@pytest.mark.parametrize("info", all_block_formats, ids=lambda info: info.name)
def test_mx_floor_equals_gfloat(info):
    x = wide_range(1, (48, 64))
    q = quantize(x, info.name)
    ours = groups.to_groups(q.dequantize(), 1, 32)
    for index in np.ndindex(q.scale.shape):
        block = groups.to_groups(x, 1, 32)[index].astype(np.float64)
        theirs = gfloat.quantize_block(info, block, gfloat.compute_scale_amax)
        if info.name == "mxint8":
            theirs = np.maximum(theirs, -127 / 64 * q.scale[index] * 64)
            theirs = theirs + 0.0
        assert same_floats(ours[index], theirs)


@each_mx_rule
def test_mx_elements_are_the_exact_quotient_rounded_and_saturated(name, rule):
    x = wide_range(2, (16, 64))
    x[0, :32] = np.ldexp(np.linspace(-2, 2, 32), -130)  # scale code 0: float32 subnormals in and out
    q = quantize(x, name, rule=rule)
    element = q.format.element
    grouped = groups.to_groups(x, 1, 32)
    for row, group in np.ndindex(q.scale.shape):
        step = Fraction(2) ** (int(q.scale_codes[row, group]) - 127 - q.format.step_frac_bits)
        assert Fraction(float(q.scale[row, group])) == step
        for v, code in zip(grouped[row, group], q.codes[row, group], strict=True):
            exact = Fraction(float(v)) / step
            if q.format.is_float:
                expected = nearest_float_code(exact, element.exponent_bits, element.mantissa_bits, element.specials)
                expected |= int(np.signbit(v)) << (element.bits - 1)
            else:
                expected = clamp(round_half_even(exact), element.code_lo, element.code_hi)
            assert int(code) == expected


@each_mx_rule
def test_mx_dequantized_values_quantize_to_themselves(name, rule):
    """Under floor always; under the other rules a group may move to a smaller scale, and is then kept exactly too.

    Not so for the subnormal groups of integer formats under rules other than floor, whose code comes from A + R.
    """
    x = wide_range(3)
    if rule != "floor":
        x = np.where(groups.expand(quantize(x, name).scale_codes, 1, 32, 128) > 1, x, np.float32(0))
    once = quantize(x, name, rule=rule)
    y = once.dequantize()
    again = quantize(y, name, rule=rule)
    assert same_floats(again.dequantize(), y)
    assert (again.scale_codes <= once.scale_codes).all()
    if rule == "floor":
        assert np.array_equal(again.codes, once.codes)


# --- float32 scales -------------------------------------------------------------------------------------------


def quotient(v, s, z=0.0) -> Fraction:
    """float32(float32(v / s) + z), each step rounded once (a double holds float32 quotients and sums well enough)."""
    return Fraction(float(np.float32(np.float32(float(v) / float(s)) + np.float32(z))))


@pytest.mark.parametrize("name", FLOAT_SCALED)
@pytest.mark.parametrize("seed", [0, 1])
def test_symmetric_families_equal_a_plain_recomputation(name, seed):
    x = wide_range(seed, (24, 64))
    q = quantize(x, name)
    e = q.format.element
    for row, group in np.ndindex(24, 8):
        cut = x[row, 8 * group : 8 * group + 8]
        step = np.float32(float(np.abs(cut).max()) / e.max_val) or np.float32(1)
        assert q.scale[row, group] == step
        for v, code in zip(cut, q.codes[row, group], strict=True):
            exact = quotient(v, step)
            if q.format.is_float:
                expected = nearest_float_code(exact, e.exponent_bits, e.mantissa_bits, e.specials)
                if np.signbit(v) and (expected or e.specials != "fnuz"):
                    expected |= 1 << (e.bits - 1)
            else:
                expected = clamp(round_half_even(exact), -e.code_hi, e.code_hi)
            assert int(code) == expected
    assert q.zero_point is None and q.scale_codes is None


@pytest.mark.parametrize("name", ASYMMETRIC)
@pytest.mark.parametrize("shift", [0, 1, -5], ids=["around zero", "mostly positive", "all negative"])
def test_asymmetric_families_equal_a_plain_recomputation(name, shift):
    x = (wide_range(5, (24, 64)) + np.float32(0)) * np.float32(0.5)
    x = np.where(abs(x) > 0, x, np.float32(0)) + np.float32(shift) * abs(x).max(axis=1, keepdims=True)
    q = quantize(x, name)
    levels = 2**q.format.element.bits - 1
    y = q.dequantize()
    for row, group in np.ndindex(24, 8):
        cut = x[row, 8 * group : 8 * group + 8]
        low, high = min(cut.min(), np.float32(0)), max(cut.max(), np.float32(0))
        step = np.float32(float(np.float32(high - low)) / levels) or np.float32(1)
        zero = clamp(round_half_even(quotient(-low, step)), 0, levels)
        assert (q.scale[row, group], q.zero_point[row, group]) == (step, zero)
        for i, v in enumerate(cut):
            code = clamp(round_half_even(quotient(v, step, zero)), 0, levels)
            assert int(q.codes[row, group, i]) == code
            assert y[row, 8 * group + i] == np.float32(code - zero) * step
    assert q.codes.dtype == np.uint8


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_asymmetric_zero_is_exact(name):
    x = wide_range(7)
    x[:, ::3] = 0
    assert not quantize(x, name).dequantize()[:, ::3].any()


# --- nvfp4 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0], ids=lambda s: f"spread 2**{s:g}")
@pytest.mark.parametrize("magnitude", [-100, -3, 0, 100])
def test_nvfp4_equals_a_recomputation_with_ml_dtypes(spread, magnitude):
    rng = np.random.default_rng(8)
    blocks = rng.standard_normal((32, 8, 16)) * 2.0 ** (spread * rng.standard_normal((32, 8, 1)) + magnitude)
    blocks[3, 4] = 0
    blocks = blocks.astype(np.float32)
    amax = abs(blocks).max(axis=2)
    s_enc = np.float32(6 * 448) / amax.max()
    block_scale = np.minimum(amax / np.float32(6) * s_enc, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    step = block_scale.astype(np.float32) * (np.float32(1) / s_enc)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(step[..., None] == 0, np.copysign(0, blocks), blocks / step[..., None])
    elements = scaled.astype(np.float32).astype(ml_dtypes.float4_e2m1fn)
    q = quantize(blocks.reshape(32, 128), "nvfp4")
    assert np.array_equal(q.scale_codes, block_scale.view(np.uint8))
    assert q.tensor_scale == np.float32(1) / s_enc and same_floats(q.scale, step)
    assert np.array_equal(q.codes, elements.view(np.uint8))
    assert same_floats(q.dequantize().reshape(blocks.shape), elements.astype(np.float32) * step[..., None])


@pytest.mark.parametrize("largest", [1.0, 2.7, 3.3e-5, 1.9e20])
def test_nvfp4_block_scale_is_amax_over_6_times_s_enc_in_that_order(largest):
    """Beside every midpoint of E4M3, where another order of the float32 operations rounds to the other side."""
    largest = np.float32(largest)
    s_enc = np.float32(6 * 448) / largest
    e4m3 = np.arange(127).astype(np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    amax = ((e4m3[1:] + e4m3[:-1]) / 2 * 6 / s_enc).astype(np.float32)
    amax = np.concatenate([(amax.view(np.int32) + ulps).view(np.float32) for ulps in range(-4, 5)] + [[largest]])
    expected = (amax / np.float32(6) * s_enc).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    scale, codes, tensor_scale = numerics.nvfp4_scale(amax, 0, 1)
    assert np.array_equal(codes, expected) and tensor_scale == np.float32(1) / s_enc
    assert same_floats(scale, expected.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * tensor_scale)


def test_nvfp4_blocks_whose_scale_rounds_to_zero_hold_zeros():
    x = np.ones((1, 32), np.float32)
    x[0, 16:] = np.float32(1e-7) * (-1) ** np.arange(16)  # 1e-7 / 6 * 2688 is below half of 2**-9
    q = quantize(x, "nvfp4")
    assert q.scale_codes[0, 1] == 0 and (q.codes[0, 1] & 7 == 0).all()
    assert not q.dequantize()[0, 16:].any() and q.dequantize()[0, :16].all()


def test_nvfp4_of_zeros_is_zeros():
    q = quantize(np.zeros((2, 20)), "nvfp4")
    assert not q.codes.any() and not q.scale_codes.any() and not q.dequantize().any()


def test_nvfp4_blocks_with_nan_or_inf_are_nan_and_do_not_disturb_the_others():
    x = wide_range(1, (4, 64))
    x[1, 3], x[2, 40] = np.nan, np.inf
    clean = np.where(np.isfinite(x), x, 0)
    clean[1, :16] = clean[2, 32:48] = 0
    y, expected = quantize(x, "nvfp4").dequantize(), quantize(clean, "nvfp4").dequantize()
    expected[1, :16] = expected[2, 32:48] = np.nan
    assert same_floats(y, expected)


@pytest.mark.parametrize("tiny", [1e-45, 1e-38, 1e-30])
def test_nvfp4_survives_a_tiny_tensor(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = quantize(np.full((1, 16), tiny, np.float32), "nvfp4").dequantize()
    assert np.isfinite(y).all() and (tiny < 1e-37 or abs(y / tiny - 1).max() < 0.1)


# --- short last groups ----------------------------------------------------------------------------------------

any_float32 = st.floats(width=32) | st.floats(-8, 8, width=32) | st.just(0.0)


@st.composite
def tensors(draw, finite=False):
    """(x, axis): rank 1 to 3, any axis counted from either end, any float32 or only finite ones."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    elements = st.floats(-1000, 1000, width=32) if finite else any_float32
    return draw(hnp.arrays(np.float32, shape, elements=elements)), draw(st.integers(-len(shape), len(shape) - 1))


def regrouped(name: str, group_size: int):
    """`name` with another group size, for every kind (nvfp4 has no name for that)."""
    fmt = get_format(name)
    return type(fmt)(fmt.name, fmt.element, group_size, fmt.scale)


@each_kind
@settings(max_examples=40, deadline=None)
@given(case=tensors(), group_size=st.integers(1, 9))
def test_a_short_last_group_equals_a_zero_padded_one(name, case, group_size):
    x, axis = case
    fmt = regrouped(name, group_size)
    length, position = x.shape[axis], axis % x.ndim
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -length % group_size)
    short, padded = quantize(x, fmt, axis), quantize(np.pad(x, widths), fmt, axis)
    assert np.array_equal(short.codes, padded.codes) and same_floats(short.scale, padded.scale)
    assert same_floats(short.dequantize(), padded.dequantize().take(range(length), position))
    assert short.dequantize().shape == short.shape == x.shape


@each_kind
@settings(max_examples=20, deadline=None)
@given(case=tensors(), group_size=st.integers(1, 9))
def test_any_axis_equals_the_last_axis_of_the_moved_tensor(name, case, group_size):
    x, axis = case
    fmt = regrouped(name, group_size)
    y = quantize(np.ascontiguousarray(np.moveaxis(x, axis, -1)), fmt).dequantize()
    assert same_floats(quantize(x, fmt, axis).dequantize(), np.moveaxis(y, -1, axis))


@each_kind
def test_everything_is_contracted(name):
    fmt = regrouped(name, 8)
    q = quantize(np.ones((3, 20, 5), np.float32), fmt, axis=1)
    assert (q.axis, q.shape, q.codes.shape, q.scale.shape) == (1, (3, 20, 5), (3, 3, 8, 5), (3, 3, 5))
    assert q.scale.dtype == np.float32
    assert q.codes.dtype == (np.int8 if not fmt.is_float and fmt.element.signed else np.uint8)
    for other in (q.scale_codes, q.zero_point):
        assert other is None or other.shape == (3, 3, 5)


@each_kind
def test_empty_tensors_stay_empty(name):
    for shape, axis in (((0, 40), 1), ((40, 0), 0), ((0,), 0)):
        assert quantize(np.zeros(shape, np.float32), name, axis).dequantize().shape == shape


# --- zero, NaN, Inf, -0 ---------------------------------------------------------------------------------------


@each_mx_rule
def test_a_zero_group_has_scale_code_0_and_zero_elements(name, rule):
    x = np.ones((1, 96), np.float32)
    x[0, 32:64] = 0
    q = quantize(x, name, rule=rule)
    assert q.scale_codes[0, 1] == 0 and not q.codes[0, 1].any() and not q.dequantize()[0, 32:64].any()


@pytest.mark.parametrize("name", [*FLOAT_SCALED, *ASYMMETRIC])
def test_a_zero_group_has_step_1_and_zero_elements(name):
    q = quantize(np.zeros((2, 8), np.float32), name)
    assert q.scale.tolist() == [[1], [1]] and not q.codes.any() and not q.dequantize().any()


@each_kind
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_group_with_nan_or_inf_is_all_nan_and_the_others_do_not_see_it(name, bad):
    fmt = get_format(name)
    x = wide_range(1, (2, 128)) / np.float32(4)
    clean = quantize(x, fmt).dequantize()
    x[1, 70], x[1, 71] = bad, 0
    q = quantize(x, fmt)
    start = 70 // fmt.group_size * fmt.group_size
    if fmt.element.nan_code is not None:
        assert (q.codes[1, start // fmt.group_size] == fmt.element.nan_code).all()
    hit = np.zeros(x.shape, bool)
    hit[1, start : start + fmt.group_size] = True
    y = q.dequantize()
    assert np.isnan(y[hit]).all() and np.isnan(q.scale[1, start // fmt.group_size])
    assert np.isfinite(y[~hit]).all()
    if name != "nvfp4":  # whose tensor scale may have come from the group that is gone
        assert same_floats(y[~hit], clean[~hit])
    if fmt.is_mx:
        assert q.scale_codes[1, start // fmt.group_size] == 255


@each_kind
def test_the_sign_of_zero_survives_only_where_the_format_has_one(name):
    element = get_format(name).element
    x = np.array([[-0.0, 0.0, -1e-6, 4.0, -4.0, -0.0, 1.0, 1.0], [-0.0] * 8], np.float32)
    y = quantize(x, regrouped(name, 8)).dequantize()
    assert not y[:, 0].any()
    keeps = get_format(name).is_float and element.specials != "fnuz"
    assert np.array_equal(np.signbit(y), np.signbit(x) if keeps else y < 0)


@pytest.mark.parametrize("name", ["mxint8", "mxint4", "int8_g8", "int2_g8"])
def test_the_most_negative_integer_is_decoded_but_never_produced(name):
    q = quantize(-abs(wide_range(4)), name)
    lowest = -(2 ** (q.format.element.bits - 1))
    assert q.codes.min() == lowest + 1
    held = type(q)(q.format, 0, (1,), np.full((1, 1), lowest, np.int8), np.array([0.25], np.float32))
    assert held.dequantize().tolist() == [lowest / 4]


@pytest.fixture
def flush_to_zero():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals to zero")
    yield
    torch.set_flush_denormal(False)


@each_kind
def test_zero_groups_are_zeros_under_flush_to_zero(name, flush_to_zero):
    x = np.zeros((2, 64), np.float32)
    x[1] = 1.5
    x[0, 1] = -0.0
    q = quantize(x, name)
    assert not q.codes[0].any() or q.format.is_float  # -0 has its own code
    assert not q.dequantize()[0].any() and q.dequantize()[1].all()
    if q.format.is_mx:
        assert not q.scale_codes[0].any()


# --- the operators' references --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in EVERY_KIND if get_format(n).is_float])
@settings(max_examples=40, deadline=None)
@given(case=tensors(), group_size=st.integers(1, 9))
def test_mx_float_quant_equals_decode_of_encode(name, case, group_size):
    x, axis = case
    q = quantize(x, regrouped(name, group_size), axis)
    e = q.format.element
    y = numerics.mx_float_quant(
        x, q.scale, axis, group_size, e.exponent_bits, e.mantissa_bits, e.bias, e.max_val, True, e.signed_zero
    )
    assert same_floats(y, q.dequantize())


@pytest.mark.parametrize("name", [n for n in EVERY_KIND if not get_format(n).is_float])
@settings(max_examples=40, deadline=None)
@given(case=tensors(), group_size=st.integers(1, 9))
def test_groupwise_quant_equals_decode_of_encode(name, case, group_size):
    x, axis = case
    q = quantize(x, regrouped(name, group_size), axis)
    e = q.format.element
    y = numerics.groupwise_quant(x, q.scale, q.zero_point, axis, group_size, e.bits, e.signed)
    assert same_floats(y, q.dequantize())


def test_narrow_decides_whether_the_most_negative_integer_is_used():
    x, one = np.array([-9, -8, -7, 9], np.float32), np.ones(1, np.float32)
    assert numerics.groupwise_quant(x, one, None, 0, 4, 4).tolist() == [-7, -7, -7, 7]
    assert numerics.groupwise_quant(x, one, None, 0, 4, 4, narrow=False).tolist() == [-8, -8, -7, 7]
    assert numerics.int_range(8, True, True) == (-127, 127) and numerics.int_range(8, False, True) == (0, 255)


def test_unsigned_mx_float_quant_clamps_negatives_to_plus_zero():
    x = np.array([-3, -0.0, 0.4, 7], np.float32)
    y = numerics.mx_float_quant(x, np.ones(1, np.float32), 0, 4, 2, 1, 1, 6.0, signed=False)
    assert y.tolist() == [0, 0, 0.5, 6] and not np.signbit(y).any()


def test_an_expanded_scale_is_refused():
    x = np.ones((2, 8), np.float32)
    with pytest.raises(ScaleShapeError, match=r"mx_float_quant: scale .* looks expanded to one per element"):
        numerics.mx_float_quant(x, x, 1, 4, 2, 1, 1, 6.0)
    with pytest.raises(ScaleShapeError, match=r"groupwise_quant: zero_point has shape \(2, 1\), expected \(2, 2\)"):
        numerics.groupwise_quant(x, np.ones((2, 2)), np.ones((2, 1)), 1, 4, 8)


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8_g8", "uint4_g8", "nvfp4", "float_e4m3_g8"])
def test_a_rule_needs_power_of_two_scales(name):
    with pytest.raises(FormatError, match=rf"scale rule 'even' needs power-of-two scales; {name} has"):
        quantize(np.ones(8), name, rule="even")


def test_unknown_formats_rules_and_axes_are_refused():
    with pytest.raises(FormatError, match="unknown format 'mxfp5'"):
        quantize(np.ones(8), "mxfp5")
    with pytest.raises(FormatError, match="unknown scale rule 'round'; expected one of floor, ceil, even, rceil"):
        quantize(np.ones(8), "mxint8", rule="round")
    with pytest.raises(ShapeError, match="axis 1 is outside a tensor of rank 1"):
        quantize(np.ones(8), "mxint8", axis=1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@each_kind
def test_half_precision_inputs_have_float32_scales(name, dtype):
    x = np.random.default_rng(0).standard_normal((2, 40)).astype(dtype)
    q = quantize(x, name)
    assert q.scale.dtype == np.float32
    assert same_floats(q.dequantize(), quantize(x.astype(np.float32), name).dequantize())
