"""`check_finn` names the node, what was found, what FINN expects and the way out, for every condition it holds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.targets.finn_check import check_finn
from tests import pass_helpers
from tests.pass_helpers import model

Q = "qonnx.custom_op.general.Quant"
OURS = "mxexport.ops.GroupwiseQuant<axis=0, group_size=32, bit_width=4, signed=1, narrow=1>"
INPUT = f"[in] q = {Q}<signed=1, narrow=1>(x, step, zero, four)"
WEIGHT = f"[w] qw = {Q}<signed=1, narrow=1>(w, per_column, zero, four)"
FILTERS = f"[f] qf = {Q}<signed=1, narrow=1>(f, step, zero, four)"
ARRAYS = pass_helpers.ARRAYS | {
    "f": np.ones((3, 2, 1, 1), np.float32), "nine": np.float32(9), "half": np.float32(4.5),
    "per_column": np.array([[0.5, 1, 2]], np.float32), "per_row": np.array([[0.5], [1], [2], [4]], np.float32),
    "per_input": np.array([1, 2, 4, 8], np.float32), "ones": np.ones((1, 4), np.float32),
    "columns": np.array([0.5, 1, 2], np.float32),
    "short": np.ones(3, np.float16), "scale": np.ones((1, 3), np.float32),
}  # fmt: skip


def built(body: str, inputs: str = "float[2,4] x", outputs: str = "float[2,3] y", opset: int = 17) -> ir.Model:
    made = model(body, inputs, outputs, table=ARRAYS)
    made.opset_imports[""] = opset
    return made


PRODUCT = f"{INPUT} {WEIGHT} [fc] m = MatMul(q, qw)"
GOOD = {
    "linear": f"{PRODUCT} [bias] y = Add(m, b)",
    "relu": f"""{INPUT} {WEIGHT} [fc] m = MatMul(q, qw) [relu] r = Relu(m)
      [out] y = {Q}<signed=0, narrow=0>(r, step, zero, four)""",
    "moved": f"{INPUT} {WEIGHT} [f] h = Flatten(q) [fc] y = MatMul(h, qw)",
}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_to_say(name):
    assert check_finn(built(GOOD[name])) == []


def activation(quant: str) -> str:
    return f"[in] q = {Q}{quant} {WEIGHT} [fc] y = MatMul(q, qw)"


def weight(quant: str) -> str:
    return f"{INPUT} [w] qw = {quant} [fc] y = MatMul(q, qw)"


NODES = {
    "operator of ours": (f"{INPUT} [w] qw = {OURS}(w, scale) [fc] y = MatMul(q, qw)", "w",
                         "does not know GroupwiseQuant of mxexport.ops, expected Quant; convert the file"),
    "other quantizer": ("[b] y = qonnx.custom_op.general.BipolarQuant(x, step)", "b",
                        "does not know BipolarQuant of qonnx.custom_op.general, expected Quant"),
    "no streaming unit": ("[s] y = Softmax(x)", "s", "no streaming unit for Softmax, expected one of Add, .*; end the"),
    "relu at the end": (f"{PRODUCT} [r] y = Relu(m)", "r",
                        "goes to the end of the model, expected Quant alone.*; quantize its output"),
    "relu into another operator": (f"{PRODUCT} [r] r = Relu(m) [bias] y = Add(r, b)", "r",
                                   "goes to Add, expected Quant alone"),
    "NaN in a bias": (f"{PRODUCT} [bias] y = Add(m, nan)", "bias",
                      "constant with NaN or Inf, expected finite numbers; repair"),
    "scale at run time": (f"[m] s = ReduceMax(x) {activation('<signed=1, narrow=1>(x, s, zero, four)')}", "in",
                          "its scale is found at run time, expected constants; use static scales"),
    "zero point and bits at run time": (f"[m] s = ReduceMax(x) {activation('(x, step, s, s)')}", "in",
                                        "its zero point, bit width is found at run time"),
    "left out": (activation("(x, step)"), "in", "its zero point, bit width is found at run time, expected constants"),
    "zero point": (activation("(x, step, four, four)"), "in", "zero point is 4, expected a single 0; quantize symm"),
    "zero points": (activation("(x, step, ones, four)"), "in", r"zero point is 1, 1, 1, \.\.\., expected a single 0"),
    "fraction of a bit": (activation("(x, step, zero, half)"), "in", "bit width is 4.5, expected one whole number"),
    "bits of channels": (activation("(x, step, zero, per_input)"), "in", r"bit width is 1, 2, 4, \.\.\., expected one"),
    "rounding": (activation('<rounding_mode="FLOOR">(x, step, zero, four)'), "in",
                 "rounding mode is FLOOR, expected ROUND, .*; train the model with that"),
    "two users": (f"{PRODUCT} [fc2] n = MatMul(q, qw) [bias] y = Add(m, n)", "w",
                  "for 2 nodes, expected one; give each layer a quantizer of its own"),
    "no weight": (f"{PRODUCT} [c] qb = {Q}(b, step, zero, four) [bias] y = Add(m, qb)", "c",
                  "a constant of Add 'bias', expected the weight of MatMul or Conv; store the quantized values"),
    "scale of rows": (weight(f"{Q}(w, per_row, zero, four)"), "w",
                      r"varies inside an output channel.*silently wrong: .* \(4, 1\), expected \(1, 3\).*; convert"),
    "scale of another rank": (weight(f"{Q}(w, columns, zero, four)"), "w",
                              r"scale has shape \(3,\), expected \(1, 3\), one per output channel; convert the file"),
    "scales of channels": (activation("(x, per_input, zero, four)"), "in",
                           "it has 4 scales, expected one per tensor.*; use scaling_per_output='tensor'"),
    "nine bits": (activation("(x, step, zero, nine)"), "in", "it has 9 bits, expected at most 8.*; use a narrower"),
    "signed behind a relu": (f"[r] r = Relu(x) {activation('<signed=1, narrow=1>(r, step, zero, four)')}", "in",
                             "it is signed and narrow behind a Relu, expected unsigned and not narrow; convert"),
    "unsigned": (activation("<signed=0, narrow=0>(x, step, zero, four)"), "in",
                 "unsigned without a Relu directly before it, expected signed; use a signed format"),
    "float weight": (f"{INPUT} [fc] y = MatMul(q, w)", "fc", "weight comes from tensor 'w', expected Quant.*; quant"),
    "float input": (f"{WEIGHT} [s] s = Mul(x, step) [fc] y = MatMul(s, qw)", "fc",
                    "its input comes from Mul 's', expected Quant.*; give the layer a static integer"),
}  # fmt: skip


def only(body: str, node: str, message: str, **options) -> None:
    import re

    found = check_finn(built(body, **options))
    assert any(where == node and re.search(message, why, re.S) for where, why in found), found


@pytest.mark.parametrize("name", NODES)
def test_node_is_named(name):
    only(*NODES[name])


def test_bias_inside_a_convolution():
    body = f"[in] q = {Q}<signed=1, narrow=1>(x, step, zero, four) {FILTERS} [conv] y = Conv(q, qf, b)"
    message = "it has a bias of its own, expected an Add behind it; convert the file"
    only(body, "conv", message, inputs="float[1,2,3,3] x", outputs="float[1,3,3,3] y")


def test_a_node_without_a_name_goes_by_its_operator():
    only("y = Softmax(x)", "Softmax", "no streaming unit")


def test_conditions_of_the_whole_file():
    message = "its opset is 22, expected at most 21.*; convert the file with to='finn'"
    only(GOOD["linear"], "model", message, opset=22)
    message = r"its shape \[n,4\] is open, expected a size for every dimension; give batch=1"
    only(GOOD["linear"], "x", message, inputs="float[n,4] x")
    only("[i] i = Add(b, short) y = Add(x, i)", "short", "its type is FLOAT16, expected float32.*; store it as float32")
    made = built(GOOD["linear"])
    made.graph.outputs[0].shape = None
    assert ("y", "its shape is not known, expected a size for every dimension; give batch=1") in check_finn(made)


def test_sequences_and_volumes_are_no_images():
    message = "its input has 1 spatial dimensions, expected 2.*; give the model images"
    body = f"{FILTERS} [conv] y = Conv(x, qf)"
    only(body, "conv", message, inputs="float[1,2,3] x", outputs="float[1,3,3] y")
    body = "[pool] y = MaxPool<kernel_shape=[1,1,1]>(x)"
    only(body, "pool", "its input has 3 spatial", inputs="float[1,2,3,3,3] x", outputs="float[1,2,3,3,3] y")


def test_two_ends():
    made = built(f"{INPUT} {WEIGHT} [fc] y = MatMul(q, qw) z = Add(y, b)", outputs="float[2,3] y, float[2,3] z")
    assert any("it has 2 outputs, expected one" in why for _, why in check_finn(made))
