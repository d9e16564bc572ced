"""Files from strangers are refused with a reason; files of any form run to the same bits."""

from __future__ import annotations

import os
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import mxexport as mx
from mxexport.cli._common import load_inputs
from mxexport.cli.files import _file_names
from mxexport.errors import InputFileError, OptionError, ShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.running import executors
from tests.helpers import assert_equal_bits
from tests.pass_helpers import model as text_model


def product(weight: np.ndarray) -> onnx.ModelProto:
    """x @ weight, then Relu."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


WEIGHT = np.random.default_rng(0).standard_normal((600, 500), np.float32)  # over a megabyte
X = np.random.default_rng(1).standard_normal((3, 600), np.float32)


def write_external(path, **entries) -> None:
    """A model at `path` whose weight lies where `entries` say, and the data file `w.bin` beside it."""
    proto = product(WEIGHT)
    (tensor,) = proto.graph.initializer
    path.with_name("w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin"} | entries).items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(proto.SerializeToString())


def test_data_files_run_and_load_to_the_same_bits(tmp_path):
    path = tmp_path / "m.onnx"
    write_external(path, offset=0, length=WEIGHT.nbytes)
    expected = executors.run(product(WEIGHT), X)["y"]
    for model in (path, graph.load(path), str(path)):
        assert_equal_bits(executors.run(model, X)["y"], expected)
        inner = executors.run(model, X, ["p"])["p"]
        assert_equal_bits(np.maximum(inner, 0), expected)
    np.testing.assert_allclose(executors.run_reference(path, X)["y"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(executors.run_qonnx(path, X)["y"], expected, rtol=1e-4, atol=1e-4)


def test_loading_maps_data_files_and_survives_their_replacement(tmp_path):
    path = tmp_path / "m.onnx"
    write_external(path)
    model = graph.load(path)
    array = model.graph.initializers["w"].const_value.numpy()
    assert not array.flags.owndata and not array.flags.writeable
    (tmp_path / "new").write_bytes(bytes(WEIGHT.nbytes))
    os.replace(tmp_path / "new", tmp_path / "w.bin")
    assert_equal_bits(np.array(model.graph.initializers["w"].const_value.numpy()), WEIGHT)


def test_running_leaves_an_ir_model_as_it_was():
    model = ir.from_proto(product(WEIGHT))
    before = model.graph.initializers["w"].const_value
    executors.run(model, X)
    assert model.graph.initializers["w"].const_value is before


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", ""])
def test_data_outside_the_directory_are_refused(tmp_path, location):
    (tmp_path / "inner").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(WEIGHT.nbytes))
    path = tmp_path / "inner" / "m.onnx"
    write_external(path, location=location)
    for read in (graph.load, executors.load_proto, lambda p: executors.run(p, X)):
        with pytest.raises(InputFileError, match="tensor 'w'.*inside the directory of the model"):
            read(path)


def test_links_out_of_the_directory_are_refused_and_links_inside_are_not(tmp_path):
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "m.onnx"
    write_external(path, location="link")
    (path.parent / "link").symlink_to("w.bin")
    graph.load(path)
    (path.parent / "link").unlink()
    (tmp_path / "outside").write_bytes(bytes(WEIGHT.nbytes))
    (path.parent / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(InputFileError, match="tensor 'w'.*link out of"):
        graph.load(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "missing.bin"}, "no such data file"),
        ({"offset": 4, "length": WEIGHT.nbytes}, "bytes 4 to 1200004 of"),
        ({"offset": -4}, "bytes -4 to"),
        ({"length": 12}, "12 bytes in .*need 1200000"),
        ({"length": 2**70}, "its shape and type need"),
        ({"offset": "x"}, "not a number"),
    ],
)
def test_data_that_do_not_fit_are_refused(tmp_path, entries, message):
    write_external(tmp_path / "m.onnx", **entries)
    with pytest.raises(InputFileError, match=f"tensor 'w'.*{message}"):
        graph.load(tmp_path / "m.onnx")


def test_data_inside_constants_and_functions_are_checked_too(tmp_path):
    bad = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    bad.external_data.add(key="location", value="../c.bin")
    for place in ("graph", "function"):
        proto = product(WEIGHT)
        node = helper.make_node("Constant", [], ["k"], value=bad)
        if place == "graph":
            proto.graph.node.append(node)
        else:
            imports = [helper.make_opsetid("", 20)]
            proto.functions.append(helper.make_function("d", "F", [], ["k"], [node], imports))
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(InputFileError, match="tensor 'c'"):
            graph.load(tmp_path / "m.onnx")


def test_corrupt_files_are_refused(tmp_path):
    path, whole = tmp_path / "m.onnx", product(WEIGHT).SerializeToString()
    short = product(WEIGHT)
    short.graph.initializer[0].raw_data = b"1234"
    for content in (b"", b"not a model", whole[:-1000], whole[1000:], short.SerializeToString()):
        path.write_bytes(content)
        for read in (graph.load, lambda p: executors.run(p, X)):
            with pytest.raises(InputFileError) as caught:
                read(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT16"])
def test_half_precision_inputs_and_outputs_keep_their_bits(kind):
    element = TensorProto.DataType.Value(kind)
    info = [helper.make_tensor_value_info(name, element, [None]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["wide"], ["minus"]),
        helper.make_node("Cast", ["minus"], ["y"], to=element),
    ]
    imports = [helper.make_opsetid("", 20)]
    proto = helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=imports, ir_version=10)
    x = np.array([1.5, -2.0, 0.1, 0.0, np.inf], np.float32)
    found = executors.run(proto, x)["y"]
    expected = -x.astype(helper.tensor_dtype_to_np_dtype(element))
    assert found.dtype == expected.dtype
    assert (found.view(np.uint16) == expected.view(np.uint16)).all()


def test_inputs_with_a_default_may_be_left_out():
    proto = product(WEIGHT)
    proto.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, list(WEIGHT.shape)))
    # A weight that may change is not packed for the product, whose sums then have another order.
    np.testing.assert_allclose(
        executors.run(proto, X)["y"], executors.run(product(WEIGHT), X)["y"], rtol=1e-4, atol=1e-4
    )
    assert not executors.run(proto, {"x": X, "w": WEIGHT * 0})["y"].any()
    with pytest.raises(ShapeError):
        executors.run(proto, {"w": WEIGHT})


def test_unknown_outputs_are_named():
    with pytest.raises(OptionError, match="no tensor 'q'"):
        executors.run(product(WEIGHT), X, ["y", "q"])


def test_quantized_models_run_alike_from_every_form(tmp_path):
    torch.manual_seed(0)
    model = mx.quantize_model(nn.Sequential(nn.Linear(600, 500), nn.ReLU(), nn.Linear(500, 4)), "mxfp4_e2m1", "mxint8")
    path, data = tmp_path / "m.onnx", tmp_path / "data.onnx"
    mx.export(model, (torch.zeros(1, 600),), path)
    loaded = graph.load(path)
    ir.save(loaded, data, external_data="data.bin")
    names = ["0.weight_quant", next(iter(executors.run(path, X)))]
    expected = executors.run(onnx.load(path), X, names)
    for form in (path, loaded, data, graph.load(data)):
        found = executors.run(form, X, names)
        for name in names:
            assert_equal_bits(found[name], expected[name])


def test_saving_over_the_file_that_was_loaded(tmp_path):
    write_external(tmp_path / "m.onnx")
    graph.save(graph.load(tmp_path / "m.onnx"), tmp_path / "m.onnx")
    assert_equal_bits(np.array(graph.load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy()), WEIGHT)


def test_arrays_with_code_in_them_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([object()], dtype=object))
    with pytest.raises(InputFileError, match="x.npz is not a .npy array or .npz file of numbers"):
        load_inputs(tmp_path / "x.npz")


def test_outputs_never_share_a_file():
    assert _file_names(["a/b", "a_b", "a:b"]) == {"a/b": "a_b.npy", "a_b": "a_b_1.npy", "a:b": "a_b_2.npy"}


@pytest.mark.parametrize("nested", [False, True])
def test_qonnx_imports_no_module_that_a_file_names(tmp_path, monkeypatch, nested):
    """qonnx looks an operator up in the Python module called like its domain."""
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    foreign = helper.make_node("Op", ["x"], ["y"], name="odd", domain="stranger")
    if nested:
        condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
        branch = helper.make_graph([foreign], "branch", [], [y])
        nodes = [condition, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    else:
        nodes = [foreign]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(UnsupportedError, match="node 'odd': domain 'stranger'"):
        executors.run_qonnx(model, np.ones(2, np.float32))


def test_qonnx_is_quiet_about_sizes_that_depend_on_values():
    """It takes what shape inference leaves open for 0, and would warn of every tensor that is not empty."""
    body = "c = Greater(x, z)  n = NonZero(c)  y = Cast<to = 1>(n)"
    model = text_model(body, "float[4] x", "float[1, n] y", z=np.zeros((), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = executors.run_qonnx(model, np.float32([1, -1, 2, 3]))["y"]
    np.testing.assert_array_equal(found, [[0, 2, 3]])
