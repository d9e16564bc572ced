"""move_scales: constant factors move past what scales along, exactly, and stay where they must."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings, strategies as st

from mxexport.passes.streamline.move_scales import move_scales
from tests.pass_helpers import Build, apply, op_types, producer_chain

rng = np.random.default_rng(0)
f32 = np.float32


def array(*shape) -> np.ndarray:
    return rng.standard_normal(shape).astype(f32)


def per_channel(values, rank: int = 4) -> np.ndarray:
    return np.array(values, f32).reshape(1, -1, *[1] * (rank - 2))


CHANNELS = per_channel([0.5, 2, 4, 0.125])
ODD = per_channel([0.3, 2.7, 1.1, 0.9])
FIRES = {
    "MatMul": (f32(0.25), lambda b, x: b.op("MatMul", x, array(6, 3), name="t")),
    "MatMul rows": (per_channel([1, 2, 4, 8]), lambda b, x: b.op("MatMul", x, array(6, 3), name="t")),
    "Conv": (f32(8), lambda b, x: b.op("Conv", x, array(5, 4, 3, 3), name="t")),
    "depthwise": (CHANNELS, lambda b, x: b.op("Conv", x, array(8, 1, 3, 3), name="t", group=4, pads=[1, 1, 1, 1])),
    "grouped": (per_channel([2, 2, 4, 4]), lambda b, x: b.op("Conv", x, array(6, 2, 1, 1), name="t", group=2)),
    "Add constant": (CHANNELS, lambda b, x: b.op("Add", x, array(4, 1, 1), name="t")),
    "constant - x": (CHANNELS, lambda b, x: b.op("Sub", array(4, 1, 1), x, name="t")),
    "Relu": (ODD, lambda b, x: b.op("Relu", x, name="t")),
    "LeakyRelu": (CHANNELS, lambda b, x: b.op("LeakyRelu", x, name="t", alpha=0.1)),
    "Clip": (f32(0.5), lambda b, x: b.op("Clip", x, f32(0), f32(0.75), name="t")),
    "Neg": (ODD, lambda b, x: b.op("Neg", x, name="t")),
    "MaxPool": (ODD, lambda b, x: b.op("MaxPool", x, name="t", kernel_shape=[2, 2], strides=[2, 2])),
    "AveragePool": (CHANNELS, lambda b, x: b.op("AveragePool", x, name="t", kernel_shape=[3, 3])),
    "GlobalAveragePool": (CHANNELS, lambda b, x: b.op("GlobalAveragePool", x, name="t")),
    "ReduceMean": (CHANNELS, lambda b, x: b.op("ReduceMean", x, np.array([2, 3]), name="t", keepdims=0)),
    "ReduceMax": (ODD, lambda b, x: b.op("ReduceMax", x, np.array([-1]), name="t")),
    "Flatten": (ODD, lambda b, x: b.op("Flatten", x, name="t")),
    "Reshape": (ODD, lambda b, x: b.op("Reshape", x, np.array([-1, 2, 12, 6]), name="t")),
    "Transpose": (ODD, lambda b, x: b.op("Transpose", x, name="t", perm=[0, 2, 3, 1])),
    "Unsqueeze": (ODD, lambda b, x: b.op("Unsqueeze", x, np.array([1]), name="t")),
    "Slice": (f32(0.3), lambda b, x: b.op("Slice", x, np.array([1]), np.array([3]), np.array([1]), name="t")),
    "Pad": (f32(0.3), lambda b, x: b.op("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), name="t")),
    "Div": (CHANNELS, lambda b, x: b.op("Div", x, np.abs(array(6)) + 1, name="t")),
}  # fmt: skip


@pytest.mark.parametrize("case", FIRES)
def test_moves_past(case):
    scale, consumer = FIRES[case]
    b = Build(x=("N", 4, 6, 6))
    model = b.model(b.op("Identity", consumer(b, b.op("Mul", b.inputs[0], scale, name="scale"))))
    outcome = apply(move_scales, model)
    assert outcome.changed and producer_chain(model.graph.outputs[0])[:2] in (["Identity", "Mul"], ["Mul", "Identity"])
    again = apply(move_scales, model)
    assert not again.changed


DECLINES = {
    "K": (np.repeat(np.array([1, 2, 4], f32), 2), lambda b, x: b.op("MatMul", x, array(6, 3), name="fc1"),
          "scale of `fc1` not moved past MatMul: it varies along K (3 groups)"),
    "K channels": (np.arange(1, 7, dtype=f32), lambda b, x: b.op("MatMul", x, array(6, 3), name="fc1"),
                   "it varies along K (6 channels)"),
    "odd": (f32(0.3), lambda b, x: b.op("MatMul", x, array(6, 3), name="fc1"), "it is not a power of two"),
    "input channels": (CHANNELS, lambda b, x: b.op("Conv", x, array(5, 4, 3, 3), name="c"),
                       "it varies along the input channels it sums over (4 channels)"),
    "bias": (f32(2), lambda b, x: b.op("Conv", x, array(5, 4, 3, 3), array(5), name="c"), "run extract_conv_bias"),
    "pixels": (np.array([1, 2, 1, 2, 1, 2], f32), lambda b, x: b.op("MaxPool", x, name="p", kernel_shape=[2, 2]),
               "it varies between pixels"),
    "negative": (-CHANNELS, lambda b, x: b.op("Relu", x, name="r"), "not positive"),
    "negative sum": (f32(-2), lambda b, x: b.op("Add", x, array(4, 1, 1), name="bias"), "it is negative, so sums"),
    "negative product": (f32(-2), lambda b, x: b.op("MatMul", x, array(6, 3), name="fc"), "it is negative, so sums"),
    "negative Conv": (-CHANNELS, lambda b, x: b.op("Conv", x, array(4, 1, 1, 1), name="c", group=4), "it is negative"),
    "negative average": (f32(-1), lambda b, x: b.op("GlobalAveragePool", x, name="a"), "it is negative, so averages"),
    "negative Pad": (f32(-0.3), lambda b, x: b.op("Pad", x, np.array([0, 0, 0, 1, 0, 0, 0, 0]), name="p"), "-0 or NaN"),
    "odd sum": (ODD, lambda b, x: b.op("Add", x, array(4, 1, 1), name="bias"), "it is not a power of two"),
    "Softmax": (f32(0.25), lambda b, x: b.op("Softmax", x, name="s"), "what it computes does not scale along"),
    "clip": (CHANNELS, lambda b, x: b.op("Clip", x, f32(0), f32(6), name="c"), "its bounds are single values"),
    "reduced": (CHANNELS, lambda b, x: b.op("ReduceMean", x, np.array([1]), name="m"), "axis 1, which is reduced"),
    "padding": (f32(2), lambda b, x: b.op("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), f32(1), name="p"),
                "it pads with a value other than 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINES)
def test_declines(case):
    scale, consumer, reason = DECLINES[case]
    b = Build(x=("N", 4, 6, 6))
    model = b.model(consumer(b, b.op("Mul", b.inputs[0], scale, name="scale")))
    outcome = apply(move_scales, model)
    assert not outcome.changed
    assert outcome.declined[0][0] == "scale" and reason in outcome.declined[0][1]


def test_both_operands_of_a_residual_sum_carry_the_scale():
    b = Build(x=(2, 4), y=(2, 4))
    x, y = (b.op("Mul", v, f32(0.5)) for v in b.inputs)
    model = b.model(b.op("Add", x, y))
    assert len(apply(move_scales, model).changed) == 2
    assert op_types(model) == ["Add", "Mul"]


def test_different_scales_stay_in_front_of_a_sum():
    b = Build(x=(2, 4), y=(2, 4))
    model = b.model(b.op("Add", b.op("Mul", b.inputs[0], f32(0.5)), b.op("Mul", b.inputs[1], f32(2)), name="add"))
    outcome = apply(move_scales, model)
    assert not outcome.changed and "different scales" in outcome.declined[0][1]


def test_concat_joins_scales_of_any_value():
    b = Build(x=("N", 2, 3), y=("N", 3, 3))
    scales = f32(0.3), np.array([1.5, 2.5, 3.5], f32).reshape(1, 3, 1)
    model = b.model(b.op("Concat", *(b.op("Mul", v, s) for v, s in zip(b.inputs, scales, strict=True)), axis=1))
    assert len(apply(move_scales, model).changed) == 2
    assert op_types(model) == ["Concat", "Mul"]


def test_a_fork_takes_the_scale_into_every_branch():
    b = Build(x=("N", 4))
    x = b.op("Mul", b.inputs[0], f32(0.5), name="scale")
    model = b.model(b.op("Relu", x), b.op("Neg", x))
    assert len(apply(move_scales, model).changed) == 2
    assert sorted(op_types(model)) == ["Mul", "Mul", "Neg", "Relu"]


def test_a_fork_with_a_branch_that_keeps_the_scale_is_left_alone():
    b = Build(x=("N", 4))
    x = b.op("Mul", b.inputs[0], f32(0.5), name="scale")
    model = b.model(b.op("Relu", x, name="relu"), b.op("Softmax", x, name="softmax"))
    outcome = apply(move_scales, model)
    assert not outcome.changed
    assert any("it also feeds `softmax` (Softmax), which keeps it" in reason for _, reason in outcome.declined)


def test_a_whole_block_ends_with_one_scale():
    b = Build(x=("N", 4, 6, 6))
    x = b.op("Mul", b.inputs[0], f32(0.5))
    y = b.op("Add", b.op("Conv", x, array(4, 4, 3, 3), pads=[1, 1, 1, 1]), array(4, 1, 1))
    x = b.op("Mul", b.op("MaxPool", b.op("Relu", b.op("Add", y, x)), kernel_shape=[2, 2]), f32(4))
    model = b.model(b.op("MatMul", b.op("Flatten", x), array(100, 3)))
    apply(move_scales, model)
    assert op_types(model).count("Mul") == 1 and op_types(model)[-1] == "Mul"
    assert not apply(move_scales, model).changed


def test_a_subgraph_keeps_the_scale_of_the_outer_graph():
    b = Build(x=(2, 4))
    x = b.op("Mul", b.inputs[0], f32(0.5), name="scale")
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        node = ir.node(op, [x], name=name)
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, x.type, ir.Shape((2, 4))
        branches[name] = ir.Graph([], node.outputs, nodes=[node], name=name)
    model = b.model(b.op("If", np.array(True), name="if", **branches))
    assert not apply(move_scales, model).changed


@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "mxfp4_e2m1", "mxint8"])
def test_a_power_of_two_passes_a_quantizer_that_finds_its_scale(fmt):
    b = Build(x=("N", 40))
    x = b.quant(b.op("Mul", b.inputs[0], f32(0.125), name="scale"), fmt, 1, "q")
    model = b.model(b.op("MatMul", x, array(40, 3)), b.op("Relu", x))
    assert len(apply(move_scales, model).changed) == 3
    assert producer_chain(model.graph.outputs[0])[0] == producer_chain(model.graph.outputs[1])[0] == "Mul"
    assert [n.name for n in model.graph if n.domain] == ["q_scale", "q"]
    assert not apply(move_scales, model).changed


@pytest.mark.parametrize("scale", [f32(0.3), f32(-2), np.exp2(np.arange(40)).astype(f32)])
def test_other_factors_stay_in_front_of_a_quantizer(scale):
    b = Build(x=("N", 40))
    model = b.model(b.quant(b.op("Mul", b.inputs[0], scale, name="scale"), "mxint8", 1, "q"))
    outcome = apply(move_scales, model)
    assert not outcome.changed and "its codes would change" in outcome.declined[0][1]


def test_a_calibrated_or_constant_scale_does_not_follow():
    b = Build(x=(2, 40))
    x = b.op("Mul", b.inputs[0], f32(0.5), name="scale")
    known, found = b.quant(x, "mxint8", 1, "a", b.const(np.ones((2, 2), f32))), b.quant(x, "mxint8", 1, "b")
    found.producer().inputs[1].producer().attributes["code_max"] = ir.AttrInt64("code_max", 130)
    outcome = apply(move_scales, b.model(known, found))
    assert not outcome.changed
    assert ["constant" in reason for _, reason in outcome.declined] == [True, False]
    assert "calibrated to a range" in outcome.declined[1][1]


STEPS = [
    lambda b, x: b.op("Relu", x),
    lambda b, x: b.op("Mul", x, f32(0.5)),
    lambda b, x: b.op("Mul", x, per_channel([0.25, 1, 2, 8])),
    lambda b, x: b.op("Mul", x, ODD),
    lambda b, x: b.op("Add", x, per_channel([0.25, 1, 2, -8])),
    lambda b, x: b.op("Conv", x, np.ones((4, 4, 1, 1), f32) / 4 + np.eye(4, dtype=f32)[..., None, None]),
    lambda b, x: b.op("Conv", x, np.ones((4, 1, 3, 3), f32) / 8, group=4, pads=[1, 1, 1, 1]),
    lambda b, x: b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    lambda b, x: b.op("Transpose", x, perm=[0, 1, 3, 2]),
    lambda b, x: b.op("MatMul", x, np.ones((6, 6), f32) - 2 * np.eye(6, dtype=f32)),
    lambda b, x: b.op("Clip", x, f32(0), f32(6)),
    lambda b, x: b.op("Add", x, b.op("Relu", x)),
    lambda b, x: b.op("Add", b.op("Mul", x, f32(2)), b.op("Mul", b.op("Neg", x), f32(2))),
    lambda b, x: b.op("Sub", x, b.inputs[0]),
    lambda b, x: b.quant(x, "mxint8", 1, f"q{b.count}"),
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(STEPS) - 1), min_size=2, max_size=9), st.integers(0, 3))
def test_any_graph_keeps_its_bits(steps, seed):
    b = Build(x=("N", 4, 6, 6))
    x = b.inputs[0]
    for step in steps:
        x = STEPS[step](b, x)
    model = b.model(x)
    for _ in range(4):
        changed = apply(move_scales, model, seed).changed
        if not changed:
            break
    assert not changed


@pytest.mark.parametrize("size", [200, 400])
def test_one_sweep_does_work_in_proportion_to_the_nodes(size):
    b = Build(x=(2, 4))
    x = b.inputs[0]
    for i in range(size):
        x = b.op("Relu", b.op("Mul", x, f32(0.5 if i % 2 else 2)))
    model = b.model(x)
    outcome = move_scales(model)
    assert len(outcome.changed) <= 2 * size and op_types(model).count("Mul") == 1
