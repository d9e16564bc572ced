"""fold_shapes: arithmetic on partly known shapes goes, exactly, for every size of what stays open."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.passes import PIPELINE, fix_shapes, fold_shapes, infer_shapes, run_passes
from tests.pass_helpers import declines, model, op_types, silent

SPLIT_HEADS = """
  s = Shape(x)  i0 = Constant<value_int=0>()  i1 = Constant<value_int=1>()  i2 = Constant<value_int=2>()
  b = Gather(s, i0)  t = Gather(s, i1)  c = Gather(s, i2)  four = Constant<value_int=4>()  d = Div(c, four)
  ax = Constant<value_ints=[0]>()  b1 = Unsqueeze(b, ax)  t1 = Unsqueeze(t, ax)  d1 = Unsqueeze(d, ax)
  h = Constant<value_ints=[4]>()  shape = Concat<axis=0>(b1, t1, h, d1)
  r = Relu(x)  heads = Reshape(r, shape)  y = Transpose<perm=[0, 2, 1, 3]>(heads)"""


def test_what_torch_leaves_for_a_dynamic_batch_goes():
    made = model(SPLIT_HEADS, "float[batch, seq, 64] x", "float[batch, 4, seq, 16] y")
    for batch, seq in ((3, 5), (0, 5), (1, 0)):  # without elements, too
        x = np.ones((batch, seq, 64), np.float32)
        record = run_passes(made, PIPELINE, verify={"x": x})
        assert op_types(record.model) == ["Relu", "Reshape", "Transpose"]
    shape = next(n for n in record.model.graph if n.op_type == "Reshape").inputs[1]
    assert shape.const_value.numpy().tolist() == [0, 0, 4, 16]


OPEN = {
    "one entry": ("g = Gather(s, i)  t = Concat<axis=0>(k, g, l)  y = Reshape(x, t)", "A, B, C", "[4, -1, 8]"),
    "beside -1": ("g = Slice(s, i, j)  t = Concat<axis=0>(g, m)  y = Reshape(x, t)", "A, B", "[0, -1]"),
}


@pytest.mark.parametrize("case", OPEN)
def test_entries_that_stay_open(case):
    body, dims, target = OPEN[case]
    arrays = {name: np.array([value]) for name, value in {"i": 0, "j": 1, "k": 4, "l": 8, "m": -1}.items()}
    made = model(f"s = Shape(x)  {body}", "float[N, 32] x", f"float[{dims}] y", **arrays)
    record = run_passes(made, PIPELINE, verify={"x": np.ones((3, 32), np.float32)})
    assert any(target in line for step in record.steps for line in step.changed)
    assert op_types(record.model) == ["Reshape"]


def test_a_copied_dimension_replaces_allowzero():
    body = "s = Shape(x)  g = Gather(s, i)  t = Concat<axis=0>(g, k)  y = Reshape<allowzero=1>(x, t)"
    made = model(body, "float[N, 32] x", "float[N, 4, 8] y", i=np.array([0]), k=np.array([4, 8]))
    for rows in (3, 0):
        record = run_passes(made, PIPELINE, verify={"x": np.ones((rows, 32), np.float32)})
        (node,) = record.model.graph
        assert node.inputs[1].const_value.numpy().tolist() == [0, 4, 8] and "allowzero" not in node.attributes


def test_dimensions_in_another_place_stay_computed():
    body = "s = Shape(x)  t = Gather(s, i)  r = Relu(x)  y = Reshape(r, t)"
    declines(
        fold_shapes, model(body, "float[N, M] x", "float[M, N] y", i=np.array([1, 0])), "no dimensions of its input"
    )


def test_a_known_entry_that_is_an_output_or_all_static_is_left_to_others():
    body = "s = Shape(x)  n = Gather(s, i)  y = Relu(x)"
    silent(fold_shapes, model(body, "float[N, 4] x", "float[N, 4] y, int64 n", i=np.array(1)))
    silent(fold_shapes, model(body + "  z = Neg(n)", "float[N, M] x", "float[N, M] y, int64 z", i=np.array(1)))


def test_inference_never_stores_names_that_onnx_made_up():
    body = "r = Relu(x)  a = Slice(r, k, e)  b = Slice(r, k, f)  y = Abs(b)  z = Abs(a)"
    made = model(body, "float[4, 4] x, int64[1] e, int64[1] f", "float y, float z", k=np.array([0]))
    infer_shapes(made)
    names = [str(d) for node in made.graph for v in node.outputs if v.shape is not None for d in v.shape]
    assert "None" in names and not any(name.startswith("unk") for name in names)
    named = model("y = Relu(x)  z = Abs(y)", "float[N, 4] x", "float[M, 4] y, float[unk__0, 4] z")
    infer_shapes(named)
    assert [str(v.shape[0]) for v in named.graph.outputs] == ["M", "N"]


def test_fixed_shapes_reach_what_inference_cannot_see():
    text = """<ir_version: 10, opset_import: ["" : 20, "local" : 1, "odd" : 1]>
      g (float[batch, 4] x) => (float[batch, 4] y, float[batch, rest] z) { y = local.f(x)  z = odd.Op(x) }
      <domain: "local", opset_import: ["" : 20]> f (v) => (r) { r = Relu(v) }"""
    made = ir.from_onnx_text(text)
    assert fix_shapes(made, {"batch": 3}).changed
    assert [str(v.shape) for v in made.graph.outputs] == ["[3,4]", "[3,rest]"]
