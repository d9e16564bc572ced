"""Files of other tools: QuantizeLinear and DequantizeLinear as our operators, or the reason why not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from mxexport.running import executors
from mxexport.targets import from_qdq
from tests.helpers import assert_equal_bits
from tests.qdq_models import contracted, edge_tensor, formats_of, standard_quantizer

RNG = np.random.default_rng(3)


def scale_of(shape, powers=False):
    s = RNG.random(shape).astype(np.float32) + np.float32(0.1)
    return np.exp2(RNG.integers(-9, 9, shape)).astype(np.float32) if powers else s


def check(model, inputs, format_name, execute=executors.run):
    wanted = execute(model, inputs)["y"]
    back = from_qdq.convert(model)
    assert formats_of(back.model) == {"dq": format_name}, back.notes
    assert_equal_bits(executors.run(back.model, inputs)["y"], wanted, back.notes)
    return back


@pytest.mark.parametrize(
    ("dtype", "zero", "powers", "format_name"),
    [
        (np.int8, False, False, "int8_g32"),
        (np.int8, False, True, "mxint8"),
        (ml_dtypes.int4, False, True, "mxint4"),
        (ml_dtypes.uint4, True, False, "uint4_g32"),
        (np.uint8, True, False, "uint8_g32"),
        (ml_dtypes.float8_e4m3fn, False, True, "mxfp8_e4m3"),
        (ml_dtypes.float8_e5m2, False, False, "float_ocp_e5m2_g32"),
        (ml_dtypes.float8_e4m3fnuz, False, False, "float_fnuz_e4m3_g32"),
    ],
)
@pytest.mark.parametrize(("shape", "axis"), [((6, 70), 1), ((70, 6), 0), ((4, 40, 3, 3), 1)])
def test_blocked_weights(dtype, zero, powers, format_name, shape, axis):
    integer = np.dtype(dtype).name.startswith(("int", "uint"))
    codes = (RNG.integers(0, 8, shape) if integer else RNG.standard_normal(shape) * 8).astype(dtype)
    small = contracted(shape, axis, 32)
    arrays = {"s": scale_of(small, powers)} | ({"z": RNG.integers(0, 8, small).astype(dtype)} if zero else {})
    check(standard_quantizer(codes, arrays, {"axis": axis, "block_size": 32}, weight=True), {}, format_name)


def test_native_types():
    codes = (RNG.standard_normal((4, 70)) * 3).astype(ml_dtypes.float4_e2m1fn)
    scale = scale_of((4, 3), powers=True).astype(ml_dtypes.float8_e8m0fnu)
    model = standard_quantizer(codes, {"s": scale}, {"axis": 1, "block_size": 32}, weight=True, opset=24)
    model.graph.node("dq").attributes.add(_output_float())
    check(model, {}, "mxfp4_e2m1", executors.run_reference)


def _output_float():
    import onnx_ir as ir

    return ir.AttrInt64("output_dtype", ir.DataType.FLOAT)


def test_the_most_negative_code_is_kept():
    codes = np.full((2, 32), -128, np.int8)
    model = standard_quantizer(codes, {"s": scale_of((2, 1))}, {"axis": 1, "block_size": 32}, weight=True)
    back = check(model, {}, "int8_g32")
    assert back.model.graph.node("dq").attributes["narrow"].value == 0


@pytest.mark.parametrize("shape", [(5, 40), (5, 8, 3, 3)])
@pytest.mark.parametrize("scale_shape", ["tensor", "channel"])
def test_one_scale_for_a_channel_or_the_tensor(shape, scale_shape):
    codes = RNG.integers(-127, 128, shape).astype(np.int8)
    scale = scale_of(() if scale_shape == "tensor" else (5,))
    check(standard_quantizer(codes, {"s": scale}, {"axis": 0}, weight=True), {}, f"int8_g{max(shape[1:])}")


@pytest.mark.parametrize(
    ("clip", "format_name"), [((-127, 127), "int8_g32"), ((-7, 7), "int4_g32"), (None, "int8_g32")]
)
def test_activations(clip, format_name):
    x = (RNG.standard_normal((4, 70)) * 50).astype(np.float32)
    x[0, 0] = np.inf
    arrays = {"s": scale_of((4, 3)), "z": np.zeros((4, 3), np.int8)}
    check(standard_quantizer(x, arrays, {"axis": 1, "block_size": 32}, weight=False, clip=clip), x, format_name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"z": np.ones((4, 3), np.int8)}, "adds its zero point after rounding"),
        ({"z": np.zeros((4, 3), np.int16)}, "its codes are INT16; expected one of INT2"),
        ({"clip": (-5, 9)}, "its codes lie in -5 .. 9"),
    ],
)
def test_what_our_operators_cannot_say_stays_and_is_named(change, reason):
    x = RNG.standard_normal((4, 70)).astype(np.float32)
    arrays = {"s": scale_of((4, 3)), "z": change.get("z", np.zeros((4, 3), np.int8))}
    model = standard_quantizer(
        x, arrays, {"axis": 1, "block_size": 32}, weight=False, clip=change.get("clip"), opset=21
    )
    back = from_qdq.convert(model)
    assert len(back.notes) == 1 and back.notes[0][0] == "dq" and reason in back.notes[0][1], back.notes
    assert [n.op_type for n in back.model.graph] == [n.op_type for n in model.graph]


@pytest.mark.parametrize("dtype, clip", [(np.int8, None), (np.int8, (-7, 7)), (np.int8, (-8, 7)), (np.uint8, None)])
def test_one_scale_on_a_tensor_of_open_size_becomes_qonnxs_quantizer(dtype, clip):
    """Files of other tools leave the batch open; every edge value, in the order that a batch happens to have."""
    x = edge_tensor((64, 32), 1)
    x = x[np.isfinite(x).all(1)]  # an integer QuantizeLinear of NaN is undefined
    arrays = {"s": np.float32(0.0625), "z": np.array(0, dtype)}
    model = standard_quantizer(x, arrays, {}, weight=False, clip=clip)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(["batch", 32])
    back = from_qdq.convert(model)
    assert [n.op_type for n in back.model.graph] == ["Quant"] and "Quant of QONNX" in back.notes[0][1]
    for rows in (x, x[:3]):
        wanted, found = executors.run(model, rows)["y"], executors.run(back.model, rows)["y"]
        np.testing.assert_array_equal(found, wanted)  # -0 is 0 in integers
    np.testing.assert_array_equal(executors.run_qonnx(back.model, x)["y"], executors.run(model, x)["y"])


def test_a_zero_point_on_a_tensor_of_open_size_stays():
    x = RNG.standard_normal((4, 32)).astype(np.float32)
    arrays = {"s": np.float32(0.0625), "z": np.array(3, np.uint8)}
    model = standard_quantizer(x, arrays, {}, weight=False)
    model.graph.inputs[0].shape = ir.Shape(["batch", 32])
    back = from_qdq.convert(model)
    assert [n.op_type for n in back.model.graph] == ["QuantizeLinear", "DequantizeLinear"]
    assert from_qdq.LEFT in back.notes[0][1]
