"""ONNX files that are damaged or made to harm: one of our errors at once, from every way to read them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import InputFileError, MXExportError, ShapeError, UnsupportedError
from mxexport.running import executors
from mxexport.running.drawing import random_inputs

X = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> onnx.ModelProto:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "m.onnx"
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    mx.export(mx.quantize_model(model, "mxfp8_e4m3", "mxint8"), torch.from_numpy(X), path)
    return onnx.load(path)


def attribute(name: str, **change):
    def damage(proto):
        for node in proto.graph.node:
            for a in node.attribute:
                if a.name == name:
                    for field, value in change.items():
                        setattr(a, field, value)

    return damage


def without_attributes(proto):
    for node in proto.graph.node:
        if node.domain:
            del node.attribute[:]


def one_input(proto):
    for node in proto.graph.node:
        if node.domain:
            del node.input[1:]


def dangling(proto):
    proto.graph.node[3].input[0] = "nothing"


def dangling_in_function(proto):
    proto.functions[0].node[-1].input[0] = "nothing"


def no_nodes(proto):
    del proto.graph.node[:]


def no_results(proto):
    name = proto.graph.initializer[0].name
    proto.graph.node.append(helper.make_node("Identity", [name], [], name="idle"))


def no_name(proto):
    proto.graph.initializer[0].name = ""


def too_few_numbers(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data[:] = [1.0] * 1599


def huge_without_numbers(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [2**33]


DAMAGES = {
    "zero group size": (attribute("group_size", i=0), "group_size is 0; expected at least 1"),
    "negative group size": (attribute("group_size", i=-32), "group_size is -32"),
    "huge group size": (attribute("group_size", i=2**62), "group_size is 4611686018427387904"),
    "axis": (attribute("axis", i=99), "axis 99 is outside"),
    "bit width": (attribute("bit_width", i=1000), "bit_width is 1000"),
    "exponent bits": (attribute("exponent_bits", i=60), "exponent_bits is 60"),
    "type of attribute": (
        attribute("axis", type=onnx.AttributeProto.FLOAT, f=1.5),
        "attribute axis is 1.5; expected whole",
    ),
    "no attributes": (without_attributes, "lacks the attribute axis"),
    "one input": (one_input, "has 1 inputs, expected X, scale"),
    "dangling": (dangling, "reads 'nothing', which nothing makes"),
    "dangling in a function": (dangling_in_function, "function .* reads 'nothing'"),
    "no nodes": (no_nodes, "no node makes the output"),
    "no results": (no_results, "node 'idle' .Identity. has no output"),
    "no name": (no_name, "has no name"),
    "too few numbers": (too_few_numbers, "holds 1599 numbers"),
    "huge without numbers": (huge_without_numbers, "holds 0 numbers"),
}


def ways(path, out):
    return {
        "run": lambda: mx.run(path, X),
        "verify": lambda: mx.verify(path, path, X),
        "clean": lambda: mx.clean(path, out),
        "convert": lambda: mx.convert(path, out, to="qdq"),
        "back": lambda: mx.convert(path, out, to="mxexport"),
        "qonnx": lambda: executors.run_qonnx(path, X),
        "reference": lambda: executors.run_reference(path, X),
    }


def write(proto, damage, path):
    damaged = onnx.ModelProto()
    damaged.CopyFrom(proto)
    damage(damaged)
    path.write_bytes(damaged.SerializeToString())
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models_are_refused_when_they_are_read(tmp_path, good, damage):
    change, message = DAMAGES[damage]
    path = write(good, change, tmp_path / "m.onnx")
    calls = ways(path, tmp_path / "out.onnx")
    if damage == "axis":
        del calls["back"]  # which looks at standard quantizers only
    for way, call in calls.items():
        with pytest.raises((InputFileError, ShapeError), match=message):
            call()
            pytest.fail(way)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("text", [b"0.weight_quant", b"mx_format", b"linear_1"])
def test_text_that_is_not_utf8_is_refused(tmp_path, good, text):
    path = tmp_path / "m.onnx"
    path.write_bytes(good.SerializeToString().replace(text, b"\xc3" * len(text)))
    for call in ways(path, tmp_path / "out.onnx").values():
        with pytest.raises(InputFileError, match="is not UTF-8"):
            call()


def cycle(proto):
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]


def unknown_operator(proto):
    proto.graph.node[-1].op_type = "Nope"


def no_opsets(proto):
    del proto.opset_import[:]


def sequence_input(proto):
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def recursive_function(proto):
    inner = helper.make_node("Again", ["x"], ["y"], domain="theirs")
    opsets = [helper.make_opsetid("theirs", 1)]
    proto.functions.append(helper.make_function("theirs", "Again", ["x"], ["y"], [inner], opsets))
    proto.opset_import.extend(opsets)
    proto.graph.node[-1].CopyFrom(
        helper.make_node("Again", proto.graph.node[-1].input[:1], proto.graph.node[-1].output, domain="theirs")
    )


@pytest.mark.parametrize("damage", [cycle, unknown_operator, no_opsets, sequence_input, recursive_function])
def test_graphs_that_make_no_sense_raise_our_errors_or_pass(tmp_path, good, damage):
    path = write(good, damage, tmp_path / "m.onnx")
    refused = []
    for way, call in ways(path, tmp_path / "out.onnx").items():
        try:
            call()
        except (UnsupportedError, ShapeError, InputFileError):
            refused.append(way)
    assert {"run", "verify"} <= set(refused)


def outside() -> TensorProto:
    tensor = TensorProto(name="c", dims=[3], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def in_a_constant(proto):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside())
    proto.graph.node.insert(0, node)
    proto.graph.output.append(helper.make_tensor_value_info("c", 1, [3]))


def in_a_branch(proto):
    result = helper.make_tensor_value_info("o", 1, [3])
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["o"])], "b", [], [result], [outside()])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    proto.graph.node.append(helper.make_node("If", ["condition"], ["c2"], then_branch=body, else_branch=body))
    proto.graph.output.append(helper.make_tensor_value_info("c2", 1, [3]))


def in_a_function(proto):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside())
    proto.functions[0].node.insert(0, node)


@pytest.mark.parametrize("place", [in_a_constant, in_a_branch, in_a_function])
def test_no_tensor_anywhere_takes_its_data_from_outside_the_directory(tmp_path, good, place):
    path = write(good, place, tmp_path / "m.onnx")
    for way, call in ways(path, tmp_path / "out.onnx").items():
        with pytest.raises(InputFileError, match="expected a path inside the directory"):
            call()
            pytest.fail(way)


# --- inputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array", [np.full((2, 40), "a"), np.zeros((2, 40), np.complex64), np.full((2, 40), None), [[1.0], [2.0, 3.0]]]
)
def test_inputs_that_are_no_numbers_are_refused(good, array):
    with pytest.raises(ShapeError, match="input 'input'"):
        executors.run(good, {"input": array})


def test_numbers_that_an_integer_input_cannot_hold_are_refused(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 40), nn.Linear(40, 3))
    path = tmp_path / "m.onnx"
    mx.export(mx.quantize_model(model, "mxint8"), torch.tensor([[1, 2]]), path)
    assert mx.run(path, np.array([[1.0, 2.0]], np.float32))["linear"].shape == (1, 2, 3)
    for wrong in ([[1.5, 2.0]], [[np.nan, 2.0]], [[2**63, 2]]):
        with pytest.raises(ShapeError, match="that is not all int64"):
            mx.run(path, np.array(wrong))


@pytest.mark.parametrize("fmt, weights", [("mxint8", "float"), ("mxint8", "packed"), ("float_e4m3_g16", "float")])
def test_made_up_indices_fit_quantized_tables(tmp_path, fmt, weights):
    """The table has 3 rows, behind its quantizer and, as standard ONNX, a dequantizer or a look-up of codes."""
    torch.manual_seed(0)
    path = tmp_path / "m.onnx"
    ids = torch.tensor([[1, 2]], dtype=torch.int32)
    mx.export(mx.quantize_model(nn.Sequential(nn.Embedding(3, 40)), fmt, None), ids, path, weights=weights)
    mx.convert(path, tmp_path / "q.onnx", to="qdq")
    assert mx.verify(path, tmp_path / "q.onnx") and mx.verify(tmp_path / "q.onnx", path)


def test_inputs_of_hopeless_sizes_are_not_made_up(good):
    huge = onnx.ModelProto()
    huge.CopyFrom(good)
    for size in (2**50, -5):
        huge.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
        with pytest.raises(ShapeError, match="cannot be made up"):
            random_inputs(huge)


def test_an_element_type_that_onnx_does_not_know_is_refused(good, tmp_path):
    strange = onnx.ModelProto.FromString(good.SerializeToString())
    strange.graph.input[0].type.tensor_type.elem_type = 77
    (tmp_path / "m.onnx").write_bytes(strange.SerializeToString())
    with pytest.raises(InputFileError, match="has the element type 77"):
        mx.verify(tmp_path / "m.onnx", tmp_path / "m.onnx")


def test_a_graph_without_outputs_gives_no_file(good, tmp_path):
    empty = onnx.ModelProto.FromString(good.SerializeToString())
    del empty.graph.output[:]
    (tmp_path / "m.onnx").write_bytes(empty.SerializeToString())
    np.save(tmp_path / "x.npy", next(iter(random_inputs(empty).values())))
    command = ["run", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "--out", str(tmp_path / "y.npy")]
    for executor in ("reference", "qonnx", "onnxruntime"):
        assert isinstance(CliRunner().invoke(app, [*command, "--executor", executor]).exception, MXExportError)
    assert not (tmp_path / "y.npy").exists()
