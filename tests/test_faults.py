"""Bad days: each fault gives one error of our own that says what was found and what to do, the right exit code, and
leaves nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import InputFileError, OptionError, UnsupportedError
from mxexport.fpga.tools import verilator
from mxexport.model import graph
from mxexport.model.yaml_tables import read_table

X = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "m.onnx"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5))
    mx.export(mx.quantize_model(model, "mxint8", "mxint8"), (torch.zeros(1, 32),), path)
    return path


def changed(file, path, change) -> str:
    model = onnx.load(file)
    change(model)
    onnx.save(model, path)
    return str(path)


def set_opset(version):
    def change(model):
        for entry in model.opset_import:
            entry.version = version if entry.domain == "" else entry.version

    return change


def reverse(model):
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def cycle(model):
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def untyped(model):
    model.functions[0].node[0].attribute.add().name = "bad"


@pytest.mark.parametrize(
    "change, error, message",
    [
        (set_opset(99), UnsupportedError, r"opset 99: expected 7 to \d+"),
        (set_opset(0), UnsupportedError, r"opset 0: expected 7 to \d+"),
        (lambda m: setattr(m, "ir_version", 99), UnsupportedError, r"IR version 99: expected 1 to \d+"),
        (untyped, InputFileError, "attribute 'bad' has no type"),
    ],
)
def test_files_that_no_tool_here_knows(file, tmp_path, change, error, message):
    bad = changed(file, tmp_path / "bad.onnx", change)
    for call in (
        lambda: mx.run(bad, X),
        lambda: mx.compile(bad, tmp_path / "d", calibration=X),
        lambda: mx.clean(bad, tmp_path / "c.onnx"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx"]


def test_nodes_in_any_order_but_no_cycle(file, tmp_path):
    sorted_one = mx.run(file, X)
    unsorted = changed(file, tmp_path / "unsorted.onnx", reverse)
    design = mx.compile(unsorted, tmp_path / "d", calibration=X)
    wanted = mx.compile(file, tmp_path / "e", calibration=X).run_dataflow(X).raw
    np.testing.assert_array_equal(design.run_dataflow(X).raw, wanted)
    np.testing.assert_array_equal(*(list(r.values())[0] for r in (mx.run(unsorted, X), sorted_one)))
    with pytest.raises(InputFileError, match="its graph has a cycle"):
        graph.load(changed(file, tmp_path / "cycle.onnx", cycle))


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: {pe: 1, simd: 1}\na: {pe: 2, simd: 1}\n", "line 2: 'a' is there twice"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("- 1\n- 2\n", "expected a table of layer.*, found list"),
        ("a: !!python/object/apply:os.system [echo]\n", "not readable YAML"),
        ("a: 1\n" + "# filler\n" * 200_000, "expected a table of at most 1,048,576"),
        ("a: \x00", "not readable YAML"),
        ("? [1, 2]\n: 3\n", "not readable YAML"),
    ],
)
def test_tables_that_are_none(file, tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises((InputFileError, OptionError), match=message):
        read_table(path, "layer: {pe: …}")
    with pytest.raises((InputFileError, OptionError)):
        mx.compile(file, tmp_path / "d", calibration=X, folding=path)


def test_compilers_that_are_broken_missing_or_have_options(monkeypatch):
    for value, message in (("/nope", "compiler /nope"), ("false", "exit code 1"), ("sh -c 'exit 3'", "exit code 3")):
        monkeypatch.setenv("CXX", value)
        with pytest.raises(mx.errors.MissingToolError, match=message):
            verilator.find_tools()
    monkeypatch.setenv("CXX", "g++ -O1")
    assert verilator.find_tools().cxx[1:2] == ("-O1",)


def command(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mxexport.cli", *map(str, words)], capture_output=True, text=True, env=os.environ | env
    )


def test_the_command_line_never_writes_over_its_input_or_unasked(file, tmp_path):
    copy = tmp_path / "m.onnx"
    copy.write_bytes(file.read_bytes())
    for words in (("clean", copy, copy, "-f"), ("convert", copy, copy, "--to", "qdq", "-f")):
        done = command(*words)
        assert done.returncode == 2 and "is the input itself" in done.stderr
    other = tmp_path / "o.onnx"
    assert command("clean", copy, other).returncode == 0
    before = other.read_bytes()
    done = command("clean", copy, other)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "-f to write over it" in done.stderr
    assert other.read_bytes() == before and copy.read_bytes() == file.read_bytes()
    assert command("clean", copy, other, "--force").returncode == 0


def test_devices_directories_and_pipes_are_no_models(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputFileError, match="is no file, but a directory or device"):
            mx.run(path, X)


def test_check_says_of_every_node_what_a_target_cannot_take(file):
    assert command("check", file).stdout.endswith("no problems for fpga\n")
    done = command("check", file, "--for", "hls4ml")
    assert done.returncode == 3 and "(MXScale)" in done.stdout and "problems for hls4ml" in done.stdout
    found = json.loads(command("check", file, "--for", "hls4ml", "--json").stdout)
    assert found["problems"] and set(found["problems"][0]) == {"where", "reason"}
    assert command("check", file, "--for", "moon").returncode == 2
    assert command("view", str(file) + ".gone").returncode == 2


def test_designs_show_themselves(file, tmp_path):
    design = mx.compile(file, tmp_path / "a<b", calibration=X)
    assert "2 layers for xczu7ev" in repr(design) and "LUT" in repr(design)
    assert "a&lt;b" in design._repr_html_() and "<b" not in design._repr_html_().replace("<br", "")


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++ here (apt-get install clang)")
def test_simulators_are_built_by_clang_too(file, tmp_path, monkeypatch):
    """As on macOS, where g++ is clang."""
    monkeypatch.setenv("CXX", "clang++")
    design = mx.compile(file, tmp_path / "d", calibration=X)
    assert (design.simulate(X, stall_in=0.3).raw == design.run_dataflow(X).raw).all()
    assert "clang" in verilator.find_tools().version


def test_files_that_say_nothing_of_inner_shapes_compile(file, tmp_path):
    """ONNX does not ask for them; other tools leave them out."""
    bare = changed(file, tmp_path / "bare.onnx", lambda m: m.graph.ClearField("value_info"))
    design = mx.compile(bare, tmp_path / "d", calibration=X)
    assert (design.run_dataflow(X).raw == mx.compile(file, tmp_path / "e", calibration=X).run_dataflow(X).raw).all()
    assert mx.check(bare, "fpga") == []


def test_an_inner_graph_that_stands_before_what_it_reads_is_sorted(file, tmp_path):
    def nest(model):
        last = model.graph.node[-1].output[0]
        inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", [last], ["inside"])], "g", [], [])
        inner.output.add().name = "inside"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.insert(0, onnx.helper.make_node("If", ["yes"], ["o"], then_branch=inner, else_branch=inner))
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[1].name = "o"

    bad = changed(file, tmp_path / "nested.onnx", nest)
    mx.clean(bad, tmp_path / "c.onnx")
    found = mx.run(tmp_path / "c.onnx", X)
    assert np.array_equal(found["o"], next(iter(found.values())))


def _conv(**changes):
    """A change that puts another call of an operator in front of the model."""

    def change(model):
        given = {"op_type": "Relu", "inputs": [model.graph.input[0].name], "outputs": ["odd"]} | changes
        model.graph.node.add().CopyFrom(onnx.helper.make_node(**given))

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (_conv(op_type="Conv"), r"\(Conv\) has 1 inputs, expected 2 to 3"),
        (_conv(op_type="Relu", outputs=["a", "b"]), r"\(Relu\) has 2 outputs, expected 1"),
        (_conv(op_type="MatMul", inputs=["input", ""]), r"\(MatMul\) lacks its input B"),
        (_conv(op_type="Cast"), r"\(Cast\) lacks its attribute to"),
        (_conv(op_type="Softmax", axis="one"), r"\(Softmax\): attribute axis is of type STRING, expected INT"),
        (
            _conv(op_type="Quant", domain="qonnx.custom_op.general", inputs=["input"] * 4, rounding_mode=1.5),
            r"\(Quant\): attribute rounding_mode is of type FLOAT, expected STRING",
        ),
        (lambda m: m.ClearField("opset_import"), "does not say which opset"),
    ],
)
def test_calls_that_no_operator_has(file, tmp_path, change, message):
    bad = changed(file, tmp_path / "bad.onnx", change)
    for call in (
        lambda: mx.run(bad, X),
        lambda: mx.compile(bad, tmp_path / "d", calibration=X),
        lambda: mx.clean(bad, tmp_path / "c.onnx"),
        lambda: mx.check(bad, "hls4ml"),
    ):
        with pytest.raises(InputFileError, match=message):
            call()


def test_arrays_with_a_damaged_header(tmp_path):
    from mxexport.cli._common import load_inputs

    np.save(tmp_path / "x.npy", X)
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data.replace(b"(8, 32)", b"(8, 32 "))
    with pytest.raises(InputFileError, match="is not a .npy array"):
        load_inputs(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda r: r.pop("cells"), "it lacks 'cells'"),
        (lambda r: r.update(clock_mhz="fast"), ".clock_mhz is str, expected float"),
        (lambda r: r["layers"].append(3), r".layers\[2\] is int, expected a table"),
        (lambda r: r["layers"][0].update(cycles=10**30), "is out of all range"),
        (lambda r: r.update(next_step={"more": {}}), ".next_step lacks 'layer_cycles'"),
        (lambda r: r["foldings"].update(odd={"pe": 1, "simd": 1}), "do not belong together"),
        (lambda r: next(iter(r["foldings"].values())).update(odd=1), "foldings nobody knows"),
    ],
)
def test_reports_that_compile_did_not_write(file, tmp_path, change, words):
    design = mx.compile(file, tmp_path / "d", calibration=X)
    report = json.loads((design.path / "report.json").read_text())
    change(report)
    (design.path / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputFileError, match=words):
        mx.open_design(design.path).simulate(X)


def test_a_dataflow_graph_that_was_changed(file, tmp_path):
    design = mx.compile(file, tmp_path / "d", calibration=X)
    model = onnx.load(design.path / "dataflow.onnx")
    node = next(n for n in model.graph.node if n.op_type == "MXMatMul")
    del node.metadata_props[:]
    onnx.save(model, design.path / "dataflow.onnx")
    with pytest.raises(InputFileError, match="does not describe a unit: .*compile it again"):
        mx.open_design(design.path).simulate(X)
