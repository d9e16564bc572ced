"""The pass fold_weights: packed files hold the same bits, take the bytes they should, and say what stays float."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport import cli, ops
from mxexport.errors import OptionError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers import quantized
from mxexport.numbers.formats import MX_FORMATS, get_format
from mxexport.passes import run_passes
from mxexport.passes.fold._weights import weight_of
from mxexport.passes.fold.fold_weights import fold_weights
from mxexport.running import executors, verification
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values
from tests.pass_helpers import Build, model as text_model
from tests.test_export import Net, inputs
from tests.test_ops import quant_node

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the reference evaluator's
EXECUTORS = [executors.run, executors.run_qonnx, executors.run_reference]


def weight_model(*quantizers, extra=(), outputs=()) -> ir.Model:
    """A graph of quantizers of initializers: (op_type, weight name, arrays, attributes) each; Y0, Y1, … come out."""
    initializers, nodes, known = [], [], set()
    for i, (op_type, weight, arrays, attributes) in enumerate(quantizers):
        names = [weight] + [f"{weight}_{part}{i}" for part in ("scale", "zero_point")][: len(arrays) - 1]
        for name, array in zip(names, arrays, strict=True):
            if name not in known:
                initializers.append(onnx.numpy_helper.from_array(array, name))
                known.add(name)
        node = helper.make_node(
            op_type, names, [f"Y{i}"], name=f"{weight}_quant{i or ''}", domain=ops.DOMAIN, **attributes
        )
        nodes.append(node)
    made = [helper.make_tensor_value_info(f"Y{i}", 1, list(q[2][0].shape)) for i, q in enumerate(quantizers)]
    g = helper.make_graph([*nodes, *extra], "g", [], made + list(outputs), initializers)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(ops.DOMAIN, 1)]
    model = ir.from_proto(helper.make_model(g, opset_imports=imports, ir_version=10))
    graph.attach_functions(model)
    return model


def quantizer(name: str, x: np.ndarray, weight: str = "w", **changes):
    """One quantizer of `x` by format name, for `weight_model`."""
    q = quantized.quantize(x, name, axis=1)
    op_type, attributes = quant_node(get_format(name))
    arrays = [np.float32(x), q.scale] + ([] if q.zero_point is None else [q.zero_point])
    return op_type, weight, arrays, attributes | changes


def folded_equals(model: ir.Model, executors=EXECUTORS) -> ir.Model:
    """Folds, checks that every executor gives the bits it gave before, and that a second run changes nothing."""
    before = {execute: execute(model, {}) for execute in executors}
    outcome = fold_weights(model)
    graph.attach_functions(model)
    assert outcome.modified and not outcome.declined
    onnx.checker.check_model(graph.to_proto(model), full_check=True)
    for execute, expected in before.items():
        for name, value in execute(model, {}).items():
            assert_equal_bits(value, expected[name], (execute.__name__, name))
    assert not fold_weights(model).modified
    return model


# --- it fires -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ALL_FORMATS, "nvfp4"])
def test_edge_values_of_every_format_keep_their_bits(name):
    model = weight_model(quantizer(name, edge_values((40, 70))))
    model.graph[0].metadata_props["mx_format"] = name  # as export writes it; nvfp4 is not to be seen otherwise
    fmt = get_format(name)
    folded_equals(model)
    (node,) = [n for n in model.graph if graph.is_ours(n, graph.DEQUANTIZERS)]
    assert node.name == "w_dequant" and node.outputs[0].name == "Y0" and node.metadata_props["mx_format"] == name
    assert graph.quantizer_format(node) == fmt and "w" not in model.graph.initializers
    assert model.graph.initializers["w_codes"].dtype == ir.DataType.UINT8
    if fmt.scale != "float32":
        assert model.graph.initializers["w_scale0_codes"].const_value.nbytes == 40 * -(-70 // fmt.group_size)
    assert_equal_bits(constant_array(node.outputs[0]), quantized.quantize(edge_values((40, 70)), name, 1).dequantize())


@pytest.mark.parametrize("name", [*ALL_FORMATS, "nvfp4"])
@pytest.mark.parametrize("length", [1, 5])
def test_a_short_group_is_stored_without_padding(name, length):
    """Depthwise kernels have one weight in a group of 32, layers that read images three."""
    fmt, model = get_format(name), weight_model(quantizer(name, edge_values((40, length))))
    model.graph[0].metadata_props["mx_format"] = name
    folded_equals(model)
    (node,) = [n for n in model.graph if graph.is_ours(n, graph.DEQUANTIZERS)]
    assert model.graph.initializers["w_codes"].const_value.nbytes == 40 * -(-length * fmt.element.bits // 8)
    assert node.attributes["group_size"].value == length and graph.quantizer_format(node) == fmt
    assert weight_of(node.outputs[0]).attributes["group_size"] == fmt.group_size  # what padding it would fill
    node.metadata_props["mx_format"] = "a name nobody knows"
    assert graph.quantizer_format(node).group_size == length


@pytest.mark.parametrize("signed", [0, 1])
def test_codes_follow_the_nodes_own_attributes(signed):
    """After ReLU minifloats clamp at 0; integers may use the most negative code."""
    x = np.float32([[-3, -2.6, -0.0, 1, 5, 9] * 6])
    scale = np.ones((1, 2), np.float32)
    _, attributes = quant_node(get_format("mxfp4_e2m1"))
    folded_equals(weight_model(("MXFloatQuant", "w", [x, scale], attributes | {"signed": signed})))
    attributes = {"axis": 1, "group_size": 32, "bit_width": 2 + signed, "signed": signed, "narrow": 0}
    model = folded_equals(weight_model(("GroupwiseQuant", "w", [x * 2, scale], attributes)))
    lowest = constant_array(model.graph.outputs[0]).min()
    assert lowest == (-4 if signed else 0)


def test_symmetric_and_asymmetric_weights_share_one_function():
    x = edge_values((20, 32))
    folded_equals(weight_model(quantizer("uint4_g16", x, "a"), quantizer("mxint8", x, "b"), quantizer("int4_g16", x)))


def test_a_tied_weight_is_packed_once_where_it_is_quantized_alike():
    x = edge_values((20, 32))
    model = weight_model(quantizer("mxint8", x), quantizer("mxint8", x), quantizer("mxfp4_e2m1", x))
    model = folded_equals(model)
    assert {"w_codes", "w_codes_1"} <= set(model.graph.initializers) and "w" not in model.graph.initializers
    assert "w_codes_2" not in model.graph.initializers


def test_a_weight_that_is_also_read_as_float_stays():
    x = edge_values((20, 32))
    extra = [helper.make_node("Identity", ["w"], ["raw"], name="reader")]
    model = weight_model(
        quantizer("mxint8", x), extra=extra, outputs=[helper.make_tensor_value_info("raw", 1, x.shape)]
    )
    outcome = fold_weights(model)
    assert "w stays because reader reads it" in outcome.changed[0] and "w" in model.graph.initializers


@pytest.mark.parametrize("name", ["mxfp4_e2m1", "uint4_g32", "nvfp4"])
def test_scales_that_operators_compute_from_the_weight_are_folded_too(name):
    """A file whose weight scales were never made constants."""
    fmt, x = get_format(name), np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    op_type, attributes = quant_node(fmt)
    common = {"axis": 1, "group_size": fmt.group_size}
    computed = {
        "mxfp4_e2m1": ("MXScale", {"emax": 2, "round_bias": 0, "frac_bits": 0, "code_min": 0, "code_max": 254}),
        "uint4_g32": ("GroupwiseScale", {"levels": 15.0, "asymmetric": 1}),
        "nvfp4": ("NVFP4Scale", {}),
    }[name]
    nodes = [helper.make_node(computed[0], ["w"], ["s"], domain=ops.DOMAIN, name="s", **computed[1], **common)]
    names = ["w", "s"]
    if fmt.asymmetric:
        zero = {"levels": 15.0} | common
        nodes.append(helper.make_node("GroupwiseZeroPoint", names, ["z"], domain=ops.DOMAIN, name="z", **zero))
        names = [*names, "z"]
    nodes.append(helper.make_node(op_type, names, ["Y"], domain=ops.DOMAIN, name="w_quant", **attributes))
    made = helper.make_graph(
        nodes, "g", [], [helper.make_tensor_value_info("Y", 1, [4, 64])], [onnx.numpy_helper.from_array(x, "w")]
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(ops.DOMAIN, 1)]
    model = ir.from_proto(helper.make_model(made, opset_imports=imports, ir_version=10))
    graph.attach_functions(model)
    folded_equals(model)
    assert not [n for n in model.graph if graph.is_ours(n, graph.SCALES | {"GroupwiseZeroPoint"})]


# --- it declines --------------------------------------------------------------------------------------------------


def test_values_that_codes_cannot_hold_stay_with_a_reason():
    """A NaN under a finite scale: e2m1 has no code for it."""
    op_type, weight, (x, scale), attributes = quantizer("mxfp4_e2m1", np.ones((4, 64), np.float32))
    x[2, 5] = np.nan
    model = weight_model((op_type, weight, [x, scale], attributes))
    before = graph.to_proto(model).SerializeToString()
    outcome = fold_weights(model)
    ((name, reason),) = outcome.declined
    assert name == "w_quant" and "1 of 256 quantized values are no mxfp4_e2m1 codes times scales" in reason
    assert "first nan at (2, 5)" in reason and not outcome.modified
    assert graph.to_proto(model).SerializeToString() == before


def test_quantizers_of_activations_are_no_matter_of_this_pass(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 4)), None, "mxint8")
    mx.export(model, (torch.randn(2, 40),), tmp_path / "m.onnx")
    loaded = graph.load(tmp_path / "m.onnx")
    outcome = fold_weights(loaded)
    assert not outcome.modified and not outcome.declined


def test_a_weight_whose_scale_is_computed_from_an_input_stays():
    model = weight_model(quantizer("mxint8", np.ones((2, 32), np.float32)))
    scale = next(n for n in model.graph if n.name == "w_quant").inputs[1]
    model.graph.inputs.append(ir.Value(name="s", type=ir.TensorType(ir.DataType.FLOAT), shape=scale.shape))
    next(n for n in model.graph if n.name == "w_quant").replace_input_with(1, model.graph.inputs[-1])
    ((name, reason),) = fold_weights(model).declined
    assert name == "w_quant" and "its scale 's' is computed at run time; expected an initializer" in reason


def test_an_initializer_that_a_caller_may_replace_stays():
    model = weight_model(quantizer("mxint8", np.ones((2, 32), np.float32)))
    model.graph.inputs.append(model.graph.initializers["w"])
    assert "also an input of the graph" in fold_weights(model).declined[0][1]


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formats", [("mxfp4_e2m1", "mxfp8_e4m3"), ("nvfp4", "nvfp4"), ("uint4_g32", "int8_g16")], ids=str
)
def test_packed_files_give_the_bits_of_float_ones(tmp_path, formats):
    torch.manual_seed(0)
    model, example = mx.quantize_model(Net(), *formats), (torch.randn(1, 3, 12, 12),)
    report = mx.export(model, example, tmp_path / "float.onnx")
    packed = mx.export(model, example, tmp_path / "packed.onnx", weights="packed")
    assert packed.layers == report.layers and packed.notes == []
    loaded = graph.load(tmp_path / "packed.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "packed.onnx"), full_check=True)
    names = [n.name for n in loaded.graph if graph.is_ours(n, graph.DEQUANTIZERS)]
    assert names == ["conv.weight_dequant", "body.0.weight_dequant", "head.weight_dequant"]
    for execute in EXECUTORS:
        tensors = [n.outputs[0].name for n in loaded.graph if graph.is_ours(n, graph.DEQUANTIZERS)]
        expected = execute(tmp_path / "float.onnx", inputs(), tensors)
        for name, value in execute(tmp_path / "packed.onnx", inputs(), tensors).items():
            assert_equal_bits(value, expected[name], name)
        assert not any(verification.count_quantizer_differences(loaded, inputs(), execute).values())


@pytest.mark.parametrize("name", MX_FORMATS)
def test_packed_files_take_the_bytes_of_codes_and_scales(tmp_path, name):
    model = mx.quantize_model(nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 32)), name, "mxint8")
    mx.export(model, (torch.randn(2, 1024),), tmp_path / "m.onnx", weights="packed")
    weights = 1024 * (1024 + 32)
    per_weight = (get_format(name).element.bits + 8 / 32) / 8
    assert (tmp_path / "m.onnx").stat().st_size <= 1.04 * per_weight * weights


def test_info_lists_packed_weights(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 4)), "mxfp4_e2m1", "mxint8")
    mx.export(model, (torch.randn(2, 40),), tmp_path / "m.onnx", weights="packed")
    done = CliRunner().invoke(cli.app, ["info", str(tmp_path / "m.onnx"), "--json"])
    rows = {row["name"]: row for row in json.loads(done.stdout)["quantizers"]}
    packed = rows["0.weight_dequant"]
    assert (packed["op"], packed["format"], packed["shape"]) == ("MXFloatDequant", "mxfp4_e2m1", [4, 40])
    assert packed["scale_shape"] == [4, 2]


def test_other_words_for_weights_are_refused(tmp_path):
    with pytest.raises(OptionError, match="weights 'codes': expected 'float' or 'packed'"):
        mx.export(mx.QuantLinear(8, 8), (torch.randn(2, 8),), tmp_path / "m.onnx", weights="codes")


def test_time_grows_with_the_number_of_weights_only(monkeypatch):
    """Every node is looked at once per pass, not once per weight."""
    looks = 0

    def counted(self):
        nonlocal looks
        looks += 1
        return iterate(self)

    b, iterate = Build(x=(2, 32)), ir.Graph.__iter__
    x = b.inputs[0]
    for i in range(12):
        x = b.op("MatMul", x, b.weight(np.eye(32, dtype=np.float32), "mxint8", 0, f"w{i}"))
    model = b.model(x)
    monkeypatch.setattr(ir.Graph, "__iter__", counted)
    assert len(fold_weights(model).changed) == 12 and looks < 12


def test_a_scale_that_a_branch_reads_too_stays_an_initializer():
    body = """z = If (c) <then_branch = t () => (float[32,1] o) { o = Neg(s) },
                          else_branch = e () => (float[32,1] p) { p = Abs(s) }>
      q = mxexport.ops.GroupwiseQuant<axis=1, group_size=32, bit_width=8, signed=1, narrow=1>(w, s)  y = MatMul(x, q)"""
    arrays = {"w": np.eye(32, dtype=np.float32), "s": np.full((32, 1), 0.5, np.float32)}
    model = text_model(body, "float[2,32] x, bool c", "float[2,32] y, float[32,1] z", **arrays)
    record = run_passes(model, [fold_weights], verify=True)
    assert [n.op_type for n in record.model.graph] == ["If", "GroupwiseDequant", "MatMul"]
