"""Standard ONNX: same bits as our operators in onnxruntime, and with native types in the reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mxexport.errors import OptionError, ScaleShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.numbers.formats import get_format
from mxexport.running import executors
from mxexport.targets import from_qdq, qdq
from tests.helpers import ALL_FORMATS, assert_equal_bits
from tests.qdq_models import edge_tensor, formats_of, quantizer_model, scales

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

FORMATS = (*ALL_FORMATS, "mxint3", "mxint6_g16", "int8_g32", "int2_g16", "uint2_g8", "mxfp4_e2m1_g16",
           "float_e4m3_g32", "float_e3m4_g16", "float_e5m2_g16", "float_fnuz_e5m2_g16")  # fmt: skip
SHAPES = {"linear": ((40, 70), 1), "linear_axis_0": ((70, 24), 0), "conv": ((6, 40, 3, 3), 1), "short": ((40, 5), 1)}


def expected(name: str, x: np.ndarray, axis: int) -> np.ndarray:
    from mxexport import ops

    fmt = get_format(name)
    scale, zero = scales(fmt, x, axis)
    op = ops.MXFloatQuant if fmt.is_float else ops.GroupwiseQuant
    arrays = [x, scale] + ([zero] if zero is not None else [])
    return op.reference(*arrays, axis=axis, group_size=fmt.group_size, **op.attributes_of(fmt.element))[0]


def standard(model: ir.Model, opset: int | None = None) -> tuple[onnx.ModelProto, dict[str, str], ir.Model]:
    converted = qdq.convert(model) if opset is None else qdq.convert(model, opset=opset)
    proto = graph.to_proto(converted.model)
    onnx.checker.check_model(proto, full_check=True)
    assert not proto.functions and {n.domain for n in proto.graph.node} <= {""}
    assert [o.domain for o in proto.opset_import] == [""]
    return proto, dict(converted.notes), converted.model


@pytest.mark.parametrize("where", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_weights_have_equal_bits(name, where):
    shape, axis = SHAPES[where]
    x = edge_tensor(shape, axis)
    model = quantizer_model(name, x, axis, weight=True)
    y = expected(name, x, axis)
    for opset in (None, 24, 25):
        proto, notes, converted = standard(model, opset)
        execute = executors.run if opset is None else executors.run_reference
        assert_equal_bits(execute(proto, {})["y"], y, (name, opset, notes))
        assert "w" not in {i.name for i in proto.graph.initializer}  # codes, no float weights
        if "table" not in notes["w_quant"]:
            assert [n.name for n in proto.graph.node] == ["w_quant"]
        back = from_qdq.convert(converted)
        assert formats_of(back.model) == {"w_quant": name}
        assert_equal_bits(executors.run(back.model, {})["y"], y, "way back")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", FORMATS)
def test_dynamic_activations_have_equal_bits(name, axis):
    x = edge_tensor((70, 70), axis)
    model, y = quantizer_model(name, x, axis, weight=False), expected(name, x, axis)
    for opset in (None, 24):
        proto, _, converted = standard(model, opset)
        runs = (executors.run, executors.run_reference) if opset is None else (executors.run_reference,)
        for execute in runs:
            assert_equal_bits(execute(proto, x)["y"], y, (name, opset, execute))
        back = from_qdq.convert(converted)
        assert formats_of(back.model) == {"w_quant": name}
        assert [n.op_type for n in back.model.graph] == [n.op_type for n in model.graph]
        assert_equal_bits(executors.run(back.model, x)["y"], y, "way back")


@pytest.mark.parametrize("name", FORMATS)
def test_static_activations_have_equal_bits_on_other_values(name):
    """Inf, NaN and values far beyond what the scales were made for."""
    calibration = np.random.default_rng(5).standard_normal((70, 70)).astype(np.float32)
    x = edge_tensor((70, 70), 1)
    model = quantizer_model(name, calibration, 1, weight=False, static=True)
    y = executors.run_qonnx(model, x)["y"]
    proto, _, converted = standard(model)
    assert_equal_bits(executors.run(proto, x)["y"], y, name)
    back = from_qdq.convert(converted)
    assert formats_of(back.model) == {"w_quant": name} and len(back.model.graph) == 1
    assert_equal_bits(executors.run(back.model, x)["y"], y, "way back")


def test_extreme_scales_and_vectors():
    """Scale codes 0 and 254, one group in all, a vector."""
    for x in (
        np.float32([[2.0**-140] * 32, [3.4e38] * 32, [-0.0] * 32, [2.0**-126, -0.0] * 16]),
        np.float32([1, -2, 3, -0.0, 5]),
        np.float32([1, -2, 3] * 20),
    ):
        for name in ("mxfp8_e4m3", "mxfp4_e2m1", "mxint8", "int4_g16", "uint8_g32"):
            proto, notes, _ = standard(quantizer_model(name, x, x.ndim - 1, weight=True))
            assert_equal_bits(executors.run(proto, {})["y"], expected(name, x, x.ndim - 1), (name, x.shape, notes))


@pytest.mark.parametrize(
    ("name", "opset", "note", "types"),
    [
        ("mxfp6_e2m3", None, "carried in FLOAT8E4M3FN: +2 bits per element", ("FLOAT8E4M3FN", "FLOAT")),
        ("mxfp4_e2m1", None, "carried in FLOAT8E4M3FN: +4 bits per element", ("FLOAT8E4M3FN", "FLOAT")),
        ("mxfp4_e2m1", 24, "carried in FLOAT4E2M1", ("FLOAT4E2M1", "FLOAT8E8M0")),
        ("mxfp8_e5m2", 24, "carried in FLOAT8E5M2", ("FLOAT8E5M2", "FLOAT8E8M0")),
        ("mxint8", 24, "carried in INT8", ("INT8", "FLOAT8E8M0")),
        ("mxint3", None, "carried in INT4: +1 bit per element", ("INT4", "FLOAT")),
        ("mxint2_g16", 25, "carried in INT2", ("INT2", "FLOAT8E8M0")),
        ("int4_g16", 24, "carried in INT4", ("INT4", "FLOAT")),
    ],
)
def test_types_and_notes(name, opset, note, types):
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    proto, notes, _ = standard(quantizer_model(name, x, 1, weight=True), opset)
    assert notes == {"w_quant": f"{name} {note}"}
    found = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in proto.graph.initializer}
    assert found == {"w_codes": types[0], "w_scales": types[1]}
    assert {p.key: p.value for p in proto.graph.node[0].metadata_props} == {"mx_format": name}


def test_scales_below_e8m0_stay_float32():
    """The step of MX int8 is 2**-6 of the E8M0 scale, which E8M0 cannot hold at its low end."""
    proto, notes, _ = standard(quantizer_model("mxint8", np.zeros((2, 32), np.float32), 1, weight=True), 24)
    assert "scales below 2**-127 stay float32" in notes["w_quant"]
    assert_equal_bits(executors.run_reference(proto, {})["y"], np.zeros((2, 32), np.float32))


def test_asymmetric_activations_are_not_given_to_quantize_linear():
    """QuantizeLinear adds the zero point after rounding: rne(2.5) + 1 = 3, ours rne(2.5 + 1) = 4."""
    x = edge_tensor((70, 70), 1)
    proto, _, _ = standard(quantizer_model("uint8_g7", x, 1, weight=False))
    assert "QuantizeLinear" not in {n.op_type for n in proto.graph.node}


def test_the_given_model_is_left_as_it_was():
    model = quantizer_model("mxint8", edge_tensor((40, 70), 1), 1, weight=False)
    before = graph.to_proto(model).SerializeToString()
    converted = qdq.convert(model)
    assert graph.to_proto(model).SerializeToString() == before
    standard_before = graph.to_proto(converted.model).SerializeToString()
    from_qdq.convert(converted.model)
    assert graph.to_proto(converted.model).SerializeToString() == standard_before


@pytest.mark.parametrize(
    ("opset", "message"),
    [(20, "expected 21 to 25"), (26, "expected 21 to 25"), ("24", "expected an integer"), (True, "an integer")],
)
def test_opsets_out_of_range(opset, message):
    model = quantizer_model("mxint8", np.ones((2, 32), np.float32), 1, weight=True)
    with pytest.raises(OptionError, match=message):
        qdq.convert(model, opset=opset)


def test_expanded_scale_is_named():
    model = quantizer_model("mxint8", np.ones((2, 64), np.float32), 1, weight=True)
    model.graph.initializers["w_scale"].const_value = ir.tensor(np.ones((2, 64), np.float32))
    with pytest.raises(ScaleShapeError, match=r"'w_quant'.*expected \(2, 2\).*one entry per group"):
        qdq.convert(model)


def test_operators_without_a_standard_form_are_all_listed():
    model = quantizer_model("mxint8", np.ones((2, 64), np.float32), 1, weight=True)
    y = model.graph.outputs[0]
    for name in ("first", "second"):
        node = ir.node("Trunc", [y], domain="qonnx.custom_op.general", name=name)
        model.graph.append(node)
        model.graph.outputs.append(node.outputs[0])
    with pytest.raises(UnsupportedError, match="first.*Trunc") as caught:
        qdq.convert(model)
    assert [where for where, _ in caught.value.problems] == ["first", "second"]
