"""Executors run the bodies of the operators, not those that a file brings under their names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.model import bodies, graph
from mxexport.running import executors
from tests.helpers import assert_equal_bits

X = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)
EXECUTORS = [executors.run, executors.run_reference, executors.run_qonnx]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> onnx.ModelProto:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "m.onnx"
    mx.export(mx.quantize_model(nn.Linear(40, 5), "mxfp8_e4m3", "mxint8"), torch.from_numpy(X), path)
    return onnx.load(path)


def copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(proto.SerializeToString())


def changed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The scales of the file's own body are twice those of the operator."""
    (body,) = (f for f in proto.functions if f.name == "MXScale")
    last = body.node[-1]
    made, last.output[0] = last.output[0], "half"
    body.node.append(helper.make_node("Add", ["half", "half"], [made]))
    return proto


def without(proto: onnx.ModelProto) -> onnx.ModelProto:
    del proto.functions[:]
    return proto


def test_an_exported_file_is_run_as_it_is(good):
    assert bodies.are_ours(good)


@pytest.mark.parametrize("damage", [changed, without])
@pytest.mark.parametrize("form", ["proto", "path", "onnx-ir"])
def test_the_operators_mean_what_they_are_specified_to_mean(tmp_path, good, damage, form):
    expected = executors.run(good, X)
    model = damage(copy(good))
    assert not bodies.are_ours(model)
    onnx.save(model, tmp_path / "m.onnx")
    given = {"proto": model, "path": tmp_path / "m.onnx", "onnx-ir": graph.load(tmp_path / "m.onnx")}[form]
    for execute in EXECUTORS:
        for name, array in execute(given, X).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)  # order of float32 sums
    asked = good.graph.node[-1].input[0]
    assert_equal_bits(executors.run(given, X, [asked])[asked], executors.run(good, X, [asked])[asked])
    assert model == damage(copy(good)), "the model itself must stay as it was"


def test_operators_inside_functions_of_the_file_get_their_bodies(good):
    model = without(copy(good))
    node = next(n for n in model.graph.node if n.op_type == "MXScale")
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    inner.input[:], inner.output[:] = ["x"], ["y"]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    model.functions.append(helper.make_function("theirs", "Scale", ["x"], ["y"], [inner], opsets))
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    node.CopyFrom(helper.make_node("Scale", node.input, node.output, domain="theirs"))
    assert not bodies.are_ours(model)
    for name, array in executors.run(model, X).items():
        assert_equal_bits(array, executors.run(good, X)[name])


def test_an_operator_that_is_not_there_is_named(good):
    model = copy(good)
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Nope", ops.DOMAIN
    for execute in EXECUTORS:
        with pytest.raises(UnsupportedError, match="Nope"):
            execute(model, X)


def test_quantizers_of_qonnx_run_without_a_body_in_the_file():
    node = helper.make_node(
        "Quant",
        ["x", "s", "z", "b"],
        ["y"],
        domain="qonnx.custom_op.general",
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
    )
    values = [numpy_helper.from_array(np.float32(v), name) for name, v in (("s", 0.25), ("z", 0), ("b", 4))]
    tensors = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 40]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", tensors[:1], tensors[1:], values),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("qonnx.custom_op.general", 2)],
        ir_version=10,
    )
    expected = np.clip(np.round(X / np.float32(0.25)), -8, 7) * np.float32(0.25)
    for execute in EXECUTORS:
        np.testing.assert_array_equal(execute(model, X)["y"], expected)
