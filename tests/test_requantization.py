"""Passes on quantizers: merge_quantizers, remove_requantization, contract_scales."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.model.rewriting import constant
from mxexport.numbers import groups, numerics, quantized
from mxexport.numbers.formats import SCALE_RULES, get_format, round_bias
from mxexport.ops import DOMAIN, OPERATORS, GroupwiseQuant, MXFloatQuant, qonnx_general
from mxexport.passes.fold.contract_scales import contract_scales
from mxexport.passes.fold.merge_quantizers import merge_quantizers
from mxexport.passes.fold.remove_requantization import remove_requantization
from tests.helpers import edge_values
from tests.pass_helpers import Build, apply, apply_within, node_named, op_types

f32 = np.float32
MX = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1", "mxint8", "mxint4", "mxint2_g16")


def array(*shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(f32)


# --- merge_quantizers -----------------------------------------------------------------------------------------


def test_query_key_and_value_share_one_quantizer():
    b = Build(x=("N", 5, 64))
    projections = [
        b.op("MatMul", b.quant(b.inputs[0], "mxfp8_e4m3", 2, f"{n}.input_quant"), array(64, 8, seed=i))
        for i, n in enumerate("qkv")
    ]
    model = b.model(*projections)
    assert len(apply(merge_quantizers, model).changed) == 4
    assert op_types(model).count("MXScale") == op_types(model).count("MXFloatQuant") == 1
    assert not apply(merge_quantizers, model).changed


def test_other_groups_or_inputs_are_not_merged():
    b = Build(x=(2, 64))
    y = b.op("Relu", b.inputs[0])
    quants = [b.quant(b.inputs[0], "mxint8", 1, "a"), b.quant(b.inputs[0], "mxint8_g16", 1, "b"),
              b.quant(y, "mxint8", 1, "c"), b.quant(b.inputs[0], "mxint8", 0, "d")]  # fmt: skip
    assert not apply(merge_quantizers, b.model(*(b.op("Neg", q) for q in quants))).changed


def test_a_quantizer_that_makes_an_output_keeps_its_name():
    b = Build(x=(2, 64))
    model = b.model(*(b.quant(b.inputs[0], "mxint8", 1, name) for name in "ab"))
    outcome = apply(merge_quantizers, model)
    assert len(outcome.changed) == 1  # their scales
    assert outcome.declined == [("b", "it equals `a`, but makes an output of the graph")]


# --- remove_requantization ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", MX)
def test_the_proof_holds_on_values_that_hurt(name, rule):
    """Q(Q(x)) == Q(x) with the scale found anew, calibrated limits of the scale included; `floor` keeps the scale."""
    fmt = get_format(name)
    element = fmt.element
    x = np.concatenate([edge_values((64, 70)), just_below_powers(element)])
    for limits in ((0, 254 if rule == "floor" else 254 - element.emax), (120, 130)):
        once, scale = codes_of(x, fmt, rule, limits)
        twice, again = codes_of(once, fmt, rule, limits)
        same = (once.view(np.int32) == twice.view(np.int32)) | (np.isnan(once) & np.isnan(twice))
        assert same.all(), x[~same][:3]
        if rule in ("floor", "even"):
            assert np.array_equal(scale, again, equal_nan=True)
        else:
            assert (again[scale > 0] <= scale[scale > 0]).all()


def just_below_powers(element) -> np.ndarray:
    """Rows whose largest value lies up to 40 ulp around k * 2**e, for every half step k / 2 of the element's top."""
    tops = np.linspace(0.4, 2.1, 35, dtype=f32) * f32(element.max_val)
    steps = np.arange(-40, 41, dtype=np.int32)
    first = (tops.view(np.int32)[:, None] + steps).view(f32).reshape(-1)
    powers = (np.exp2(np.arange(-6, 6, dtype=f32)).view(np.int32)[:, None] + steps).view(f32).reshape(-1)
    rows = np.concatenate([first, powers, -first])
    fillers = np.random.default_rng(0).uniform(-1, 1, (rows.size, 70)).astype(f32) * np.abs(rows)[:, None]
    fillers[:, 0] = rows
    return fillers


def codes_of(x, fmt, rule, limits):
    element = fmt.element
    scale = numerics.mx_scale(
        x, 1, fmt.group_size, element.emax, round_bias(element, rule), fmt.step_frac_bits, *limits
    )
    operator = MXFloatQuant if fmt.is_float else GroupwiseQuant
    attributes = operator.attributes_of(element) | {"axis": 1, "group_size": fmt.group_size}
    (y,) = OPERATORS[operator.op_type()].reference(x, scale, **attributes)
    return y, scale


@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "mxint8"])
def test_a_second_equal_quantizer_goes(fmt):
    b = Build(x=("N", 70))
    model = b.model(b.quant(b.quant(b.inputs[0], fmt, 1, "first"), fmt, 1, "second"))
    outcome = apply(remove_requantization, model)
    assert len(outcome.changed) == 1 and len(op_types(model)) == 2
    assert not apply(remove_requantization, model).changed


@pytest.mark.parametrize("fmt", ["int4_g16", "float_e3m2_g8", "mxfp4_e2m1"])
def test_the_same_scale_edge_goes_for_any_scale(fmt):
    b = Build(x=(3, 64))
    known = get_format(fmt)
    scale = b.const(np.abs(array(3, 64 // known.group_size)) + f32(0.01))
    if known.is_mx:
        scale = b.const(np.exp2(np.arange(6, dtype=f32)).reshape(3, 2))
    first = b.quant(b.inputs[0], fmt, 1, "first", scale)
    model = b.model(b.quant(first, fmt, 1, "second", scale))
    assert apply(remove_requantization, model).changed


DECLINES = {
    "other format": (("mxfp8_e4m3", {}), ("mxfp4_e2m1", {}), "exponent_bits is 4, then 2"),
    "integer after float": (("mxfp8_e4m3", {}), ("mxint8", {}), "MXFloatQuant is followed by GroupwiseQuant"),
    "other groups": (("mxint8", {}), ("mxint8_g16", {}), "group_size is 32, then 16"),
    "wide": (("mxint8", {"narrow": 0}), ("mxint8", {"narrow": 0}), "-128 would double the scale"),
    "after ReLU": (("mxfp8_e4m3", {"signed": 0}), ("mxfp8_e4m3", {"signed": 0}), "cut-off negative values"),
}


@pytest.mark.parametrize("case", DECLINES)
def test_requantization_that_may_change_values_stays(case):
    (first, a), (second, c), reason = DECLINES[case]
    b = Build(x=("N", 70))
    model = b.model(b.quant(b.quant(b.inputs[0], first, 1, "first", **a), second, 1, "second", **c))
    outcome = apply(remove_requantization, model)
    assert not outcome.changed and outcome.declined[0][0] == "second"
    assert "requantization of `first` kept" in outcome.declined[0][1] and reason in outcome.declined[0][1]


def test_two_outputs_stay_two():
    b = Build(x=(2, 70))
    first = b.quant(b.inputs[0], "mxint8", 1, "first")
    outcome = apply(remove_requantization, b.model(first, b.quant(first, "mxint8", 1, "second")))
    assert not outcome.changed and "make outputs of the graph" in outcome.declined[0][1]


def test_a_rule_that_rounds_up_goes_only_where_nothing_overflows():
    for code_max, changes in ((254, 0), (246, 1)):
        b = Build(x=("N", 70))
        y = b.quant(b.quant(b.inputs[0], "mxfp8_e4m3", 1, "first"), "mxfp8_e4m3", 1, "second")
        model = b.model(y)
        for node in model.graph:
            if node.op_type == "MXScale":
                node.attributes["round_bias"] = ir.AttrInt64("round_bias", 0x7FFFFF)
                node.attributes["code_max"] = ir.AttrInt64("code_max", code_max)
        outcome = apply(remove_requantization, model)
        assert len(outcome.changed) == changes
        assert changes or "overflow to Inf" in outcome.declined[0][1]


def test_a_float_scale_found_anew_stays():
    b = Build(x=(3, 64))
    x = b.inputs[0]
    for name in ("first", "second"):
        scale = b.op("GroupwiseScale", x, name=f"{name}_scale", domain=DOMAIN, axis=1, group_size=16, levels=7.0,
                     asymmetric=0)  # fmt: skip
        x = b.quant(x, "int4_g16", 1, name, scale)
    outcome = apply(remove_requantization, b.model(x))
    assert not outcome.changed and "not found by MXScale" in outcome.declined[0][1]


# --- contract_scales ------------------------------------------------------------------------------------------


def expanded_model(axis: int = 1, size: int = 16, shape=(6, 40), change=None):
    w, fmt = array(*shape), f"int4_g{size}"
    q = quantized.quantize(w, fmt, axis)
    scale = groups.expand(q.scale, axis, size, shape[axis])
    if change:
        scale[change] *= 3
    b = Build(x=("N", shape[0]))
    weight = b.quant(b.const(w), f"int4_g{1 if change is None else size}", axis, "w", b.const(scale, "w_scale"))
    return b, b.op("MatMul", b.inputs[0], weight), q


@pytest.mark.parametrize("axis,shape", [(1, (6, 40)), (0, (40, 6))])
def test_one_scale_per_element_becomes_one_per_group(axis, shape):
    b, y, q = expanded_model(axis, shape=shape)
    model = b.model(y)
    assert apply(contract_scales, model).changed
    quant = node_named(model, "w")
    assert quant.attributes["group_size"].value == 16 and np.array_equal(constant(quant.inputs[1]), q.scale)
    assert not apply(contract_scales, model).changed


def test_a_file_that_breaks_the_contract_is_mended():
    b, y, q = expanded_model()
    node = y.producer().inputs[1].producer()
    node.attributes["group_size"] = ir.AttrInt64("group_size", 16)
    model = b.model(y)
    assert contract_scales(model).changed
    assert np.array_equal(constant(node_named(model, "w").inputs[1]), q.scale)


def test_zero_points_are_contracted_with_their_scale():
    q = quantized.quantize(array(6, 40), "uint4_g8", 1)
    scale, zero = (groups.expand(p, 1, 8, 40) for p in (q.scale, q.zero_point))
    b = Build(x=("N", 6))
    weight = b.op("GroupwiseQuant", array(6, 40), scale, zero, name="w", domain=DOMAIN, axis=1, group_size=1,
                  bit_width=4, signed=0, narrow=0)  # fmt: skip
    model = b.model(b.op("MatMul", b.inputs[0], weight))
    assert apply(contract_scales, model).changed
    found = [constant(v) for v in node_named(model, "w").inputs[1:]]
    assert np.array_equal(found[0], q.scale) and np.array_equal(found[1], q.zero_point)


def test_a_scale_that_varies_inside_a_group_is_left_alone():
    b, y, _ = expanded_model(change=(2, 5))
    outcome = contract_scales(b.model(y))
    assert not outcome.changed
    assert outcome.declined == [("w", "`w_scale` varies inside groups of 16 on axis 1")]


def qonnx_model(scale, x=None, bits=4, **attributes):
    attributes = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"} | attributes
    b = Build(x=("N", scale.shape[0]))
    x = b.const(array(*scale.shape) if x is None else x)
    weight = b.op("Quant", x, scale.astype(f32), f32(0), f32(bits), name="w", domain=qonnx_general.DOMAIN, **attributes)
    b.graph.opset_imports[qonnx_general.DOMAIN] = qonnx_general.VERSION
    return b, b.op("MatMul", b.inputs[0], weight)


def test_a_qonnx_quant_with_groups_becomes_ours():
    q = quantized.quantize(array(8, 40), "int4_g16", 1)
    b, y = qonnx_model(groups.expand(q.scale, 1, 16, 40))
    model = b.model(y)
    assert apply_within(contract_scales, model, 0.0).changed  # equal but for the sign of zeros
    quant = node_named(model, "w")
    assert (quant.op_type, quant.attributes["group_size"].value, quant.attributes["axis"].value) == (
        "GroupwiseQuant", 16, 1,
    )  # fmt: skip
    assert np.array_equal(constant(quant.inputs[1]), q.scale)
    assert not apply(contract_scales, model).changed


def test_a_qonnx_quant_with_channels_stays_one_with_a_smaller_scale():
    b, y = qonnx_model(np.repeat(np.abs(array(8, 1)), 40, axis=1))
    model = b.model(y)
    assert apply(contract_scales, model).changed
    quant = node_named(model, "w")
    assert quant.op_type == "Quant" and constant(quant.inputs[1]).shape == (8, 1)
    assert not apply(contract_scales, model).changed


@pytest.mark.parametrize(
    "options,reason",
    [
        ({"rounding_mode": "FLOOR"}, "it says FLOOR"),
        ({"signed": 0}, "narrow and unsigned"),
        ({"bits": 12}, "bit widths of 2 to 8"),
    ],
)
def test_a_qonnx_quant_with_another_meaning_is_left_alone(options, reason):
    b, y = qonnx_model(np.repeat(np.abs(array(8, 4)), 16, axis=1), **options)
    outcome = apply(contract_scales, b.model(y))
    assert not outcome.changed and reason in outcome.declined[0][1]
