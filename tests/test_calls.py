"""Calls that cannot be meant: one error of our own that says what was found and what was expected."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import mxexport as mx
from mxexport.errors import InputFileError, OptionError, ShapeError
from mxexport.running import executors
from mxexport.running.comparison import Tolerance, compare

X = np.arange(6, dtype=np.float32).reshape(2, 3)
EXECUTORS = {
    "onnxruntime": executors.run,
    "qonnx": executors.run_qonnx,
    "reference": executors.run_reference,
    "by name": lambda *args: executors.run(*args, executor="qonnx"),
}


def model() -> onnx.ModelProto:
    """y = -(x + w), t inside."""
    nodes = [helper.make_node("Add", ["x", "w"], ["t"], "add"), helper.make_node("Neg", ["t"], ["y"], "neg")]
    ends = [helper.make_tensor_value_info(name, 1, [2, 3]) for name in "xy"]
    g = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(params=["proto", "path"])
def given(request, tmp_path):
    if request.param == "proto":
        return model()
    onnx.save(model(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture(params=EXECUTORS)
def execute(request):
    return EXECUTORS[request.param]


@pytest.mark.parametrize(
    "outputs, message",
    [
        ([], "outputs is empty, so nothing would run; name a tensor, or give None"),
        ((), "outputs is empty"),
        ("y", r"outputs is the string 'y'; expected a list of names: \['y'\]"),
        ("", "outputs is the string ''"),
        (["y", None], "outputs holds None; expected names of tensors"),
        ([0], "outputs holds 0; expected names"),
        ([""], "outputs holds ''; expected names"),
        ([["y"]], r"outputs holds \['y'\]; expected names"),
        (1, "outputs is 1; expected a list of names, or None"),
        (["nothing"], "the graph has no tensor 'nothing'"),
    ],
    ids=repr,
)
def test_outputs_that_name_nothing_are_refused(execute, given, outputs, message):
    with pytest.raises(OptionError, match=message):
        execute(given, X, outputs)


def test_names_of_any_tensor_are_taken_from_any_iterable(execute, given):
    for names in (["y", "t"], ["y", "t", "y"], ("y", "t"), iter(["y", "t"]), {"y": 0, "t": 0}):
        found = execute(given, X, names)
        assert list(found) == ["y", "t"]
        np.testing.assert_array_equal(found["t"], X + 1)
    np.testing.assert_array_equal(execute(given, X, ["x"])["x"], X)
    np.testing.assert_array_equal(execute(given, X, ["w"])["w"], np.ones((2, 3)))


@pytest.mark.parametrize(
    "inputs, message",
    [
        (None, "input 'x': object that is not all float32"),
        ([], "0 inputs given, the graph takes 1: x"),
        ((X, X), "2 inputs given, the graph takes 1: x"),
        ({}, "inputs: no inputs given, the graph takes 'x'"),
        ({"x": X, 1: X}, "inputs: 'x', 1 given, the graph takes 'x'"),
        ({None: X}, "inputs: None given, the graph takes 'x'"),
        ({"x": None}, "input 'x': object that is not all float32"),
        ({"x": X, "y": X}, "inputs: 'x', 'y' given"),
        ("x", "input 'x'"),
        ({X.shape}, "input 'x': object"),
        (len, "input 'x': object"),
        ([[[1.0], [1.0, 2.0]]], "input 'x': list that is not all float32"),
    ],
    ids=repr,
)
def test_inputs_that_are_none_are_refused(execute, given, inputs, message):
    with pytest.raises(ShapeError, match=message):
        execute(given, inputs)


@pytest.mark.parametrize("what", [None, 3, b"m.onnx", [], {}, torch.nn.Linear(2, 2)], ids=lambda w: type(w).__name__)
def test_what_is_no_model_is_refused(execute, tmp_path, what):
    told = (
        "Linear is no ONNX file: write it with mxexport.export first" if callable(what) else "is no ONNX file: expected"
    )
    calls = [lambda: execute(what, X), lambda: mx.verify(what, model(), X), lambda: mx.verify(model(), what, X)]
    calls += [lambda: mx.clean(what, tmp_path / "c.onnx"), lambda: mx.compile(what, tmp_path / "d", calibration=X)]
    for call in calls:
        with pytest.raises(InputFileError, match=told):
            call()


@pytest.mark.parametrize("name", ["ort", "", None, 1, ["qonnx"], executors.run])
def test_an_executor_is_one_of_three(name):
    for call in (lambda: mx.run(model(), X, executor=name), lambda: mx.verify(model(), model(), X, executor=name)):
        with pytest.raises(OptionError, match="executor .*: expected one of onnxruntime, qonnx, reference"):
            call()


def test_run_takes_another_executor_by_name():
    for name in executors.EXECUTORS:
        np.testing.assert_array_equal(mx.run(model(), X, executor=name)["y"], -(X + 1))
    with pytest.raises(OptionError, match="flush_denormals is for onnxruntime; executor 'qonnx' has no such setting"):
        mx.run(model(), X, executor="qonnx", flush_denormals=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tensors": None}, "tensors None: expected 'shared', 'outputs' or a list"),
        ({"tensors": "t"}, "tensors 't': expected 'shared', 'outputs' or a list"),
        ({"tensors": [1]}, "tensors holds 1; expected names"),
        ({"tensors": ["u"]}, "tensors: not in both models: u"),
        ({"tensors": 5}, "tensors is 5; expected a list of names"),
        ({"tolerance": 0.1}, "tolerance 0.1: expected mxexport.running.verification.Tolerance"),
        ({"tolerance": 0}, "tolerance 0: expected"),
        ({"seed": "one"}, "seed is 'one'; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number"),
    ],
    ids=repr,
)
def test_options_of_verify_are_checked(options, message):
    with pytest.raises(OptionError, match=message):
        mx.verify(model(), model(), X, **options)


def test_no_tensors_inside_leave_the_outputs():
    assert [t.name for t in mx.verify(model(), model(), X, tensors=[]).tensors] == ["y"]


@pytest.mark.parametrize("bad", [{"rtol": "1"}, {"atol": np.nan}, {"max_ulp": 1.5}, {"max_ulp": True}, {"rtol": -1}])
def test_a_tolerance_is_made_of_numbers(bad):
    with pytest.raises(
        OptionError, match=r"tolerance: \w+ is .*; expected a (finite|whole) number that is not negative"
    ):
        Tolerance(**bad)


def test_compare_takes_arrays_and_a_tolerance():
    with pytest.raises(ShapeError, match="compare 't': the second is list; expected a numpy array"):
        compare("t", X, X.tolist())
    with pytest.raises(OptionError, match="tolerance None: expected"):
        compare("t", X, X, None)
    assert compare("t", np.float32(1), np.float32(1)).equal
