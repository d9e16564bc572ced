"""What hls4ml and FINN cannot take is refused by the node's name, with what was found, expected, and the way out."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.errors import UnsupportedError
from mxexport.model.opsets import lower_opset
from mxexport.passes import infer_shapes
from mxexport.running import executors
from mxexport.targets import finn, hls4ml
from tests import pass_helpers
from tests.pass_helpers import model

QONNX = "qonnx.custom_op.general"
Q = f'{QONNX}.Quant<signed=1, narrow=1, rounding_mode="ROUND">'
TRUNC = f'{QONNX}.Trunc<signed=1, narrow=0, rounding_mode="FLOOR">'
FLOAT = """mxexport.ops.MXFloatQuant<axis=1, group_size=32, exponent_bits=2, mantissa_bits=1, exponent_bias=1,
  max_val=6.0, signed=1, signed_zero=1>"""
INT = "mxexport.ops.GroupwiseQuant<axis=1, group_size=2, bit_width=4, signed=1, narrow=1>"
SCALE = "mxexport.ops.MXScale<axis=1, group_size=2, emax=0, round_bias=0, frac_bits=2, code_min=0, code_max=254>"
INPUT, WEIGHT = f"[in] q = {Q}(x, step, zero, four)", f"[w] qw = {Q}(w, step, zero, four)"
WIDE = np.full((4, 3), 2.0**100, np.float32)
WIDE[0] = 2.0**-100
ARRAYS = pass_helpers.ARRAYS | {
    "wide": WIDE, "vector": np.ones(4, np.float32), "inf": np.full((4, 3), np.inf, np.float32),
    "long": np.array([2.0**60, 0, 0.5], np.float32), "fine": np.array([2.0**60, 0, 2.0**-20], np.float32),
    "half": np.float32(0.25), "eight": np.float32(8), "third": np.float32(1 / 3), "infinite": np.float32(np.inf),
    "s": np.ones((2, 1), np.float32), "s2": np.ones((2, 2), np.float32),
    "mixed": np.array([[1, 2], [1, 2]], np.float32),
    "z2": np.full((2, 2), 3, np.float32), "bits": np.array([3, 4, 5, 6], np.float32),
}  # fmt: skip
BOTH = {"hls4ml": (hls4ml, "hls4ml multiplies"), "finn": (finn, "FINN multiplies")}


def built(body: str, inputs: str = "float[2,4] x", outputs: str = "float[2,3] y") -> ir.Model:
    return model(body, inputs, outputs, table=ARRAYS)


def activation(quant: str, before: str = "") -> str:
    return f"{before} [in] q = {quant} {WEIGHT} [fc] y = MatMul(q, qw)"


EIGHT, FROM_T = f"[r] q8 = {Q}(x, step, zero, eight)", f"[in] q = {Q}(t, step, zero, four)"
BY_BOTH = {
    "minifloat": (activation(f"{FLOAT}(x, s)"), "in",
                  "e2m1 activations are not evenly spaced, expected integers times one step; use an integer format"),
    "bipolar": (activation(f"{QONNX}.BipolarQuant(x, step)"), "in", "it is a BipolarQuant, expected integers"),
    "dynamic scale": (activation(f"{INT}(x, sx)", f"[s] sx = {SCALE}(x)"), "in",
                      r"found at run time \(MXScale\), expected a constant; give the layer constant activation scales"),
    "dynamic zero point": (activation(f"{INT}(x, s2, zx)", f"[s] zx = {SCALE}(x)"), "in",
                           r"zero point is found at run time \(MXScale\), expected 0 as a constant; give the layer"),
    "zero point": (activation(f"{INT}(x, s2, z2)"), "in", "its zero point is 3, expected 0; use a signed format"),
    "no finite scale": (activation(f"{Q}(x, infinite, zero, four)"), "in",
                        r"its scale is \[inf\], expected a positive finite number; calibrate the model again"),
    "scale of zero": (activation(f"{Q}(x, zero, zero, four)"), "in", r"its scale is \[0.\], expected a positive"),
    "several scales": (activation(f"{INT}(x, mixed)"), "in", "it has 2 different scales, expected one; give the layer"),
    "bits found at run time": (activation(f"{Q}(x, step, zero, n)", "[n] n = ReduceMax<keepdims=0>(x)"), "in",
                               "its bit width is found at run time, expected one whole number; store it as an init"),
    "bits of channels": (activation(f"{Q}(x, step, zero, bits)"), "in", r"its bit width is \[3. 4. 5.\], expected one"),
    "rounding": (activation(f'{QONNX}.Quant<rounding_mode="CEIL">(x, step, zero, four)'), "in",
                 "rounding mode is CEIL, expected ROUND.*; train the model with that"),
    "alpha": (f"{INPUT} {WEIGHT} [fc] y = Gemm<alpha=2.0>(q, qw)", "fc",
              "it is a Gemm with alpha=2.0, beta=1.0, transA=0, expected 1, 1, 0; multiply alpha into the weight"),
    "transposed input": (f"[t] t = Transpose(x) {FROM_T} {WEIGHT} [fc] y = Gemm<transA=1>(q, qw)", "fc",
                         "transA=1, expected 1, 1, 0; .*transpose the input beforehand"),
    "product of activations": (f"{INPUT} [t] t = Transpose(q) [fc] y = MatMul(q, t)", "fc",
                               "second operand is computed at run time by Transpose 't', expected a constant.*; end"),
    "infinite weight": (f"{INPUT} [fc] y = MatMul(q, inf)", "fc",
                        r"its weight holds inf at \(0, 0\), which no integer stands for, expected finite.*; repair"),
    "vector": (f"{INPUT} [fc] y = MatMul(q, vector)", "fc", r"weight has shape \(4,\), expected two dimensions"),
    "trunc": (activation(f"{TRUNC}(q8, half, zero, eight, step, four)", f"[r] q8 = {Q}(x, half, zero, eight)"), "in",
              r"it is a Trunc that turns 8-bit integers times 0.25 into 4-bit ones times 0.5 \(FLOOR\); \w+ takes one "
              "only where it drops nothing; end the model before the pooling it belongs to, or pool with MaxPool"),
    "trunc of anything": (activation(f"{TRUNC}(x, step, zero, eight, step, eight)"), "in",
                          "a Trunc that rounds to multiples of 0.5 what is not quantized to them before"),
    "trunc that clips": (activation(f"{TRUNC}(q8, step, zero, eight, step, four)", EIGHT), "in",
                         r"a Trunc that clips -127..127 to -8..7"),
    "trunc to no bits": (activation(f"{TRUNC}(q8, step, zero, eight, step, zero)", EIGHT), "in", "has 0 output bits"),
    "trunc of channels": (activation(f"{TRUNC}(x, step, zero, bits, step, bits)"), "in",
                          "a Trunc that has other than constant single numbers as scales, zero point and bit widths"),
}  # fmt: skip


def refused(target, body: str, node: str, message: str, **options) -> list[tuple[str, str]]:
    with pytest.raises(UnsupportedError) as caught:
        target.convert(built(body), **options)
    found = caught.value.problems
    assert any(where == node and re.search(message, why, re.S) for where, why in found), found
    return found


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("name", BY_BOTH)
def test_both_targets_name_the_node(name, target):
    found = refused(BOTH[target][0], *BY_BOTH[name])
    others = {where for where, _ in found} - {BY_BOTH[name][1], "n"}  # n computes a bit width
    assert not others, "what follows a refused node is not complained about"


@pytest.mark.parametrize("target", BOTH)
def test_input_of_the_model_as_a_weight(target):
    made = built(f"{INPUT} [fc] y = MatMul(q, v)", "float[2,4] x, float[4,3] v")
    with pytest.raises(UnsupportedError, match=f"fc: .* is an input of the model.*{BOTH[target][1]} by"):
        BOTH[target][0].convert(made)


@pytest.mark.parametrize("target", BOTH)
def test_wide_weights(target):
    body = f"{INPUT} [fc] y = MatMul(q, wide)"
    bits, most = (201, 24) if target == "hls4ml" else (202, 32)
    message = f"needs {bits}-bit integers, more than max_weight_bits={most}; .*allow max_weight_bits={bits}"
    refused(BOTH[target][0], body, "fc", message)
    message = f"Quant of {bits} bits does not give its constant back in float32, expected equal values; use a format"
    refused(BOTH[target][0], body, "fc", message, max_weight_bits=300)


def test_trunc_that_drops_nothing_disappears():
    x = np.linspace(-9, 9, 8, dtype=np.float32).reshape(2, 4)
    for trunc in (f"{TRUNC}(q8, step, zero, eight, step, eight)", f"{TRUNC}(m, step, zero, four, step, eight)"):
        source = f"[r] q8 = {Q}(x, step, zero, eight) [m] m = Flatten(q8)"
        source = source.replace("eight", "four") if "(m" in trunc else source
        made = built(activation(trunc, source))
        made.opset_imports[QONNX] = 2  # where Trunc has an output scale
        infer_shapes(made)
        (expected,) = executors.run_qonnx(ir.to_proto(made), x).values()
        for target, _ in BOTH.values():
            converted = target.convert(made).model
            assert not any(n.op_type == "Trunc" for n in converted.graph)
            (actual,) = executors.run(converted, x).values()
            assert np.array_equal(actual, expected)


# --- hls4ml alone ---------------------------------------------------------------------------------------------

ADD = f"{INPUT} {WEIGHT} [fc] m = MatMul(q, qw) [bias] y = Add(m, {{}})"
BY_HLS4ML = {
    "NaN in a bias": (ADD.format("nan"), "bias", r"its bias holds nan at \(1,\), which no integer.*; repair it before"),
    "fine bias": (ADD.format("fine"), "bias",
                  "its bias needs 81-bit integers, more than max_bias_bits=40; round_bias=True rounds it"),
    "odd scale": (activation(f"{Q}(x, third, zero, four)"), "in",
                  "its scale 0.333.* is not a power of two, fixed point cannot hold it; use a static MX"),
    "operator": (f"{INPUT} {WEIGHT} [fc] m = MatMul(q, qw) [t] y = Tanh(m)", "t",
                 "hls4ml does not compute Tanh exactly, or not at all; end the model before it"),
    "no type": (f"{WEIGHT} [fc] y = MatMul(x, qw)", "fc",
                r"input has no fixed-point type: quantize it.*input_type=\(bits, fraction bits\)"),
    "operator of ours": (f"[s] sx = {SCALE}(x) [a] y = MatMul(sx, w)", "s", "does not compute MXScale exactly"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HLS4ML)
def test_hls4ml_names_the_node(name):
    refused(hls4ml, *BY_HLS4ML[name])


def test_a_bias_too_wide_even_when_rounded():
    message = "needs 62-bit integers, more than max_bias_bits=40; raise max_bias_bits"
    refused(hls4ml, ADD.format("long"), "bias", message, round_bias=True)


# --- FINN alone -----------------------------------------------------------------------------------------------


def test_finn_reports_what_check_finn_finds():
    body = f"{INPUT} {WEIGHT} [fc] m = MatMul(q, qw) [t] y = Tanh(m)"
    refused(finn, body, "t", "no streaming unit for Tanh, expected one of .*; end the model before it")


@pytest.mark.parametrize(
    ("body", "opset", "message"),
    [
        ("[n] y = Gelu(x)", 20, "Gelu does not exist in opset 17; export it in older operators"),
        (
            "[n] y = Cast<to=1, saturate=1>(x)",
            20,
            "Cast has no attribute saturate in opset 17; bring the file",
        ),
        ("[n] y = ReduceMax(x, axes)", 20, "ReduceMax has 2 inputs, expected 1 to 1 in opset 17; bring the file to"),
    ],
)
def test_what_an_older_opset_cannot_say(body, opset, message):
    made = model(body, axes=np.array([1])) if "axes" in body else model(body)
    made.opset_imports[""] = opset
    with pytest.raises(UnsupportedError, match=f"opset {opset} cannot be lowered to 17\n  n: {message}"):
        lower_opset(made, 17)
    assert made.opset_imports[""] == opset
