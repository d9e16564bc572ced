"""Packed codes and the operators that read them: every code of every format, in every executor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mxexport import ops
from mxexport.errors import FormatError, ScaleShapeError, ShapeError
from mxexport.numbers import groups, numerics, packing, quantized
from mxexport.numbers.formats import FloatElement, get_format
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values
from tests.test_ops import check_all_executors, quant_node

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the reference evaluator's

FLOATS = {name: FloatElement(*parts) for name, parts in {
    "e4m3": (4, 3, "nan"), "e5m2": (5, 2, "ieee"), "e3m2": (3, 2), "e2m3": (2, 3), "e2m1": (2, 1), "e3m0": (3, 0),
    "e4m3 plain": (4, 3), "e4m3 fnuz": (4, 3, "fnuz"), "e5m2 fnuz": (5, 2, "fnuz"), "e7m0": (7, 0), "e1m1": (1, 1),
}.items()}  # fmt: skip


def scales(count: int) -> np.ndarray:
    """One row of scales that hurt: zero, NaN, the smallest and largest powers of two, ordinary ones."""
    special = [0.0, np.nan, 2.0**-149, 2.0**-127, 1.0, 0.3, 2.0**127]
    return np.resize(np.float32(special), (1, count))


def bit_by_bit(codes: np.ndarray, bits: int, group_size: int) -> list[int]:
    """Packed bytes of one row, one bit after the other."""
    packed = []
    for start in range(0, len(codes), group_size):
        group = [int(c) for c in codes[start : start + group_size]]
        whole = sum(c << (i * bits) for i, c in enumerate(group))
        packed += list(whole.to_bytes(packing.group_bytes(group_size, bits), "little"))
    return packed


# --- packing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [1, 3, 8, 13, 32])
def test_packed_bytes_are_as_specified(bits, group_size):
    codes = np.random.default_rng(bits).integers(0, 2**bits, 75).astype(np.uint8)
    packed = packing.pack_codes(codes[None], bits, 1, group_size)
    assert packed[0].tolist() == bit_by_bit(codes, bits, group_size)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_unpacking_restores_any_shape_axis_and_width(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    bits, group = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 12))
    codes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2**bits, shape).astype(np.uint8)
    packed = packing.pack_codes(codes, bits, axis, group)
    assert packed.shape == packing.packed_shape(shape, bits, axis, group) and packed.dtype == np.uint8
    np.testing.assert_array_equal(packing.unpack_codes(packed, bits, axis, group, shape[axis]), codes)


def test_negative_codes_keep_their_low_bits():
    packed = packing.pack_codes(np.int8([[-1, -8, 7, 0]]), 4, 1, 4)
    assert packed.tolist() == [[0x8F, 0x07]]


def test_packing_refuses_what_it_cannot_do():
    with pytest.raises(FormatError, match="codes of 9 bits"):
        packing.pack_codes(np.zeros((1, 4), np.uint8), 9, 1, 4)
    with pytest.raises(
        ShapeError, match=r"have shape \(1, 3\), expected \(1, 4\).*each of the 2 groups.*takes 2 bytes"
    ):
        packing.unpack_codes(np.zeros((1, 3), np.uint8), 4, 1, 4, 8)
    with pytest.raises(ShapeError, match="axis 2 is outside"):
        packing.pack_codes(np.zeros((1, 4), np.uint8), 4, 2, 4)


# --- dequantizers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [32, 7])
@pytest.mark.parametrize("name", FLOATS)
def test_every_float_code_equal_everywhere(name, group_size):
    element = FLOATS[name]
    codes = np.arange(2**element.bits, dtype=np.uint8)[None]
    scale = scales(groups.group_count(codes.shape[1], group_size))
    attributes = ops.MXFloatDequant.attributes_of(element)
    assert ops.MXFloatDequant.element_of(attributes) == element
    common = {"axis": 1, "group_size": group_size, "shape": list(codes.shape)}
    packed = packing.pack_codes(codes, element.bits, 1, group_size)
    (y,) = check_all_executors("MXFloatDequant", [packed, scale], attributes | common)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        expected = numerics.decode(codes, element) * groups.expand(scale, 1, group_size, codes.shape[1])
    assert_equal_bits(y, expected)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_integer_code_equal_everywhere(bits, signed):
    group_size = 11
    codes = np.arange(2**bits, dtype=np.uint8)[None]
    count = groups.group_count(codes.shape[1], group_size)
    attributes = {"axis": 1, "group_size": group_size, "bit_width": bits, "signed": signed, "shape": list(codes.shape)}
    packed = packing.pack_codes(codes, bits, 1, group_size)
    zero = np.random.default_rng(0).integers(0, 2**bits, (1, count)).astype(np.float32)
    for arrays in ([packed, scales(count)], [packed, scales(count), zero]):
        (y,) = check_all_executors("GroupwiseDequant", arrays, attributes)
        value = codes.astype(np.int32) - (2**bits * (codes >= 2 ** (bits - 1)) if signed else 0)
        z = groups.expand(arrays[2], 1, group_size, codes.shape[1]) if len(arrays) > 2 else np.float32(0)
        with np.errstate(over="ignore", invalid="ignore"):
            s = groups.expand(arrays[1], 1, group_size, codes.shape[1])
            assert_equal_bits(y, (value.astype(np.float32) - z) * s + np.float32(0))


@pytest.mark.parametrize("shape, axis", [((40,), 0), ((40, 3), 0), ((2, 40, 3, 2), 1), ((2, 3, 40), 2)])
def test_any_axis_and_rank(shape, axis):
    codes = np.random.default_rng(1).integers(0, 64, shape).astype(np.uint8)
    scale = np.random.default_rng(2).random(groups.contracted_shape(shape, axis, 9)).astype(np.float32)
    common = {"axis": axis, "group_size": 9, "shape": list(shape)}
    packed = packing.pack_codes(codes, 6, axis, 9)
    float_attributes = ops.MXFloatDequant.attributes_of(FloatElement(3, 2)) | common
    check_all_executors("MXFloatDequant", [packed, scale], float_attributes)
    check_all_executors("GroupwiseDequant", [packed, scale], {"bit_width": 6, "signed": 1} | common)


@pytest.mark.parametrize("opset", range(18, 27))
def test_bodies_hold_at_every_opset(opset):
    codes = np.arange(64, dtype=np.uint8)[None]
    attributes = ops.MXFloatDequant.attributes_of(FloatElement(3, 2))
    attributes |= {"axis": 1, "group_size": 32, "shape": [1, 64]}
    check_all_executors("MXFloatDequant", [packing.pack_codes(codes, 6, 1, 32), scales(2)], attributes, opset)


def test_wrong_shapes_are_refused_with_both_shapes():
    attributes = ops.MXFloatDequant.attributes_of(FloatElement(2, 1)) | {"axis": 1, "group_size": 32, "shape": [4, 64]}
    scale = np.ones((4, 2), np.float32)
    with pytest.raises(ShapeError, match=r"MXFloatDequant: packed codes have shape \(4, 64\), expected \(4, 32\)"):
        ops.MXFloatDequant.reference(np.zeros((4, 64), np.uint8), scale, **attributes)
    with pytest.raises(ScaleShapeError, match=r"scale has shape \(4, 64\), expected \(4, 2\)"):
        ops.MXFloatDequant.reference(np.zeros((4, 32), np.uint8), np.ones((4, 64), np.float32), **attributes)
    with pytest.raises(FormatError, match="no element format"):
        ops.MXFloatDequant.element_of(attributes | {"max_code": 5})


# --- scales -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frac_bits", [0, 6, 22])
def test_every_e8m0_code_equal_everywhere(frac_bits):
    codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    (scale,) = check_all_executors("MXScaleDequant", [codes], {"frac_bits": frac_bits})
    assert scale[0, 0] == 2.0 ** (-127 - frac_bits) and np.isnan(scale[7, 31])


def test_every_nvfp4_scale_code_equal_everywhere():
    codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for tensor_scale in (1 / 3, 2.0**-126, 3e38):
        check_all_executors("NVFP4ScaleDequant", [codes, np.array(tensor_scale, np.float32)], {})


@pytest.mark.parametrize("largest", [0.0, 2.0**-149, 1e-39, 1e-3, 1.0, 448.0, 3.4e38])
def test_nvfp4_scale_and_quantizer_equal_everywhere(largest):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((40, 70)) * np.exp2(rng.integers(-30, 1, (40, 1)))).astype(np.float32)
    x = (x / np.abs(x).max() * np.float32(largest)).astype(np.float32)
    x[0], x[1, 3], x[2, 20] = 0, np.nan, np.inf
    (scale,) = check_all_executors("NVFP4Scale", [x], {"axis": 1, "group_size": 16})
    assert_equal_bits(scale, numerics.nvfp4_scale(x, 1, 16)[0])
    op_type, attributes = quant_node(get_format("nvfp4"))
    (y,) = check_all_executors(op_type, [x, scale], attributes)
    assert_equal_bits(y, quantized.quantize(x, "nvfp4", axis=1).dequantize())


def test_a_scale_of_zero_gives_zeros_with_the_sign_of_x():
    x = np.float32([[-3.0, -0.0, 0.0, 5.0, np.inf, -1e-45]])
    _, attributes = quant_node(get_format("nvfp4"))
    (y,) = check_all_executors("MXFloatQuant", [x, np.zeros((1, 1), np.float32)], attributes)
    assert_equal_bits(y, np.float32([[-0.0, -0.0, 0.0, 0.0, 0.0, -0.0]]))


@pytest.mark.parametrize("name", [*ALL_FORMATS, "nvfp4"])
def test_dequantized_codes_are_the_quantized_values(name):
    fmt, x = get_format(name), edge_values((40, 70))
    q = quantized.quantize(x, fmt, axis=1)
    codes = groups.from_groups(q.codes, 1, 70)
    packed = packing.pack_codes(codes, fmt.element.bits, 1, fmt.group_size)
    common = {"axis": 1, "group_size": fmt.group_size, "shape": [40, 70]}
    if fmt.is_float:
        op, attributes = ops.MXFloatDequant, ops.MXFloatDequant.attributes_of(fmt.element)
    else:
        op, attributes = ops.GroupwiseDequant, {"bit_width": fmt.element.bits, "signed": int(fmt.element.signed)}
    arrays = [packed, q.scale] + ([] if q.zero_point is None else [q.zero_point])
    (y,) = op.reference(*arrays, **attributes, **common)
    assert_equal_bits(y, q.dequantize())
