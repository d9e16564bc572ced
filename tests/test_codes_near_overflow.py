"""Element codes near the top of float32: where codes times scale is 2**128, values are Inf and codes still exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import mxexport as mx
from mxexport.numbers import numerics, packing, quantized
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format
from mxexport.ops import MXFloatDequant
from mxexport.quant.tensors.storage import load_file, save_file
from mxexport.running import executors
from mxexport.targets import values
from tests.exact_oracles import nearest_float_code, round_half_even, two_to
from tests.helpers import ALL_FORMATS, single_node_model

FORMATS = (*MX_FORMATS, *(f"mxint{bits}" for bits in range(2, 8)))
TOPS = {torch.float32: 128, torch.bfloat16: 128, torch.float16: 16}


def near_the_top(dtype: torch.dtype, size: int = 32) -> torch.Tensor:
    """[groups, size]: the largest magnitude of a group from 2**(top - 2) to the largest number, smaller ones beside."""
    rng, largest = np.random.default_rng(0), torch.finfo(dtype).max
    tops = [*np.linspace(0.25, 1, 97)[:-1] * 2.0 ** TOPS[dtype], largest, largest * (1 - 2.0**-6)]
    x = torch.tensor(np.array(tops)[:, None] * rng.uniform(-1, 1, (len(tops), size)), dtype=torch.float64)
    x[:, 0] = torch.tensor(tops, dtype=torch.float64)
    x[:, 1] = -x[:, 0]
    return x.clamp(-largest, largest).to(dtype)


def exact_code(x: float, scale_code: int, fmt) -> int:
    """Bits of the element nearest to x / 2**(scale_code - 127), in rational arithmetic."""
    e, quotient = fmt.element, Fraction(x) / two_to(int(scale_code) - 127)
    if fmt.is_float:
        sign = (1 << (e.bits - 1)) if np.signbit(x) else 0
        return sign | nearest_float_code(quotient, e.exponent_bits, e.mantissa_bits, e.specials)
    code = round_half_even(abs(quotient) * 2**e.frac_bits)
    return min(code, e.code_hi) * (-1 if x < 0 else 1)


@pytest.mark.parametrize("dtype", TOPS, ids=str)
@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", FORMATS)
def test_codes_equal_exact_arithmetic(tmp_path, name, rule, dtype):
    x, fmt = near_the_top(dtype), get_format(name)
    q = mx.quantize(x, name, scale_rule=rule)
    scale_codes = q.scale_codes[:, 0, 0].tolist()
    expected = [[exact_code(v, c, fmt) for v in row] for row, c in zip(x.tolist(), scale_codes, strict=True)]
    assert q.codes[:, 0].tolist() == expected
    reference = quantized.quantize(x.float().numpy(), fmt, rule=rule)
    np.testing.assert_array_equal(q.codes.numpy(), reference.codes)
    save_file({"w": q}, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["w"].codes[:, 0].tolist() == expected


def test_some_of_these_values_overflow():
    """The case that was wrong: 1.75 * 2**127 is 3.5 * 2**126, a tie of e2m1 that goes to 4; and 4 * 2**126 is Inf."""
    q = mx.quantize(torch.full((1, 32), 1.75 * 2.0**127), "mxfp4_e2m1", scale_rule="ceil")
    assert q.value.isinf().all() and (q.codes == 6).all() and (q.scale_codes == 253).all()
    for rule in ("ceil", "even", "rceil"):
        assert mx.quantize(near_the_top(torch.float32), "mxfp4_e2m1", scale_rule=rule).value.isinf().any()


@pytest.mark.parametrize("name", [n for n in ALL_FORMATS if not get_format(n).is_mx])
def test_codes_of_float_scales_are_those_of_the_reference(name):
    x = near_the_top(torch.float32, get_format(name).group_size)
    np.testing.assert_array_equal(mx.quantize(x, name).codes.numpy(), quantized.quantize(x.numpy(), name).codes)


def test_an_overflow_keeps_its_code_where_groups_are_kept_and_is_a_plain_value_elsewhere():
    q = mx.quantize(near_the_top(torch.float32), "mxfp4_e2m1", scale_rule="ceil")
    assert q.value.isinf().any()
    assert torch.equal((-q).codes, q.codes ^ 8) and torch.equal(q.T.codes, q.codes.permute(1, 2, 0))
    halved = q * 0.5  # Inf halved is Inf, which half the scale times the same code is not
    assert type(halved) is torch.Tensor and torch.equal(halved, q.value * 0.5)


@pytest.mark.parametrize("rule", ["ceil", "even", "rceil"])
@pytest.mark.parametrize("name", FORMATS)
def test_targets_find_the_codes_of_weights_that_overflow(name, rule):
    fmt, x = get_format(name), near_the_top(torch.float32).numpy()
    reference = quantized.quantize(x, fmt, rule=rule)
    codes = packing.pack_codes(reference.codes.reshape(x.shape), fmt.element.bits, 1, 32)
    op_type = "MXFloatDequant" if fmt.is_float else "GroupwiseDequant"
    attributes = {"axis": 1, "group_size": 32, "shape": list(x.shape)}
    attributes |= MXFloatDequant.attributes_of(fmt.element) if fmt.is_float else {"bit_width": fmt.element.bits}
    attributes |= {} if fmt.is_float else {"signed": 1}
    proto = single_node_model(op_type, [codes, reference.scale], attributes)
    node = constant_node(proto, [codes, reference.scale])
    found = values.constant_codes(node)
    assert found.exact
    np.testing.assert_array_equal(found.value, next(iter(executors.run(proto, (codes, reference.scale)).values())))
    element = numerics.decode(reference.codes.reshape(x.shape), fmt.element) * np.float32(2.0**fmt.step_frac_bits)
    np.testing.assert_array_equal(found.elements, element)


def constant_node(proto: onnx.ModelProto, arrays: list[np.ndarray]) -> ir.Node:
    """The node of a model of one node, its inputs turned into initializers."""
    constant = onnx.ModelProto.FromString(proto.SerializeToString())
    names = [value.name for value in constant.graph.input]
    constant.graph.initializer.extend(map(onnx.numpy_helper.from_array, arrays, names))
    del constant.graph.input[:]
    return next(iter(ir.from_proto(constant).graph))
