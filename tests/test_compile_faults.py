"""Bad days of `compile` and of a compiled design: one error of ours each, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import InputFileError

X = np.random.default_rng(0).integers(-128, 128, (8, 32)).astype(np.float32) / 128


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "m.onnx"
    torch.manual_seed(0)
    mx.export(mx.quantize_model(nn.Sequential(nn.Linear(32, 4)), "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 32),), path)
    return path


@pytest.fixture(scope="module")
def compiled(model):
    return mx.compile(model, model.parent / "compiled", calibration=X).path


@pytest.mark.parametrize(
    "place, words",
    [
        ("file", "file is no directory; give another name"),
        ("file/under/it", "file is no directory; give another name"),
        ("n" * 10_000, "File name too long"),
        ("n\0l", "cannot write to"),
    ],
    ids=["a file", "below a file", "a long name", "a name with NUL"],
)
def test_places_where_no_design_can_go(model, tmp_path, place, words):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputFileError, match="^compile: cannot write to") as caught:
        mx.compile(model, tmp_path / place, calibration=X)
    assert words in str(caught.value) and len(str(caught.value)) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"


def test_a_disk_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    design = mx.compile(model, tmp_path / "d", calibration=X)
    before = {p: p.read_bytes() for p in design.path.rglob("*") if p.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(InputFileError, match="cannot write to .*: No space left on device"):
        mx.compile(model, tmp_path / "d", calibration=X, margin=3)
    assert {p: p.read_bytes() for p in design.path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("text", ["", "hello", "{}", "[]", "3", json.dumps({"top": "mx_top"}), "[" * 100_000])
def test_a_report_that_compile_did_not_write(compiled, tmp_path, text):
    shutil.copytree(compiled, tmp_path / "d")
    (tmp_path / "d" / "report.json").write_text(text)
    with pytest.raises(InputFileError, match="is no report of a compiled design.*compile it again"):
        mx.open_design(tmp_path / "d")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "d")])
    assert isinstance(result.exception, InputFileError)


@pytest.mark.parametrize("key", ["clock_mhz", "frames_per_second", "cycles_per_frame"])
def test_rates_in_a_report_are_above_zero(compiled, tmp_path, key):
    shutil.copytree(compiled, tmp_path / "d")
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    for number in (0, -3):
        (tmp_path / "d" / "report.json").write_text(json.dumps(report | {key: type(report[key])(number)}))
        with pytest.raises(InputFileError, match=f"{key} is .*, expected a number above 0"):
            mx.open_design(tmp_path / "d")


@pytest.mark.parametrize("name", ["rtl/mx_top.sv", "rtl/mx_matmul.sv", "dataflow.onnx"])
def test_a_file_of_the_design_is_missing(compiled, tmp_path, name):
    shutil.copytree(compiled, tmp_path / "d")
    (tmp_path / "d" / name).unlink()
    with pytest.raises(InputFileError, match=name.replace(".", "[.]")):
        mx.open_design(tmp_path / "d").simulate(X)


def test_a_dataflow_graph_of_empty_frames_is_refused(compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "d")
    path = tmp_path / "d" / "dataflow.onnx"
    changed = onnx.load(path)
    changed.graph.input[0].type.tensor_type.shape.dim[-1].dim_value = 0
    onnx.save(changed, path)
    with pytest.raises(InputFileError, match="carries frames of .*0.*no length below 1"):
        mx.open_design(tmp_path / "d").simulate(X)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("weight_codes", lambda a: a.astype(np.float32), "W_codes is float, expected uint8"),
        ("weight_codes", lambda a: a | 0xF0, "a weight has the code 25[0-9]; expected 4 bits"),
        ("weight_scale_codes", lambda a: a.T, "W_scale has shape"),
        ("bias", lambda a: a[:-1], "bias has shape"),
    ],
)
def test_constants_that_do_not_fit_their_operator_are_refused(compiled, tmp_path, name, change, words):
    shutil.copytree(compiled, tmp_path / "d")
    path = tmp_path / "d" / "dataflow.onnx"
    changed = onnx.load(path)
    tensor = next(t for t in changed.graph.initializer if t.name.endswith(name))
    array = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor)))
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(changed, path)
    with pytest.raises(InputFileError, match=f"{words}.*compile it again"):
        mx.open_design(tmp_path / "d").simulate(X)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX systems")
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputFileError, match="is no file"):
        mx.compile(tmp_path / "pipe", tmp_path / "d", calibration=X)
