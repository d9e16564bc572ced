"""Integer targets: a quantized constant in another layout stays one, QuantizeLinear and DequantizeLinear are read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.errors import ShapeError, UnsupportedError
from mxexport.model.constants import constant_array
from mxexport.targets import finn, from_qdq, hls4ml
from tests.helpers import assert_equal_bits
from tests.pass_helpers import ARRAYS, execute, model, op_types, outputs_of

QUANT = 'qonnx.custom_op.general.Quant<signed=1, narrow=0, rounding_mode="ROUND">'
B, SIX = np.float32([0.5, -1.0, 1.5]), np.arange(6, dtype=np.float32)
LAYOUTS = {  # text, shape of the constant, second input
    "Reshape": ("Reshape(q, given)", (3,), [1, 3]),
    "Squeeze": ("Squeeze(q, given)", (1, 3), [0]),
    "Squeeze all": ("Squeeze(q)", (1, 3), None),
    "Unsqueeze": ("Unsqueeze(q, given)", (3,), [0]),
    "Transpose": ("Transpose<perm=[1, 0]>(q)", (3, 1), None),
    "Flatten": ("Flatten<axis=0>(q)", (3,), None),
    "Identity": ("Identity(q)", (3,), None),
    "Expand": ("Expand(q, given)", (3,), [2, 3]),
}


def layer(bias: str, **arrays) -> ir.Model:
    """MatMul of quantized inputs and weights, and `bias`, which makes r of the quantized constant q."""
    body = f"""[a] a = {QUANT}(x, step, zero, four)  [w] wq = {QUANT}(w, step, zero, four)  [m] m = MatMul(a, wq)
      [q] q = {QUANT}(k, step, zero, four)  [r] r = {bias}  [y] y = Add(m, r)"""
    return model(body, outputs="float[2,3] y", table=ARRAYS, **arrays)


def values(made: ir.Model) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    return next(iter(outputs_of(made, {made.graph.inputs[0].name: x}).values())) + 0.0  # FINN and hls4ml have no -0


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("target", [finn, hls4ml])
def test_a_quantized_bias_in_another_layout_is_a_constant(target, name):
    text, shape, given = LAYOUTS[name]
    made = layer(text, k=B.reshape(shape), **({} if given is None else {"given": np.int64(given)}))
    converted = target.convert(made).model
    assert not {"Squeeze", "Unsqueeze", "Expand", "Identity"} & set(op_types(converted))
    assert_equal_bits(values(converted), values(made))


@pytest.mark.parametrize(
    ("text", "shape", "given"),
    [
        *LAYOUTS.values(),
        ("Reshape(q, given)", (2, 3), [0, -1, 1]),
        ("Reshape<allowzero=1>(q, given)", (0, 3), [3, 0]),
        ("Flatten(q)", (1, 2, 3), None),
        ("Flatten<axis=-1>(q)", (1, 2, 3), None),
        ("Unsqueeze(q, given)", (2, 3), [0, -1]),
        ("Squeeze(q, given)", (1, 2, 1, 3), [0, -2]),
        ("Expand(q, given)", (2, 1), [3, 1, 3]),
        ("Transpose(q)", (1, 2, 3), None),
    ],
)
def test_layouts_of_constants_are_onnx_s(text, shape, given):
    c = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    made = model(f"q = Neg(c)  y = {text}", inputs="", outputs="float y", c=c, given=np.int64(given or [0]))
    made.graph.outputs[0].shape = None
    expected = execute(made, {})["y"]
    made.graph[0].op_type = "Identity"
    found = constant_array(made.graph.outputs[0])
    assert found.shape == expected.shape and np.array_equal(-found, expected)


@pytest.mark.parametrize(("text", "given"), [("Reshape(c, given)", [4]), ("Squeeze(c, given)", [0])])
def test_layouts_that_do_not_fit_are_named(text, given):
    made = model(f"[odd] y = {text}", inputs="", outputs="float[4] y", c=SIX, given=np.int64(given))
    with pytest.raises(ShapeError, match=r"node 'odd' .*of a tensor of shape \(6,\)"):
        constant_array(made.graph.outputs[0])


def test_a_weight_of_qonnx_keeps_its_bits_behind_a_reshape():
    step = np.float32([[0.3, 0.7, 0.11]])
    body = f"""[a] a = {QUANT}(x, step, zero, four)  [q] q = {QUANT}(v, steps, zero, four)  [r] r = Reshape(q, given)
      [y] y = MatMul(a, r)"""
    w = np.float32([[1, 0, -3], [-2, 3, 7], [0, -7, 5], [7, 1, 2]]) * step
    arrays = {"v": w[None], "steps": step[None], "given": np.int64([4, 3])}
    made = model(body, outputs="float[2,3] y", table=ARRAYS, **arrays)
    converted = finn.convert(made)
    assert ("y", "weights are 4-bit integers, one step per output channel (its own)") in converted.notes
    assert_equal_bits(values(converted.model), values(made))


# --- QuantizeLinear and DequantizeLinear ----------------------------------------------------------------------


def qdq(scale: np.ndarray, zero: int = 0) -> ir.Model:
    """As Brevitas writes it: codes of weights found in the file, bounds by Clip, constants among the inputs, too."""
    body = """[xq] xq = QuantizeLinear(x, s, z)  [xd] xd = DequantizeLinear(xq, s, z)
      [wq] wq = QuantizeLinear<axis=1>(w, t, tz)  [wc] wc = Clip(wq, low, high)  [wd]
      wd = DequantizeLinear<axis=1>(wc, t, tz)  [m] m = MatMul(xd, wd)
      [bd] bd = DequantizeLinear(codes, bs)  [y] y = Add(m, bd)"""
    w = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    arrays = {"w": w, "t": scale, "tz": np.zeros(scale.shape, np.int8), "z": np.int8(zero), "s": np.float32(0.25)}
    arrays |= {"low": np.int8(-7), "high": np.int8(7), "codes": np.int32([5, -300, 70000]), "bs": np.float32(2**-10)}
    made = model(body, outputs="float[2,3] y", **arrays)
    made.graph.inputs.extend(value for name, value in made.graph.initializers.items() if name in ("z", "low", "high"))
    return made


@pytest.mark.parametrize("target", [finn, hls4ml])
def test_quantize_and_dequantize_linear_are_read_on_the_way(target):
    made = qdq(np.float32(0.25))
    converted = target.convert(made).model
    assert {"QuantizeLinear", "DequantizeLinear", "Clip"}.isdisjoint(op_types(converted))
    assert {v.dtype for v in converted.graph.initializers.values()} == {ir.DataType.FLOAT}
    assert [v.name for v in converted.graph.inputs] == ["x"] and op_types(made).count("DequantizeLinear") == 3
    assert_equal_bits(values(converted), values(made))


@pytest.mark.parametrize("target", [finn, hls4ml])
def test_an_open_batch_gets_its_size_before_quantizers_are_read(target):
    made = qdq(np.float32(0.25))
    made.graph.inputs[0].shape, made.graph.outputs[0].shape = ir.Shape(["batch", 4]), ir.Shape(["batch", 3])
    assert_equal_bits(values(target.convert(made, batch=2).model), values(made))


def test_scales_of_channels_reach_finn():
    made = qdq(np.float32([0.3, 0.25, 0.7]))
    converted = finn.convert(made)
    assert ("m", "weights are 4-bit integers, one step per output channel (its own)") in converted.notes
    np.testing.assert_allclose(values(converted.model), values(made), rtol=1e-6)


def test_the_road_by_mxexport_gives_the_same():
    made = qdq(np.float32(0.25))
    assert_equal_bits(values(finn.convert(from_qdq.convert(made).model).model), values(finn.convert(made).model))


@pytest.mark.parametrize("target", [finn, hls4ml])
def test_a_quantizer_that_cannot_be_read_is_named_once_with_the_reason(target):
    with pytest.raises(UnsupportedError) as caught:
        target.convert(qdq(np.float32(0.25), zero=3))
    (where, why), *rest = caught.value.problems
    assert where == "xd" and "cannot be read: QuantizeLinear adds its zero point after rounding" in why and not rest
