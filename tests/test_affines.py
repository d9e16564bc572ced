"""Passes on Mul and Add with constants: normalize_affines, merge_affines, absorb_scales, absorb_affines."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mxexport.passes.fold._weights import weight_of
from mxexport.passes.streamline.absorb_affines import absorb_affines
from mxexport.passes.streamline.absorb_scales import absorb_scales
from mxexport.passes.streamline.merge_affines import merge_affines
from mxexport.passes.streamline.move_scales import move_scales
from mxexport.passes.streamline.normalize_affines import normalize_affines
from tests.pass_helpers import Build, apply, apply_within, op_types

f32 = np.float32


def array(*shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(f32)


# --- normalize_affines ----------------------------------------------------------------------------------------


def test_division_by_a_power_of_two_is_a_product_and_subtraction_a_sum():
    b = Build(x=("N", 4))
    model = b.model(b.op("Sub", b.op("Div", b.inputs[0], f32(4)), array(4)))
    assert len(apply(normalize_affines, model).changed) == 2
    assert op_types(model) == ["Mul", "Add"]
    assert not apply(normalize_affines, model).changed


def test_division_by_three_stays():
    b = Build(x=("N", 4))
    model = b.model(b.op("Div", b.inputs[0], f32(3), name="third"), b.op("Sub", f32(1), b.inputs[0]))
    outcome = apply(normalize_affines, model)
    assert not outcome.changed and outcome.declined[0][0] == "third" and "reciprocal" in outcome.declined[0][1]


# --- merge_affines --------------------------------------------------------------------------------------------


def chain(steps) -> tuple:
    b = Build(x=("N", 4, 3, 3))
    x = b.inputs[0]
    for op_type, c in steps:
        x = b.op(op_type, x, c)
    return b, b.model(x)


def test_bias_and_batch_norm_become_one_mul_and_one_add():
    c = [np.abs(array(4, 1, 1, seed=i)) + f32(0.1) for i in range(4)]
    _, model = chain([("Add", c[0]), ("Mul", c[1]), ("Add", c[2]), ("Mul", c[3])])
    assert apply_within(merge_affines, model, 2.0**-22 * 100).changed
    assert [(n.op_type, n.name) for n in model.graph] == [("Mul", "mul7"), ("Add", "add5")]
    assert not apply(merge_affines, model).changed


def test_factors_that_are_powers_of_two_merge_exactly():
    _, model = chain([("Mul", f32(4)), ("Mul", array(4, 1, 1)), ("Mul", f32(0.5))])
    outcome = apply(merge_affines, model)
    assert len(outcome.changed) == 2 and all("exact" in line for line in outcome.changed)
    assert op_types(model) == ["Mul"]


def test_a_fork_keeps_its_affine():
    b = Build(x=("N", 4))
    x = b.op("Add", b.inputs[0], array(4), name="bias")
    model = b.model(b.op("Mul", x, array(4), name="scale"), b.op("Relu", x))
    outcome = apply(merge_affines, model)
    assert not outcome.changed
    assert outcome.declined == [("bias", "its result forks or leaves the graph; only `scale` would take it along")]


def test_constants_that_overflow_together_stay():
    _, model = chain([("Mul", f32(1e30)), ("Mul", f32(1e30))])
    outcome = merge_affines(model)
    assert not outcome.changed and "overflow" in outcome.declined[0][1].replace("over- or under", "over")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["Mul", "Add"]), st.integers(0, 3)), min_size=1, max_size=6))
def test_any_chain_stays_within_its_bound(steps):
    constants = [array(4, 1, 1), f32(0.25), np.full((1, 4, 1, 1), 2, f32), array(3, seed=2)]
    _, model = chain([(op_type, constants[i]) for op_type, i in steps])
    largest = float(np.prod([1 + np.abs(constants[i]).max() for _, i in steps])) * 5
    for _ in range(6):
        moved = apply(move_scales, model).changed
        merged = apply_within(merge_affines, model, 2.0**-22 * len(steps) * largest).changed
        if not moved and not merged:
            break
    else:
        raise AssertionError("no fixed point")
    assert op_types(model) in [list(kinds) for n in range(4) for kinds in combinations(("Mul", "Add", "Mul"), n)]


# --- absorb_scales, absorb_affines ----------------------------------------------------------------------------


def layer(kind: str, fmt: str, factor: np.ndarray, seed: int = 0):
    if kind == "MatMul":
        b = Build(x=("N", 40))
        y = b.op("MatMul", b.inputs[0], b.weight(array(40, 6, seed=seed), fmt, 0, "fc"), name="fc")
    else:
        b = Build(x=("N", 40, 4, 4))
        y = b.op("Conv", b.inputs[0], b.weight(array(6, 40, 3, 3, seed=seed), fmt, 1, "fc"), name="fc")
        factor = factor.reshape(-1, 1, 1)
    return b, y, b.op("Mul", y, factor, name="scale")


POWERS = np.array([0.5, 1, 2, 4, 0.25, 8], f32)
ODD = np.array([0.3, 1.7, 2.1, 4, 0.25, 9], f32)


@pytest.mark.parametrize("fmt", ["mxfp4_e2m1", "mxint8", "int4_g16", "float_e3m2_g8"])
@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_weight_scale_takes_powers_of_two(kind, fmt):
    b, _, y = layer(kind, fmt, POWERS)
    model = b.model(y)
    assert apply(absorb_scales, model).changed and "Mul" not in op_types(model)
    assert not apply(absorb_scales, model).changed


def test_mx_scale_takes_nothing_else():
    for function, says in ((absorb_scales, "it stays one Mul"), (absorb_affines, "holds powers of two only")):
        b, _, y = layer("MatMul", "mxfp6_e2m3", ODD)
        outcome = apply(function, b.model(y))
        assert not outcome.changed and says in outcome.declined[0][1]


def test_an_e8m0_scale_never_leaves_its_range():
    b, _, y = layer("MatMul", "mxfp4_e2m1", np.full(6, 2.0**-126, f32))
    outcome = apply(absorb_scales, b.model(y))
    assert not outcome.changed and "leave the range of mxfp4_e2m1" in outcome.declined[0][1]


@pytest.mark.parametrize("fmt", ["int4_g16", "uint4_g16", "float_e3m2_g8"])
@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_float_scale_takes_any_factor_and_codes_stay(kind, fmt):
    b, _, y = layer(kind, fmt, ODD) if fmt != "uint4_g16" else asymmetric(kind)
    model = b.model(y)
    product = next(n for n in model.graph if n.op_type == kind)
    before = weight_of(product.inputs[1])
    assert apply_within(absorb_affines, model, 2.0**-22 * 40 * 9 * 100).changed
    after = weight_of(product.inputs[1])
    shape = (1, -1) if kind == "MatMul" else (-1, 1, 1, 1)
    exact = before.quantized().astype(np.float64) * ODD.reshape(shape)
    assert np.abs(after.quantized() - exact).max() <= np.abs(exact).max() * 2.0**-22
    assert not apply(absorb_affines, model).changed


def asymmetric(kind: str):
    from mxexport.numbers import quantized

    b = Build(x=("N", 40) if kind == "MatMul" else ("N", 40, 4, 4))
    shape, axis = ((40, 6), 0) if kind == "MatMul" else ((6, 40, 3, 3), 1)
    w = array(*shape)
    q = quantized.quantize(w, "uint4_g16", axis)
    weight = b.op("GroupwiseQuant", w, q.scale, q.zero_point, name="w", domain="mxexport.ops", axis=axis,
                  group_size=16, bit_width=4, signed=0, narrow=0)  # fmt: skip
    y = b.op(kind, b.inputs[0], weight, name="fc")
    return b, y, b.op("Mul", y, ODD.reshape(-1, 1, 1) if kind == "Conv" else ODD, name="scale")


def test_a_factor_stays_where_the_product_or_the_weight_is_used_twice():
    b, y, z = layer("MatMul", "mxint8", POWERS)
    outcome = apply(absorb_scales, b.model(z, b.op("Relu", y)))
    assert not outcome.changed and "its result without the factor is used" in outcome.declined[0][1]
    b, y, z = layer("MatMul", "mxint8", POWERS)
    weight = y.producer().inputs[1]
    outcome = apply(absorb_scales, b.model(z, b.op("Relu", weight)))
    assert not outcome.changed and "`fc.weight_quant` is used elsewhere" in outcome.declined[0][1]


def test_factors_that_change_codes_are_declined():
    b, _, y = layer("MatMul", "mxint8", -POWERS)
    outcome = apply(absorb_scales, b.model(y))
    assert not outcome.changed and "would change codes" in outcome.declined[0][1]
