"""The reader of constants gives the bits onnxruntime computes, and None for what depends on an input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.errors import ShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.running import executors
from tests.helpers import assert_equal_bits, edge_values
from tests.pass_helpers import model

W = edge_values((16, 24))
QONNX = "qonnx.custom_op.general"
SCALE = "mxexport.ops.MXScale<axis=1, group_size=16, emax=2, round_bias=0, frac_bits=0, code_min=0, code_max=254>"
OURS = """mxexport.ops.MXFloatQuant<axis=1, group_size=16, exponent_bits=2, mantissa_bits=1, exponent_bias=1,
  max_val=6.0, signed=1, signed_zero=1>"""
ARRAYS = {
    "s": np.float32(0.3), "zero": np.float32(0), "four": np.float32(4), "three": np.float32(3), "two": np.float32(2),
    "most": np.float32(6), "per_column": np.exp2(np.arange(24) % 5, dtype=np.float32)[None],
}  # fmt: skip
CONSTANTS = {
    "quantizer of a scale found in the graph": f"s1 = {SCALE}(w) c = {OURS}(w, s1)",
    "Quant": f'c = {QONNX}.Quant<signed=1, narrow=0, rounding_mode="ROUND">(w, per_column, zero, four)',
    "Quant rounding down": f'c = {QONNX}.Quant<signed=1, narrow=0, rounding_mode="FLOOR">(w, s, zero, four)',
    "FloatQuant": f"""c = {QONNX}.FloatQuant<has_inf=0, has_nan=0, has_subnormal=1, saturation=1,
      rounding_mode="ROUND">(w, s, three, two, three, most)""",
    "BipolarQuant": f"c = {QONNX}.BipolarQuant(w, s)",
    "Cast to half precision and back": "h = Cast<to=10>(w) c = Cast<to=1>(h)",
    "Cast of whole numbers": "i = Cast<to=7>(per_column) c = Cast<to=1>(i)",
    "Transpose and Identity": "t = Transpose(w) i = Identity(t) c = Transpose<perm=[1, 0]>(i)",
    "Mul": "c = Mul(w, per_column)",
}


def of_constant(body: str, **arrays) -> ir.Model:
    return model(f"{body}  y = Add(x, c)", "float[16,24] x", "float[16,24] y", **arrays)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", CONSTANTS)
def test_equals_onnxruntime(kind):
    used = {name: a for name, a in (ARRAYS | {"w": W}).items() if name in CONSTANTS[kind]}
    made = of_constant(CONSTANTS[kind], **used)
    constant = next(n for n in made.graph if n.op_type == "Add").inputs[1]
    found = constant_array(constant)
    made.graph.outputs[:] = [constant]
    constant.type, constant.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(found.shape)
    graph.attach_functions(made)
    graph.attach_standard_functions(made)
    expected = executors.run(made, np.zeros((16, 24), np.float32))["c"]
    assert_equal_bits(found, np.broadcast_to(expected, found.shape), kind)


def test_what_depends_on_an_input_is_none():
    for body in ("c = Identity(x)", "t = Transpose(x) c = Transpose(t)", f"c = {QONNX}.BipolarQuant(x, s)",
                 f"s1 = {SCALE}(x) c = {OURS}(w, s1)", "c = Mul(x, w)"):  # fmt: skip
        made = of_constant(body, **{name: a for name, a in {"w": W, "s": ARRAYS["s"]}.items() if f"{name})" in body})
        assert constant_array(next(n for n in made.graph if n.op_type == "Add").inputs[1]) is None, body


def test_casts_without_one_meaning_are_none():
    nan = np.full((16, 24), np.nan, np.float32)
    made = of_constant("i = Cast<to=7>(w) c = Cast<to=1>(i)", w=nan)
    assert constant_array(next(n for n in made.graph if n.op_type == "Add").inputs[1]) is None


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("[t] c = Transpose<perm=[0, 2]>(w)", ShapeError, r"node 't' \(Transpose\): perm \[0, 2\].*\(16, 24\)"),
        ("[m] c = Mul(w, v)", ShapeError, r"node 'm' \(Mul\): shapes \(16, 24\) and \(5,\) do not fit"),
        (
            f"[q] c = {QONNX}.Quant(w, v, v, v)",
            UnsupportedError,
            r"'q' \(Quant\) cannot be.*\(16, 24\), \(5,\)",
        ),
        (f"[q] c = {QONNX}.FloatQuant(w, v)", UnsupportedError, r"'q' \(FloatQuant\) cannot be computed: .*missing"),
        (f"[q] c = {QONNX}.BipolarQuant(w, v)", UnsupportedError, r"'q' \(BipolarQuant\) cannot be computed: .*\(5,\)"),
        (f"[q] c = {OURS}(w, w)", ShapeError, r"node 'q': .*expected \(16, 2\)"),
    ],
)
def test_nodes_that_do_not_fit_are_named(body, kind, message):
    made = of_constant(body, w=W, v=np.ones(5, np.float32))
    with pytest.raises(kind, match=message):
        constant_array(next(n for n in made.graph if n.op_type == "Add").inputs[1])
