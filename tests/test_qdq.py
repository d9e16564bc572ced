"""Standard ONNX: same bits as our operators in onnxruntime, and with native types in the reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import OptionError, ScaleShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.numbers.formats import get_format
from mxexport.passes.fold import fold_weights
from mxexport.running import executors
from mxexport.targets import from_qdq, qdq
from tests.helpers import ALL_FORMATS, assert_equal_bits, run_bodies
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
    """Without functions: nothing but standard nodes."""
    converted = qdq.convert(model, opset=opset, functions=False)
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


# --- functions ----------------------------------------------------------------------------------------------------


def with_functions(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, str], ir.Model]:
    converted = qdq.convert(model)
    proto = graph.to_proto(converted.model)
    onnx.checker.check_model(proto, full_check=True)
    named = {(f.domain, f.name) for f in proto.functions}
    assert named == {(n.domain, n.op_type) for n in proto.graph.node if n.domain}
    assert all(n.domain == "" for f in proto.functions for n in f.node)
    return proto, dict(converted.notes), converted.model


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_quantizers_are_one_function_each_with_equal_bits(name, weight):
    x = edge_tensor((40, 70), 1)
    model, y = quantizer_model(name, x, 1, weight=weight), expected(name, x, 1)
    proto, notes, converted = with_functions(model)
    assert len(proto.graph.node) <= 4, [n.op_type for n in proto.graph.node]
    fed = {} if weight else {proto.graph.input[0].name: x}
    for execute in (executors.run, run_bodies, executors.run_reference):
        assert_equal_bits(execute(proto, fed)["y"], y, (name, notes, execute))
    plain = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_equal_bits(plain.run(None, fed)[0], y, (name, "plain onnxruntime"))
    inlined = onnx.inliner.inline_local_functions(proto)
    assert {n.domain for n in inlined.graph.node} == {""}
    assert_equal_bits(run_bodies(inlined, fed)["y"], y, (name, "inlined"))
    back = from_qdq.convert(converted)
    assert set(formats_of(back.model).values()) == {name}
    assert_equal_bits(executors.run(back.model, fed)["y"], y, "way back")


@pytest.mark.parametrize("axis", [0, 1])
def test_minifloats_of_four_bits_take_half_a_byte(axis):
    x = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
    for source in (quantizer_model("mxfp4_e2m1", x, axis, weight=True), packed(x, axis)):
        proto, notes, _ = with_functions(source)
        assert notes["w_quant" if "w_quant" in notes else "w_dequant"].startswith("mxfp4_e2m1: two codes a byte")
        found = sum(len(i.raw_data) for i in proto.graph.initializer)
        assert found == x.size // 2 + x.size // 32, {i.name: list(i.dims) for i in proto.graph.initializer}
        assert_equal_bits(executors.run(proto, {})["y"], expected("mxfp4_e2m1", x, axis))


def packed(x: np.ndarray, axis: int) -> ir.Model:
    model = quantizer_model("mxfp4_e2m1", x, axis, weight=True)
    fold_weights.fold_weights(model)
    assert [n.op_type for n in model.graph][-1] == "MXFloatDequant"
    return model


def test_a_network_keeps_one_node_for_each_quantizer(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 10))
    mx.export(mx.quantize_model(net, "mxfp4_e2m1", "mxfp8_e4m3"), (torch.randn(1, 3, 8, 8),), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx", pack=True)
    short, long = (tmp_path / f"{n}.onnx" for n in ("short", "long"))
    assert mx.convert(tmp_path / "c.onnx", short, to="qdq").verified == "equal bits"
    assert mx.convert(tmp_path / "c.onnx", long, to="qdq", functions=False).verified == "equal bits"
    source, found, inlined = (onnx.load(p).graph.node for p in (tmp_path / "c.onnx", short, long))
    assert len(found) <= len(source) + 3 < 40 < 100 < len(inlined)
    assert short.stat().st_size <= 1.15 * (tmp_path / "c.onnx").stat().st_size
    done = CliRunner().invoke(app, ["convert", str(short), str(tmp_path / "b.onnx"), "--to", "qdq", "--no-functions"])
    assert done.exit_code == 0, done.output
    assert not onnx.load(tmp_path / "b.onnx").functions
