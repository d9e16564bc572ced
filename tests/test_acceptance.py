"""What `clean` and `convert` refuse before they start, and what they never write."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import mxexport as mx
from mxexport import targets
from mxexport.errors import MXExportError, UnsupportedError, VerificationError
from mxexport.model import graph
from mxexport.ops import DOMAIN
from mxexport.running import acceptance
from mxexport.targets import Converted, verifying
from tests.helpers import assert_equal_bits

RNG = np.random.default_rng(0)
W = (RNG.integers(-20, 20, (6, 4)) / 8).astype(np.float32)
X = (RNG.integers(-999, 999, (2, 6)) / 256).astype(np.float32)


def file(path, nodes, opset=20, outputs=("y",), domains=(), version=1, shape=(2, 4)):
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in outputs]
    made = helper.make_graph(nodes, "g", infos, results, [numpy_helper.from_array(W, "w")])
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, version) for d in domains)]
    onnx.save(helper.make_model(made, opset_imports=imports, ir_version=8), path)
    return path


def product(**rest):
    return [helper.make_node("MatMul", ["x", "w"], ["h"], name="m"), helper.make_node(**rest)]


RELU = {"op_type": "Relu", "inputs": ["h"], "outputs": ["y"], "name": "r"}
HOW = {
    "clean": lambda path, out: mx.clean(path, out),
    "qdq": lambda path, out: mx.convert(path, out, to="qdq"),
    "mxexport": lambda path, out: mx.convert(path, out, to="mxexport"),
    "finn": lambda path, out: mx.convert(path, out, to="finn"),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opset": 1}, "opset 1: expected 7 to .*bring the file to 18"),
        ({"opset": 6}, "opset 6: expected 7 to"),
        ({"opset": 99}, "opset 99: expected 7 to"),
        ({"opset": -1}, "opset -1: expected 7 to"),
        ({"outputs": ()}, "has no outputs"),
        ({"nodes": product(**RELU | {"op_type": "Rellu"})}, "r: ONNX has no operator Rellu at opset 20"),
        ({"nodes": product(**RELU | {"op_type": "Gelu"}), "opset": 19}, "r: ONNX has no operator Gelu at opset 19"),
        (
            {"nodes": product(**RELU | {"op_type": "Gelu", "domain": "com.microsoft"}), "domains": ["com.microsoft"]},
            "r: Gelu of domain 'com.microsoft'; expected one of .*before onnxruntime's optimizer",
        ),
        (
            {"nodes": product(**RELU | {"op_type": "Bar", "domain": "foo"}), "domains": ["foo"]},
            "r: Bar of domain 'foo'; expected one of .*function body",
        ),
        (
            {"nodes": product(**RELU | {"op_type": "Bar", "domain": DOMAIN}), "domains": [DOMAIN]},
            "r: mxexport.ops has no operator Bar|'r' .*has no operator 'Bar'",
        ),
        ({"domains": [DOMAIN], "version": 2}, "mxexport.ops version 2, expected version 1"),
    ],
)  # fmt: skip
def test_what_nobody_knows_is_refused_and_not_written(how, change, message, tmp_path):
    path = file(tmp_path / "m.onnx", **({"nodes": product(**RELU)} | change))
    with pytest.raises(MXExportError, match=f"(?s){message}"):
        HOW[how](path, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_every_unknown_operator_is_listed_once(tmp_path):
    nodes = [helper.make_node("Foo", ["x"], [f"h{i}"], name=f"n{i}", domain="foo") for i in range(3)]
    path = file(tmp_path / "m.onnx", nodes, outputs=("h2",), domains=["foo"])
    with pytest.raises(UnsupportedError) as caught:
        mx.clean(path, tmp_path / "out.onnx")
    assert [where for where, _ in caught.value.problems] == ["n0", "n1", "n2"]


def test_version_2_of_our_domain_is_read_by_nothing(tmp_path):
    path = file(tmp_path / "m.onnx", product(**RELU), domains=[DOMAIN], version=2)
    for attempt in (
        lambda: mx.run(path, X),
        lambda: graph.load(path),
        lambda: mx.clean(onnx.load(path), tmp_path / "o"),
    ):
        with pytest.raises(UnsupportedError, match="version 2, expected version 1"):
            attempt()


def test_a_function_of_the_file_itself_may_have_any_domain(tmp_path):
    path = file(tmp_path / "m.onnx", product(**RELU | {"op_type": "Twice", "domain": "own"}), domains=["own"])
    proto = onnx.load(path)
    inner = helper.make_node("Add", ["a", "a"], ["b"])
    proto.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)]))
    onnx.save(proto, path)
    mx.clean(path, tmp_path / "clean.onnx")
    mx.convert(path, tmp_path / "qdq.onnx", to="qdq")
    for name in ("clean", "qdq"):
        assert_equal_bits(mx.run(tmp_path / f"{name}.onnx", X)["y"], mx.run(path, X)["y"], name)


@pytest.mark.parametrize("opset", range(7, 22))
def test_operators_that_changed_keep_their_meaning_when_the_opset_is_raised(opset, tmp_path):
    """Before opset 13 Softmax works on the flattened rest of a tensor; taken for a later one, it gives other values."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0, name="s")]
    path = file(tmp_path / "m.onnx", nodes, opset, shape=(2, 6))
    wanted = mx.run(path, X)["y"]
    for to in ("qdq", "mxexport"):
        report = mx.convert(path, tmp_path / "out.onnx", to=to)
        assert report.verified == "equal bits" and report.opset == max(opset, {"qdq": 21, "mxexport": 18}[to])
        assert_equal_bits(mx.run(tmp_path / "out.onnx", X)["y"], wanted, to)


def test_a_result_that_onnxruntime_would_not_load_is_not_written():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 20]> g (float[2,6] x) => (float[2,9] y) '
                              "{ h = Relu(x) y = MatMul(h, x) }")  # fmt: skip
    with pytest.raises(UnsupportedError, match="here: onnxruntime would not load the file: .*MatMul"):
        acceptance.check_result(model, "here")
    acceptance.check_result(model, "here", loads=False)


def test_a_result_of_other_domains_than_promised_is_not_written():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 20, "qonnx.custom_op.general": 1]> '
                              "g (float[2] x, float s, float z, float b) => (float[2] y) "
                              "{ [q] y = qonnx.custom_op.general.Quant<signed=1, narrow=0>(x, s, z, b) }")  # fmt: skip
    acceptance.check_result(model, "here")
    with pytest.raises(UnsupportedError, match="q: Quant of domain 'qonnx.custom_op.general'; expected one of ''"):
        acceptance.check_result(model, "here", acceptance.STANDARD)


# --- both sides are executed ----------------------------------------------------------------------------------


def wrong(model: ir.Model, **options) -> Converted:
    copy = model.clone()
    copy.graph.initializers["w"].const_value = ir.tensor(W + np.float32(options.get("batch", 1)), name="w")
    return Converted(copy)


@pytest.mark.parametrize(("to", "expected"), [("qdq", "equal bits"), ("finn", "26 dB or equal values")])
def test_a_conversion_that_computes_something_else_is_not_written(to, expected, tmp_path, monkeypatch):
    path, out = file(tmp_path / "m.onnx", product(**RELU)), tmp_path / "out.onnx"
    monkeypatch.setattr(f"mxexport.targets.{to}.convert", wrong)
    with pytest.raises(VerificationError, match=f"output 'y' .*values differ, first at .*expected {expected}"):
        mx.convert(path, out, to=to)
    assert not out.exists()
    assert mx.convert(path, out, to=to, verify=False).verified == "not compared: verify=False" and out.exists()


def test_what_is_too_large_or_cannot_run_is_said_and_not_compared(tmp_path, monkeypatch):
    path, out = file(tmp_path / "m.onnx", product(**RELU)), tmp_path / "out.onnx"
    monkeypatch.setattr(verifying, "_MOST_BYTES", 10)
    assert mx.convert(path, out, to="qdq").verified == f"not compared: {W.nbytes} bytes of weights; verify=True does"
    assert mx.convert(path, out, to="qdq", verify=True).verified == "equal bits"
    monkeypatch.undo()
    nodes = [helper.make_node("Reshape", ["x", "size"], ["y"], name="r")]
    proto = onnx.load(file(path, nodes, shape=(3, 4)))
    proto.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, [2]))
    onnx.save(proto, path)
    assert "does not run on inputs drawn for it" in mx.convert(path, out, to="qdq").verified
    size = np.array([3, 4])
    assert mx.convert(path, out, to="qdq", verify={"x": X, "size": size}).verified == "equal bits"
    with pytest.raises(UnsupportedError, match="onnxruntime cannot execute"):
        mx.convert(path, out, to="qdq", verify={"x": X, "size": size + 1})


def test_inputs_given_are_split_where_the_result_has_a_batch_of_its_own(tmp_path):
    path, out = file(tmp_path / "m.onnx", product(**RELU)), tmp_path / "out.onnx"
    proto = onnx.load(path)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(proto, path)
    options = {"to": "hls4ml", "input_type": (16, 8), "verify": np.repeat(X, 2, 0)}
    assert targets.convert(path, out, **options).verified == "equal values"
    assert targets.convert(path, out, batch=2, **options).verified == "equal values"
    with pytest.raises(MXExportError, match="4 samples given, the converted model takes 3 at a time"):
        targets.convert(path, out, batch=3, **options)


def test_the_command_says_how_the_sides_compare(tmp_path):
    path = file(tmp_path / "m.onnx", product(**RELU))

    def run(*options):
        command = [
            sys.executable,
            "-m",
            "mxexport.cli",
            "convert",
            path,
            tmp_path / "q.onnx",
            "--to",
            "qdq",
            "-f",
            *options,
        ]
        return subprocess.run(command, capture_output=True, text=True)

    assert "compared with the source: equal bits" in run().stdout
    assert json.loads(run("--json", "--no-verify").stdout)["verified"] == "not compared: verify=False"
