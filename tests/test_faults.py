"""Bad days: each fault gives one error of our own that says what was found and what to do, the right exit code, and
leaves nothing half-written."""

from __future__ import annotations

import json
import os
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
    assert verilator.find_tools().cxx[1:] == ("-O1",)


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
