"""Claims about the golden model of the hardware: it equals Python integers everywhere, and numerics where both apply.

Magnitudes go up to 2**62 (63-bit two's complement), the widest the library takes.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mxexport.numbers import fixedpoint, numerics, quantized
from mxexport.numbers.fixedpoint import BlockQuantizer, element_parameters, mx_matmul, mx_quantize
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format, round_bias
from tests.exact_oracles import ceil_log2, clamp, nearest_float_code, round_half_even, shared_exponent, two_to

FORMATS = [*MX_FORMATS, "mxint2", "mxint3", "mxint4", "mxint5", "mxint6", "mxint7"]
each_format = pytest.mark.parametrize("name", FORMATS)
each_rule = pytest.mark.parametrize("rule", SCALE_RULES)
TOP = 2**62
EDGES = sorted({0, 1, TOP, *(2**k + d for k in range(62) for d in (-1, 0, 1))})


def quantizer(name: str, rule: str, code_min=0, code_max=254) -> BlockQuantizer:
    e = get_format(name).element
    return BlockQuantizer(
        **element_parameters(e), emax=e.emax, round_bias=round_bias(e, rule), code_min=code_min, code_max=code_max
    )


# --- small pieces ---------------------------------------------------------------------------------------------


def test_floor_log2_is_exact_at_and_beside_every_power_of_two():
    edges = [*EDGES, 2**62 + 1, 2**63 - 1]
    assert fixedpoint.floor_log2(np.array(edges)).tolist() == [max(m.bit_length() - 1, 0) for m in edges]


def test_round_shift_is_round_half_even_at_every_edge_and_shift():
    """Every right shift 0..80 of every 2**k, 2**k +- 1, 3 * 2**k (a tie), 3 * 2**k +- 1 (beside it), and 0."""
    ties = {3 * 2**k + d for k in range(61) for d in (-1, 0, 1)} | {5 * 2**k for k in range(60)}
    magnitude = np.array(sorted({m for m in {*EDGES, *ties} if m <= TOP}))
    for shift in range(81):
        expected = [round_half_even(Fraction(m, 2**shift)) for m in magnitude.tolist()]
        assert fixedpoint.round_shift(magnitude, np.full(magnitude.shape, shift)).tolist() == expected, shift


@given(st.integers(0, TOP), st.integers(-62, 100))
def test_round_shift_is_round_half_even_anywhere(magnitude, shift):
    if shift < 0:
        magnitude >>= -shift  # a left shift must not overflow
    exact = round_half_even(magnitude * two_to(-shift))
    assert fixedpoint.round_shift(np.array([magnitude]), np.array([shift])).tolist() == [exact]


@given(st.floats(-1e6, 1e6), st.integers(-30, 20))
def test_round_to_lsb_is_the_nearest_even_multiple(x, lsb_exp):
    assert fixedpoint.round_to_lsb(x, lsb_exp) == round_half_even(Fraction(x) / two_to(lsb_exp))


@each_format
def test_element_parameters_name_the_format(name):
    e = get_format(name).element
    q = quantizer(name, "floor")
    assert (q.bits, q.is_float, q.mantissa_bits) == (e.bits, get_format(name).is_float, e.mantissa_bits)
    assert q.max_code == (e.max_code if q.is_float else e.code_hi)
    assert q.emin == (e.emin if q.is_float else 0)


@each_format
def test_linear_table_equals_linearize(name):
    e = get_format(name).element
    codes = np.arange(2**e.bits).astype(np.uint8)
    table = fixedpoint.linear_table(**{k: element_parameters(e)[k] for k in ("exponent_bits", "mantissa_bits")})
    if get_format(name).is_float:
        codes = codes[np.isfinite(numerics.decode(codes, e))]
        expected = numerics.linearize(codes, e)
    else:
        expected = np.where(codes >= 2 ** (e.bits - 1), codes.astype(int) - 2**e.bits, codes)
    assert table.shape == (2**e.bits,) and table.dtype == np.int64
    assert np.array_equal(table[codes], expected)


# --- MXQuantize -----------------------------------------------------------------------------------------------


def plain_mx_quantize(row: list[int], lsb_exp: int, name: str, rule: str, code_min: int, code_max: int, group: int):
    """(element code patterns, scale codes, clamped blocks) of one row, in Python integers and Fractions."""
    e, is_float = get_format(name).element, get_format(name).is_float
    codes, scales, clamped = [], [], 0
    for block in (row[i : i + group] for i in range(0, len(row), group)):
        amax = max(map(abs, block)) * two_to(lsb_exp)
        own = code_min
        if amax:
            own = 127 + shared_exponent(amax, rule, e.emax, e.mantissa_bits, Fraction(e.max_val))
        scales.append(clamp(own, code_min, code_max))
        clamped += own != scales[-1]
        for v in block:
            x = v * two_to(lsb_exp - scales[-1] + 127)
            if is_float:
                code = nearest_float_code(x, e.exponent_bits, e.mantissa_bits, e.specials)
                codes.append(code | (v < 0) << (e.bits - 1))
            else:
                code = clamp(round_half_even(x * 2**e.frac_bits), -e.code_hi, e.code_hi)
                codes.append(code % 2**e.bits)
    return codes, scales, clamped


wide_integers = st.integers(-TOP, TOP) | st.integers(-9, 9) | st.sampled_from([s * m for m in EDGES for s in (1, -1)])


@each_format
@each_rule
@settings(max_examples=25, deadline=None)
@given(
    row=st.lists(wide_integers, min_size=1, max_size=11),
    lsb_exp=st.integers(-140, 64),
    code_range=st.tuples(st.integers(0, 254), st.integers(0, 254)).map(sorted) | st.just([0, 254]),
    group=st.integers(1, 5),
)
def test_mx_quantize_equals_python_integers_up_to_62_bits(name, rule, row, lsb_exp, code_range, group):
    expected = plain_mx_quantize(row, lsb_exp, name, rule, *code_range, group)
    codes, scales, clamped = mx_quantize(np.array(row), lsb_exp, quantizer(name, rule, *code_range), 0, group)
    assert (codes.tolist(), scales.tolist(), clamped) == expected
    assert codes.dtype == scales.dtype == np.uint8


@each_format
@each_rule
def test_scale_code_is_exact_at_and_beside_every_power_of_two(name, rule):
    """Blocks of one element: 2**k +- 1 ulp of 62 bits, where float32 arithmetic has long lost the last bits."""
    edges = [m for m in EDGES if m]
    _, scales, _ = plain_mx_quantize(edges, -30, name, rule, 0, 254, 1)
    q = quantizer(name, rule)
    assert fixedpoint.unclamped_scale_codes(np.array(edges), -30, q.emax, q.round_bias).tolist() == scales


@each_format
@each_rule
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_mx_quantize_equals_numerics_where_float32_holds_the_integers(name, rule, data):
    """Float32 subnormals included, save one case: integer formats under ceil, even and rceil.

    There numerics follows the float32 formula (a subnormal's code is the carry of A + R) and may say code 1 where
    the integer, which has a leading one at any size, has code 0.
    """
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=2)))
    axis, group = data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.integers(1, 5))
    low = -149 if get_format(name).is_float or rule == "floor" else -126
    lsb_exp, shift = data.draw(st.integers(low, 65)), data.draw(st.integers(0, 38))
    size = int(np.prod(shape))
    mantissas = st.integers(-(2**24), 2**24) | st.integers(-3, 3)
    v = np.array(data.draw(st.lists(mantissas, min_size=size, max_size=size))).reshape(shape) << shift
    x = np.ldexp(v.astype(np.float64), lsb_exp).astype(np.float32)
    assert np.array_equal(np.ldexp(x.astype(np.float64), -lsb_exp).astype(np.int64), v)

    fmt = get_format(f"{name}_g{group}")
    expected = quantized.quantize(x, fmt, axis, rule)
    codes, scales, _ = mx_quantize(v, lsb_exp, quantizer(name, rule), axis, group)
    assert np.array_equal(scales, expected.scale_codes)
    patterns = expected.codes.view(np.uint8) & (2**fmt.element.bits - 1)
    assert np.array_equal(codes, numerics.groups.from_groups(patterns, axis, shape[axis]))


def test_blocks_outside_the_code_range_are_clamped_and_counted():
    v = np.repeat([1 << 2, 1 << 10, 1 << 20, 0], 32)
    own = mx_quantize(v, 0, quantizer("mxint8", "floor"))
    assert own[1].tolist() == [129, 137, 147, 0] and own[2] == 0
    codes, scales, clamped = mx_quantize(v, 0, quantizer("mxint8", "floor", 135, 140))
    assert scales.tolist() == [135, 137, 140, 135]  # the block of zeros takes the lowest code
    assert clamped == 2  # and is not counted
    assert codes[::32].tolist() == [1, 64, 127, 0]  # low bits lost, untouched, saturated


def test_blocks_of_rank_3_are_clamped_and_counted_one_by_one():
    v = np.full((2, 40, 3), 1 << 30)
    codes, scales, clamped = mx_quantize(v, 0, quantizer("mxfp8_e4m3", "floor", 0, 127), axis=1)
    assert scales.shape == (2, 2, 3) and clamped == 12 and (codes == 0x7E).all()


def test_a_value_clamped_far_below_the_grid_is_a_signed_zero_in_floats_and_zero_in_integers():
    v = np.array([-TOP, TOP])
    assert mx_quantize(v, -200, quantizer("mxfp8_e4m3", "floor", 200, 254), 0)[0].tolist() == [0x80, 0]
    assert mx_quantize(v, -200, quantizer("mxint8", "floor", 200, 254), 0)[0].tolist() == [0, 0]


@each_format
def test_the_most_negative_value_rounds_as_the_one_above_it_at_every_scale(name):
    """Why mx_quantize_blocks keeps magnitudes without the bit that only this value needs, from so many bits on."""
    mantissa = element_parameters(get_format(name).element)["mantissa_bits"]
    for width in range(mantissa + 3, 33):
        least = -(2 ** (width - 1))
        for code in range(127 - 20, 127 + 40):
            codes, _, _ = mx_quantize(np.array([[least], [least + 1]]), 0, quantizer(name, "floor", code, code))
            assert codes[0] == codes[1], (width, code)


def test_the_most_negative_integer_code_is_never_produced():
    for rule in SCALE_RULES:
        codes, _, _ = mx_quantize(np.arange(-1000, 0), 0, quantizer("mxint8", rule), 0, 7)
        assert (codes != 0x80).all()


@each_format
def test_the_result_does_not_depend_on_where_the_point_is(name):
    """Scaling by a power of two moves the scale codes and nothing else."""
    v = np.random.default_rng(0).integers(-(2**40), 2**40, (4, 64))
    codes, scales, _ = mx_quantize(v, 0, quantizer(name, "even"))
    for lsb_exp in (-50, 17):
        moved_codes, moved_scales, _ = mx_quantize(v, lsb_exp, quantizer(name, "even"))
        assert np.array_equal(moved_codes, codes)
        assert np.array_equal(moved_scales, scales.astype(int) + lsb_exp)


# --- MXMatMul -------------------------------------------------------------------------------------------------


def plain_mx_matmul(x, xs, w, ws, bias, x_table, w_table, offset, group) -> list[list[int]]:
    rows = []
    for n in range(len(x)):
        row = []
        for o in range(len(w)):
            total = 0 if bias is None else int(bias[o])
            for k in range(x.shape[1]):
                product = int(x_table[x[n, k]]) * int(w_table[w[o, k]])
                total += product << (int(xs[n, k // group]) + int(ws[o, k // group]) - offset)
            row.append(total)
        rows.append(row)
    return rows


def table_of(name: str) -> np.ndarray:
    parameters = element_parameters(get_format(name).element)
    return fixedpoint.linear_table(parameters["exponent_bits"], parameters["mantissa_bits"])


def finite_codes(name: str, rng, shape) -> np.ndarray:
    e = get_format(name).element
    codes = np.arange(2**e.bits)
    if get_format(name).is_float:
        codes = codes[np.isfinite(numerics.decode(codes, e))]
    return rng.choice(codes, shape).astype(np.uint8)


MATMULS = [  # x format, w format, how far the scale codes of each spread: products and shifts fill up to 62 bits
    ("mxint8", "mxint8", 20),
    ("mxfp4_e2m1", "mxfp4_e2m1", 24),
    ("mxfp6_e2m3", "mxfp6_e3m2", 18),
    ("mxfp8_e4m3", "mxfp8_e4m3", 10),
    ("mxfp8_e5m2", "mxfp6_e3m2", 6),
    ("mxfp8_e4m3", "mxint8", 14),
    ("mxint4", "mxfp8_e5m2", 5),
]


@pytest.mark.parametrize("x_name, w_name, spread", MATMULS)
@pytest.mark.parametrize("length, group", [(64, 32), (70, 32), (5, 32), (40, 8), (1, 1)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_mx_matmul_equals_python_integers(x_name, w_name, spread, length, group, with_bias):
    rng = np.random.default_rng(length + spread)
    blocks = -(-length // group)
    x, w = finite_codes(x_name, rng, (3, length)), finite_codes(w_name, rng, (4, length))
    xs, ws = (
        (rows + rng.integers(0, spread + 1, (count, blocks))).astype(np.uint8) for rows, count in ((100, 3), (120, 4))
    )
    bias = rng.integers(-(2**50), 2**50, 4) if with_bias else None
    arguments = (x, xs, w, ws, bias, table_of(x_name), table_of(w_name), 220, group)
    expected = plain_mx_matmul(*arguments)
    assert max(abs(v) for row in expected for v in row) < TOP
    got = mx_matmul(*arguments)
    assert got.dtype == np.int64 and got.tolist() == expected


def test_mx_matmul_shifts_scale_codes_whose_sum_exceeds_a_byte():
    one = np.array([[1]], np.uint8)
    scale = np.array([[200]], np.uint8)
    table = table_of("mxint8")
    assert mx_matmul(one, scale, one, scale, None, table, table, 400 - 40).tolist() == [[1 << 40]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(MX_FORMATS))
def test_mx_matmul_is_the_real_product_of_the_quantized_tensors(seed, name):
    """lsb_exp of the result: scale_offset - 254 - (fraction bits of both elements)."""
    rng = np.random.default_rng(seed)
    e = get_format(name).element
    x, w = (quantized.quantize(rng.standard_normal((2, 40)).astype(np.float32), name) for _ in range(2))
    if name == "mxfp8_e5m2":
        w = quantized.quantize(rng.standard_normal((2, 40)).astype(np.float32), "mxfp4_e2m1")
    offset = int(x.scale_codes.min()) + int(w.scale_codes.min())
    arguments = []
    for q in (x, w):
        patterns = q.codes.view(np.uint8).reshape(2, 64)[:, :40]
        arguments += [patterns, q.scale_codes]
    tables = [table_of(q.format.name) for q in (x, w)]
    y = mx_matmul(*arguments, None, *tables, offset)
    lsb_exp = offset - 254 - e.frac_bits - w.format.element.frac_bits
    for n, o in np.ndindex(2, 2):
        pairs = zip(x.dequantize()[n], w.dequantize()[o], strict=True)
        exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in pairs)
        assert int(y[n, o]) * two_to(lsb_exp) == exact


@pytest.mark.parametrize("bits", [20, 24, 25, 26, 29])
def test_exact_matmul_is_exact_on_both_sides_of_2_to_the_53(bits):
    rng = np.random.default_rng(bits)
    a, b = rng.integers(-(2**bits), 2**bits + 1, (3, 17)), rng.integers(-(2**bits), 2**bits + 1, (17, 4))
    a[0] = b[:, 0] = 2**bits - 1  # an odd sum of 2 * bits + 5 bits: float64 holds it up to 24
    expected = [[sum(int(p) * int(q) for p, q in zip(row, col, strict=True)) for col in b.T] for row in a]
    got = fixedpoint.exact_matmul(a, b)
    assert got.dtype == np.int64 and got.tolist() == expected


def test_exact_matmul_of_nothing_is_zero():
    assert fixedpoint.exact_matmul(np.zeros((2, 0), np.int64), np.zeros((0, 3), np.int64)).tolist() == [[0] * 3] * 2


def test_exact_oracle_logarithms_are_exact():
    for k in range(-150, 128):
        assert shared_exponent(two_to(k), "floor", 0, 0, Fraction(1)) == ceil_log2(two_to(k)) == k
        assert ceil_log2(two_to(k) * Fraction(2**30 + 1, 2**30)) == k + 1
