"""fold_transposes and fold_reshapes: quantizers and layout operators change places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mxexport.model import graph
from mxexport.passes.fold.fold_reshapes import fold_reshapes
from mxexport.passes.fold.fold_transposes import fold_transposes
from tests.pass_helpers import Build, apply, op_types, producer_chain

FORMATS = ("mxfp8_e4m3", "mxint8", "mxfp4_e2m1_g16", "int4_g16")


def array(*shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def quantizer(model):
    return next(n for n in model.graph if graph.is_ours(n, graph.QUANTIZERS))


@pytest.mark.parametrize("fmt", FORMATS)
def test_transpose_of_a_weight_is_folded_and_the_axis_follows(fmt):
    b = Build(x=("N", 40))
    model = b.model(b.op("MatMul", b.inputs[0], b.op("Transpose", b.weight(array(8, 40), fmt, 1, "fc"), name="t")))
    assert len(apply(fold_transposes, model).changed) == 1
    assert "Transpose" not in op_types(model) and quantizer(model).attributes["axis"].value == 0
    assert quantizer(model).name.startswith("fc.weight_quant")
    assert not apply(fold_transposes, model).changed


@pytest.mark.parametrize("fmt", FORMATS[:3])
def test_an_activation_quantizer_moves_past_transpose(fmt):
    b = Build(x=("N", 5, 70))
    model = b.model(b.op("Neg", b.op("Transpose", b.quant(b.inputs[0], fmt, 2, "q"), perm=[2, 0, 1])))
    assert len(apply(fold_transposes, model).changed) == 1
    assert producer_chain(model.graph.outputs[0]) == ["Neg", quantizer(model).op_type, "Transpose"]
    assert quantizer(model).attributes["axis"].value == 0
    assert not apply(fold_transposes, model).changed


def test_transposes_meet_and_cancel():
    b = Build(x=("N", 5, 70))
    x = b.op("Transpose", b.inputs[0], perm=[0, 2, 1])
    y = b.op("Transpose", b.quant(x, "mxint8", 1, "q"), perm=[0, 2, 1])
    model = b.model(b.op("Relu", y), b.op("Transpose", x, perm=[2, 0, 1]))
    for _ in range(2):
        apply(fold_transposes, model)
    assert op_types(model).count("Transpose") == 1 and quantizer(model).attributes["axis"].value == 2
    assert not apply(fold_transposes, model).changed


def test_a_weight_used_twice_is_not_stored_twice():
    b = Build(x=("N", 40))
    weight = b.weight(array(8, 40), "mxint8", 1, "embed")
    model = b.model(b.op("MatMul", b.inputs[0], b.op("Transpose", weight, name="t")), b.op("Relu", weight, name="r"))
    outcome = apply(fold_transposes, model)
    assert not outcome.changed
    assert outcome.declined == [("t", "not folded into `embed.weight_quant`: `embed.weight_quant` also feeds `r`")]


def test_a_scale_used_elsewhere_keeps_its_quantizer():
    b = Build(x=(4, 64))
    q = b.quant(b.inputs[0], "mxint8", 1, "q")
    model = b.model(b.op("Neg", b.op("Transpose", q)), b.op("Neg", q.producer().inputs[1]))
    outcome = apply(fold_transposes, model)
    assert not outcome.changed and "`q_scale` is used elsewhere" in outcome.declined[0][1]


RESHAPES = {
    "conv weight to matrix": ((8, 40, 1, 1), 1, "mxint8", (8, 40), 1),
    "split": ((8, 64), 1, "mxint8", (8, 2, 32), 2),
    "merge": ((4, 2, 32), 2, "mxfp8_e4m3", (4, 64), 1),
    "leading": ((4, 2, 40), 2, "mxint8", (8, 40), 1),
    "inner": ((32, 6, 5), 0, "mxint8", (32, 30), 0),
    "short group": ((4, 40), 1, "mxint8", (2, 2, 40), 2),
}


@pytest.mark.parametrize("case", RESHAPES)
def test_reshape_of_a_weight_is_folded_where_groups_stay_whole(case):
    shape, axis, fmt, target, expected = RESHAPES[case]
    b = Build(x=(1,))
    y = b.op("Reshape", b.weight(array(*shape), fmt, axis, "w"), np.array(target), name="reshape")
    model = b.model(b.op("Add", y, b.inputs[0]))
    assert len(apply(fold_reshapes, model).changed) == 1
    assert "Reshape" not in op_types(model) and quantizer(model).attributes["axis"].value == expected
    assert not apply(fold_reshapes, model).changed


@pytest.mark.parametrize(
    "shape,axis,target", [((8, 64), 1, (8, 4, 16)), ((8, 40), 1, (4, 80)), ((6, 32, 4), 1, (6, 128))]
)
def test_reshape_that_cuts_groups_is_left_alone(shape, axis, target):
    b = Build(x=(1,))
    y = b.op("Reshape", b.weight(array(*shape), "mxint8", axis, "w"), np.array(target), name="reshape")
    outcome = apply(fold_reshapes, b.model(b.op("Add", y, b.inputs[0])))
    assert not outcome.changed and outcome.declined[0][0] == "reshape"
    assert "do not stay whole" in outcome.declined[0][1] or "mixes axis 1" in outcome.declined[0][1]


def test_an_activation_quantizer_moves_past_flatten():
    b = Build(x=("N", 64, 1, 1))
    model = b.model(b.op("Neg", b.op("Flatten", b.quant(b.inputs[0], "mxint8", 1, "q"))))
    assert len(apply(fold_reshapes, model).changed) == 1
    assert producer_chain(model.graph.outputs[0]) == ["Neg", "GroupwiseQuant", "Flatten"]
    assert not apply(fold_reshapes, model).changed


def test_attention_heads_that_cut_groups_keep_their_reshape():
    b = Build(x=("N", 12, 64))
    y = b.op("Reshape", b.quant(b.inputs[0], "mxint8", 2, "q"), np.array([0, 12, 4, 16]), name="heads")
    outcome = apply(fold_reshapes, b.model(b.op("Neg", y)))
    assert outcome.declined == [
        ("heads", "not folded into `q`: groups of 32 do not stay whole: the 64 elements of axis 2 become 16")
    ]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_layout_keeps_its_bits(data):
    shape = data.draw(st.sampled_from([(4, 8, 6), (2, 16, 4), (8, 8, 2)]))
    axis, size = data.draw(st.integers(0, 2)), data.draw(st.sampled_from([2, 3, 4, 8]))
    b = Build(x=shape)
    x = b.quant(b.inputs[0], f"mxint4_g{size}", axis, "q")
    for _ in range(data.draw(st.integers(1, 3))):
        rank = len(shape)
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(rank)))
            x, shape = b.op("Transpose", x, perm=perm), tuple(shape[i] for i in perm)
        else:
            size = int(np.prod(shape))
            first = data.draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if size % n == 0]))
            shape = (first, size // first)
            x = b.op("Reshape", x, np.array(shape))
    model = b.model(b.op("Neg", x))
    for _ in range(6):
        if not apply(fold_transposes, model).changed + apply(fold_reshapes, model).changed:
            break
    else:
        raise AssertionError("no fixed point")


def test_names_survive():
    b = Build(x=("N", 40))
    model = b.model(b.op("MatMul", b.inputs[0], b.op("Transpose", b.weight(array(8, 40), "mxint8", 1, "fc"), name="t")))
    apply(fold_transposes, model)
    assert [n.name for n in model.graph] == ["fc.weight_quant", "matmul5"]
    assert [n.outputs[0].name for n in model.graph] == ["t", "matmul5"]  # a tensor's name stands for its value
    assert set(model.graph.initializers) == {"fc.weight", "fc.scale"}
