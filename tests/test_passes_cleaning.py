"""Every cleaning pass: fires (and is idempotent and keeps the bits it promises), declines with its reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.errors import OptionError
from mxexport.model import graph
from mxexport.model.editing import new_initializer
from mxexport.passes import (
    deduplicate_initializers,
    extract_conv_bias,
    fix_shapes,
    fold_constants,
    fold_weight_transposes,
    infer_shapes,
    lower_batch_norm,
    name_nodes,
    remove_constant_inputs,
    remove_dead_nodes,
    remove_identities,
    split_gemm,
    unify_qonnx_domains,
)
from mxexport.running.execution import execute
from tests.helpers import assert_equal_bits
from tests.pass_helpers import declines, fires, model, op_types, silent

RNG = np.random.default_rng(0)
QUANT = "axis=1, group_size=32, bit_width=4, signed=1, narrow=1"
IF = """y = If(c) <
  then_branch = a () => (float[2,4] t) { t1 = Identity(x)  t = Relu(t1) },
  else_branch = b () => (float[2,4] e) { e1 = Neg(x)  e = Identity(e1) }>"""


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def scales(*shape):
    return np.exp2(RNG.integers(-3, 2, shape)).astype(np.float32)


# --- fold_constants -------------------------------------------------------------------------------------------


def test_fold_constants_computes_a_region_at_once():
    made = fires(
        fold_constants,
        model("c = Constant<value = float[4] {1,2,3,4}>()  d = Neg(c)  e = Mul(d, w)  y = Add(x, e)", w=normal(4)),
    )
    assert op_types(made) == ["Add"]
    assert set(made.graph.initializers) == {"e", "w"}


@pytest.mark.parametrize("offset", [0, 4, 16])
def test_fold_constants_sums_alike_wherever_an_array_lies(offset):
    """Weight standardization: a mean of every filter, whose sum onnxruntime starts at a boundary of memory."""
    room = np.empty(64 * 577 * 4 + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    weight = room[start : start + 64 * 576 * 4].view(np.float32).reshape(64, 576)
    weight[...] = normal(64, 576)
    axes = np.array([1], np.int64)
    made = fires(fold_constants, model("m = ReduceMean(w, a)  y = Add(x, m)", "float[64,1] x", w=weight, a=axes))
    assert op_types(made) == ["Add"]


def test_fold_constants_leaves_what_makes_nothing():
    made = model("y = Neg(x)")
    made.graph.insert_before(
        made.graph[0], ir.node("Neg", [new_initializer(made.graph, "w", normal(4))], num_outputs=0)
    )
    silent(fold_constants, made)


def test_fold_constants_takes_shapes_and_our_scales():
    body = """s = Shape(x)  r = Reshape(x, s)  m = mxexport.ops.MXScale
      <axis=1, group_size=32, emax=0, round_bias=0, frac_bits=6, code_min=0, code_max=254>(w)
      q = mxexport.ops.GroupwiseQuant<axis=1, group_size=32, bit_width=8, signed=1, narrow=1>(w, m)  y = MatMul(r, q)"""
    made = fires(fold_constants, model(body, w=normal(4, 4)))
    assert op_types(made) == ["Reshape", "GroupwiseQuant", "MatMul"]
    assert made.graph.initializers["m"].const_value.shape == (4, 1)


@pytest.mark.parametrize(
    "quantizer",
    [
        f"mxexport.ops.GroupwiseQuant<{QUANT}>(w, s)",
        "mxexport.ops.MXFloatQuant<axis=1, group_size=32, exponent_bits=2, mantissa_bits=1, exponent_bias=1, "
        "max_val=6.0, signed=1, signed_zero=1>(w, s)",
        'qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">(w, one, zero, bits)',
        "qonnx.custom_op.general.BipolarQuant(w, one)",
        "qonnx.custom_op.general.Trunc(w, one, zero, bits, one, bits)",
        "DequantizeLinear(codes, one)",
    ],
)
def test_fold_constants_never_swallows_a_quantizer(quantizer):
    constants = {"one": np.float32(1), "zero": np.float32(0), "bits": np.float32(4), "codes": np.ones((4, 4), np.int8)}
    used = {name: array for name, array in constants.items() if name in quantizer}
    used |= {"w": normal(4, 4)} if "(w" in quantizer else {}
    used |= {"s": scales(4, 1)} if ", s)" in quantizer else {}
    silent(fold_constants, model(f"q = {quantizer}  y = MatMul(x, q)", **used))


def test_fold_constants_declines_what_would_outgrow_its_source():
    made = model("e = Expand(c, s)  y = Mul(x, e)", outputs="float[1024,1024] y", c=normal(1), s=np.array([1024, 1024]))
    declines(fold_constants, made, "the size of its result is not known")
    infer_shapes(made)
    declines(fold_constants, made, "4,194,304 bytes")


def test_fold_constants_declines_graph_outputs_and_random_nodes():
    made = model(
        "y = Neg(c)  r = RandomNormal<shape=[2]>()  z = Add(r, x)", "float[2] x", "float[2] y, float[2] z", c=normal(2)
    )
    declines(fold_constants, made, "graph output 'y'")
    declines(fold_constants, made, "other values each time")


def test_fold_constants_works_in_subgraphs():
    body = """y = If(c) <then_branch = a () => (float[2,4] t) { k = Neg(w)  t = Add(x, k) },
      else_branch = b () => (float[2,4] e) { e = Neg(x) }>"""
    made = fires(fold_constants, model(body, "float[2,4] x, bool c", w=normal(4)))
    assert [n.op_type for n in made.graph[0].attributes["then_branch"].as_graph()] == ["Add"]


def test_fold_constants_leaves_overridable_initializers():
    made = model("n = Neg(w)  y = Add(x, n)", w=normal(4))
    made.graph.inputs.append(made.graph.initializers["w"])
    silent(fold_constants, made)


# --- infer_shapes ---------------------------------------------------------------------------------------------


def test_infer_shapes_goes_through_our_operators():
    body = f"""s = mxexport.ops.MXScale<axis=1, group_size=32, emax=0, round_bias=0, frac_bits=6, code_min=0,
      code_max=254>(x)  q = mxexport.ops.GroupwiseQuant<{QUANT}>(x, s)  y = MatMul(q, w)"""
    made = fires(infer_shapes, model(body, "float[2,40] x", "float[2,8] y", w=normal(40, 8)))
    shapes = {v.name: v.shape for n in made.graph for v in n.outputs}
    assert shapes["s"] == (2, 2) and shapes["q"] == (2, 40)


def test_infer_shapes_goes_through_qonnx_operators_and_subgraphs():
    body = "t = qonnx.custom_op.general.Trunc(x, a, b, c, a, c)  y = Relu(t)"
    made = model(body, a=np.float32(1), b=np.float32(0), c=np.float32(8))
    assert infer_shapes(made).modified and made.graph[0].outputs[0].shape == (2, 4)
    made = fires(infer_shapes, model(IF, "float[2,4] x, bool c"))
    assert next(iter(made.graph[0].attributes["then_branch"].as_graph())).outputs[0].shape == (2, 4)


def test_infer_shapes_names_a_contradiction():
    made = model("t = Relu(x)  y = Neg(t)")
    made.graph[0].outputs[0].shape = ir.Shape((3, 4))
    declines(infer_shapes, _settled(made), "the file gives 't' the shape")


def _settled(made):
    made.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    infer_shapes(made)
    return made


# --- remove_identities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        "Identity(r)",
        "Dropout(r)",
        "Cast<to=1>(r)",
        "Transpose<perm=[0,1]>(r)",
        "Reshape(r, shape)",
        "Flatten(r)",
        "Expand(r, shape)",
        "Tile(r, ones)",
        "Pad(r, pads)",
        "Slice(r, starts, ends)",
        "Concat<axis=0>(r)",
        "Mul(r, one)",
        "Div(r, one)",
        "Where(none, one, r)",
        "Where(all, r, one)",
    ],
)
def test_remove_identities_fires(node):
    constants = {
        "none": np.zeros((4,), bool), "all": np.ones((2, 1), bool),
        "shape": np.array([2, 4]), "ones": np.array([1, 1]), "pads": np.zeros(4, np.int64), "one": np.float32(1),
        "starts": np.array([0, 0]), "ends": np.array([2, 2**40]),
    }  # fmt: skip
    used = {
        name: array
        for name, array in constants.items()
        if name in node.replace("ones", "" if "ones)" not in node else "ones")
    }
    made = model(f"r = Relu(x)  i = {node}  y = Neg(i)", **used)
    infer_shapes(made)
    assert op_types(fires(remove_identities, made)) == ["Relu", "Neg"]


@pytest.mark.parametrize(
    "node",
    [
        "Cast<to=7>(r)",
        "Transpose(r)",
        "Reshape(r, shape)",
        "Pad(r, pads)",
        "Mul(r, wide)",
        "Add(r, zero)",
        "Slice(r, a, b)",
        "Where(some, zero, r)",
        "Where(none, wide, r)",
        "Where(all, zero, r)",
    ],
)
def test_remove_identities_leaves_what_changes_something(node):
    constants = {
        "shape": np.array([4, 2]), "pads": np.array([0, 0, 0, 1]), "wide": np.ones((3, 1, 1), np.float32),
        "zero": np.float32(0), "a": np.array([1, 0]), "b": np.array([2, 4]),
        "some": np.eye(2, 4) > 0, "none": np.zeros((3, 1, 1), bool), "all": np.ones((2, 4), bool),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if f", {name}" in node or f"({name}" in node}
    made = model(f"r = Relu(x)  i = {node}  y = Neg(i)", outputs="y", **used)
    infer_shapes(made)
    assert not remove_identities(made).modified


def test_remove_identities_keeps_names_of_outputs_and_forks():
    made = fires(
        remove_identities, model("r = Relu(x)  y = Identity(r)  z = Neg(r)", outputs="float[2,4] y, float[2,4] z")
    )
    assert op_types(made) == ["Relu", "Neg"] and [v.name for v in made.graph.outputs] == ["y", "z"]


def test_remove_identities_works_in_subgraphs():
    made = fires(remove_identities, model(IF, "float[2,4] x, bool c"))
    assert [n.op_type for n in made.graph[0].attributes["else_branch"].as_graph()] == ["Neg"]


def test_remove_identities_declines_an_input_that_is_an_output():
    declines(remove_identities, model("y = Identity(x)"), "graph output 'y' from an input")
    two = model("r = Relu(x)  y = Identity(r)  z = Identity(r)", outputs="float[2,4] y, float[2,4] z")
    assert op_types(fires(remove_identities, two)) == ["Relu", "Identity"]
    declines(
        remove_identities, model("y = Dropout(x, r, t)", "float[2,4] x, bool t", r=np.float32(0.5)), "training_mode"
    )


# --- remove_dead_nodes, remove_constant_inputs ----------------------------------------------------------------


def test_remove_dead_nodes():
    made = fires(remove_dead_nodes, model("a = Neg(x)  b = Add(a, w)  y = Relu(x)", w=normal(4)))
    assert op_types(made) == ["Relu"] and not made.graph.initializers
    silent(remove_dead_nodes, model("a = Neg(x)  y = Relu(a)"))


def test_remove_dead_nodes_keeps_what_a_subgraph_reads_and_drops_uncalled_functions():
    body = """a = Neg(x)  y = If(c) <then_branch = t () => (float[2,4] o) { o = Relu(a)  p = Abs(a) },
      else_branch = e () => (float[2,4] q) { q = Abs(x) }>"""
    made = model(body, "float[2,4] x, bool c")
    quantized = model(f"q = mxexport.ops.GroupwiseQuant<{QUANT}>(x, s)  y = Relu(q)", s=scales(2, 1))
    graph.attach_functions(quantized)
    made.functions.update(quantized.functions)
    made = fires(remove_dead_nodes, made)
    assert op_types(made) == ["Neg", "If"] and not made.functions
    assert len(made.graph[1].attributes["then_branch"].as_graph()) == 1
    silent(remove_dead_nodes, quantized)


def test_remove_constant_inputs():
    made = model("y = Add(x, w)", w=normal(4))
    made.graph.inputs.append(made.graph.initializers["w"])
    assert [v.name for v in fires(remove_constant_inputs, made).graph.inputs] == ["x"]
    silent(remove_constant_inputs, model("y = Add(x, w)", w=normal(4)))


# --- split_gemm, fold_weight_transposes -----------------------------------------------------------------------


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 0.25), (1.0, 0.0)])
def test_split_gemm(trans_a, trans_b, alpha, beta):
    body = f"[fc] y = Gemm<transA={trans_a}, transB={trans_b}, alpha={alpha}, beta={beta}>(x, w, b)"
    w = normal(3, 4) if trans_b else normal(4, 3)
    made = fires(
        split_gemm, model(body, "float[4,2] x" if trans_a else "float[2,4] x", "float[2,3] y", w=w, b=normal(3))
    )
    assert {n.op_type for n in made.graph} <= {"MatMul", "Add", "Transpose", "Mul"} and made.graph.outputs[
        0
    ].name == "y"
    assert "fc" in [n.name for n in made.graph]


def test_split_gemm_declines_integer_factors():
    made = model("y = Gemm<alpha=2.0>(x, w)", "int32[2,4] x", "int32[2,4] y", w=np.ones((4, 4), np.int32))
    declines(split_gemm, made, "expected a float type")
    silent(split_gemm, model("y = MatMul(x, w)", w=normal(4, 4)))


def _transposed_weight(**changes):
    parts = {"quant": f"mxexport.ops.GroupwiseQuant<{QUANT}>(w, s)", "rest": ""} | changes
    body = f"[q] q = {parts['quant']}  t = Transpose<perm=[1,0]>(q)  y = MatMul(x, t) {parts['rest']}"
    return body


def test_fold_weight_transposes_swaps_axis_and_scale():
    made = fires(
        fold_weight_transposes,
        model(_transposed_weight(), "float[2,70] x", "float[2,5] y", w=normal(5, 70), s=scales(5, 3)),
    )
    node = made.graph[0]
    assert op_types(made) == ["GroupwiseQuant", "MatMul"] and node.attributes["axis"].value == 0
    assert made.graph.initializers["w"].const_value.shape == (70, 5)
    assert made.graph.initializers["s_transposed"].const_value.shape == (3, 5)


def test_fold_weight_transposes_takes_qonnx_quant_and_any_permutation():
    quant = 'qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">(w, s, z, b)'
    made = model(
        f"q = {quant}  t = Transpose<perm=[2,0,1]>(q)  y = Add(x, t)", "float[4,2,3] x", "float[4,2,3] y",
        w=normal(2, 3, 4), s=scales(3, 1), z=np.float32(0), b=np.float32(4),
    )  # fmt: skip
    assert op_types(fires(fold_weight_transposes, made)) == ["Quant", "Add"]


def test_fold_weight_transposes_leaves_a_shared_scale_to_others():
    body = f"{_transposed_weight()} q2 = mxexport.ops.GroupwiseQuant<{QUANT}>(v, s)  z = MatMul(q2, u)"
    made = model(
        body,
        "float[2,70] x, float[70,2] u",
        "float[2,5] y, float[5,2] z",
        w=normal(5, 70),
        v=normal(5, 70),
        s=scales(5, 3),
    )
    made = fires(fold_weight_transposes, made)
    assert made.graph.initializers["s"].const_value.shape == (5, 3)


def test_fold_weight_transposes_declines():
    both = model(
        _transposed_weight(rest="z = MatMul(u, q)"), "float[2,70] x, float[2,5] u", "float[2,5] y, float[2,70] z",
        w=normal(5, 70), s=scales(5, 3),
    )  # fmt: skip
    declines(fold_weight_transposes, both, "used untransposed, too")
    tied = model(
        _transposed_weight(rest="z = Neg(w)"),
        "float[2,70] x",
        "float[2,5] y, float[5,70] z",
        w=normal(5, 70),
        s=scales(5, 3),
    )
    declines(fold_weight_transposes, tied, "stored twice")
    computed = model(_transposed_weight(), "float[2,70] x, float[5,3] s", "float[2,5] y", w=normal(5, 70))
    declines(fold_weight_transposes, computed, "computed at run time")


# --- extract_conv_bias, lower_batch_norm ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_extract_conv_bias(kind):
    made = model(f"[c] y = {kind}(x, w, b)", "float[2,3,5,5] x", "y", w=normal(3, 3, 1, 1), b=normal(3))
    assert op_types(fires(extract_conv_bias, made)) == [kind, "Add"] and made.graph.outputs[0].name == "y"
    silent(extract_conv_bias, model("y = Conv(x, w)", "float[2,3,5,5] x", "y", w=normal(3, 3, 1, 1)))


def test_extract_conv_bias_reshapes_a_quantized_bias():
    body = f"q = mxexport.ops.GroupwiseQuant<{QUANT.replace('axis=1', 'axis=0')}>(b, s)  y = Conv(x, w, q)"
    made = model(body, "float[2,3,5,5] x", "y", w=normal(4, 3, 3, 3), b=normal(4), s=scales(1))
    assert op_types(fires(extract_conv_bias, made)) == ["GroupwiseQuant", "Reshape", "Conv", "Add"]


def test_extract_conv_bias_declines_an_unknown_rank():
    made = model("y = Conv(x, w, b)", "float x, float w, float[3] b", "y")
    for value in made.graph.inputs:
        value.shape = None
    declines(extract_conv_bias, made, "infer shapes first")


BATCH_NORM = "[bn] y = BatchNormalization<epsilon=0.001>(x, s, b, m, v)"


def _statistics(n: int) -> dict:
    return {"s": normal(n), "b": normal(n), "m": normal(n), "v": np.abs(normal(n)) + np.float32(0.1)}


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_lower_batch_norm(shape):
    sizes = ",".join(map(str, shape))
    made = fires(lower_batch_norm, model(BATCH_NORM, f"float[{sizes}] x", f"float[{sizes}] y", **_statistics(3)))
    assert op_types(made) == ["Mul", "Add"]


def test_lower_batch_norm_rounds_as_the_kernel_does():
    """Bit for bit; a processor that fuses multiply-add in that kernel rounds once less, from the same constants."""
    x = normal(3, 64, 9) * 3
    before = model(BATCH_NORM, "float[3,64,9] x", "float[3,64,9] y", **_statistics(64))
    after = before.clone()
    lower_batch_norm(after)
    expected, found = (execute(made, {"x": x})["y"] for made in (before, after))
    factor, offset = (after.graph.initializers[f"bn.{name}"].const_value.numpy() for name in ("factor", "offset"))
    fused = (x.astype(np.float64) * factor + offset).astype(np.float32)
    assert any(np.array_equal(expected, y) for y in (found, fused))


def test_lower_batch_norm_declines():
    statistics = _statistics(3)
    mean = statistics.pop("m")
    declines(
        lower_batch_norm, model(BATCH_NORM, "float[2,3] x, float[3] m", "float[2,3] y", **statistics), "not a constant"
    )
    training = BATCH_NORM.replace("epsilon=0.001", "training_mode=1")
    declines(lower_batch_norm, model(training, "float[2,3] x", "float[2,3] y", m=mean, **statistics), "training mode")
    statistics["v"] = -np.ones(3, np.float32)
    declines(lower_batch_norm, model(BATCH_NORM, "float[2,3] x", "float[2,3] y", m=mean, **statistics), "not positive")


# --- names, shapes, duplicates, domains -----------------------------------------------------------------------


def test_name_nodes():
    body = "[a] p = Relu(x)  [a] q = Neg(p)  r = MatMul(q, fc1.weight)  s = LeakyRelu(r)  y = LeakyRelu(s)"
    made = model(body.replace("fc1.weight", "w"), w=normal(4, 4))
    made.graph.initializers["w"].name = "fc1.weight"
    made = fires(name_nodes, made)
    assert [n.name for n in made.graph] == ["a", "a_1", "fc1", "leaky_relu", "leaky_relu_1"]
    silent(name_nodes, made)


def test_fix_shapes_by_dimension_and_by_input():
    def fresh():
        return model("t = Relu(x)  y = Add(t, u)", "float[batch,4] x, float[batch,4] u", "float[batch,4] y")

    for shapes in ({"batch": 3}, {"x": (3, 4)}):
        made = fresh()
        assert fix_shapes(made, shapes).modified and not fix_shapes(made, {"x": (3, 4)}).modified
        infer_shapes(made)
        assert [v.shape for v in (*made.graph.inputs, *made.graph.outputs)] == [(3, 4)] * 3
    for shapes, message in (
        ({"bach": 1}, "neither an input nor an open dimension; expected one of 'batch', 'u', 'x'"),
        ({"x": (1, 5)}, "does not fit"),
        ({"x": 1}, "needs a whole shape"),
        ({"batch": 0}, "sizes of 1 or more"),
        ({"batch": 1, "x": (2, 4)}, "given as 1 and as 2"),
    ):
        with pytest.raises(OptionError, match=message):
            fix_shapes(fresh(), shapes)


def test_deduplicate_initializers():
    w = normal(4)
    made = fires(
        deduplicate_initializers,
        model(
            "a = Add(x, u)  b = Add(a, v)  c = Add(b, t)  y = Add(c, k)",
            u=w,
            v=w.copy(),
            t=w + 1,
            k=w.astype(np.float32)[None],
        ),
    )
    assert set(made.graph.initializers) == {"u", "t", "k"}
    different = np.array([0.0, -0.0, 1, np.nan], np.float32)
    silent(deduplicate_initializers, model("a = Add(x, u)  y = Add(a, v)", u=different, v=np.abs(different)))


def test_equal_initializers_of_one_node_stay_two():
    """qonnx's renaming finds only the first place in which a node reads a tensor."""
    silent(deduplicate_initializers, model("y = Clip(x, low, high)", low=np.float32(1), high=np.float32(1)))


def test_unify_qonnx_domains():
    made = model("q = onnx.brevitas.BipolarQuant(x, s)  y = Relu(q)", s=np.float32(1))
    made.graph.opset_imports["onnx.brevitas"] = 1
    assert unify_qonnx_domains(made).modified and made.graph[0].domain == "qonnx.custom_op.general"
    silent(unify_qonnx_domains, made)


def test_folded_transposes_are_the_same_quantized_values():
    w, s = normal(5, 70), scales(5, 3)
    made = model(_transposed_weight(), "float[2,70] x", "float[2,5] y", w=w, s=s)
    fold_weight_transposes(made)
    from mxexport.ops import GroupwiseQuant

    attributes = {"group_size": 32, "bit_width": 4, "signed": 1, "narrow": 1}
    (before,) = GroupwiseQuant.reference(w, s, axis=1, **attributes)
    (after,) = GroupwiseQuant.reference(
        *(v.const_value.numpy() for v in made.graph[0].inputs), **graph.attributes(made.graph[0])
    )
    assert_equal_bits(after, np.ascontiguousarray(before.T))
