"""The command `quantize`: a float model in a file to a quantized ONNX file, static scales included."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import FormatError, InputFileError, OptionError, UnsupportedError

MODULE = """
import torch, mxexport
from torch import nn

def cnn():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(32, 5)).eval()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(40, 8), nn.Linear(24, 8)
    def forward(self, left, right):
        return self.a(left) + self.b(right)

class Gram(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
    def forward(self, x):
        x = self.fc(x)
        return x @ x.mT

ready = mxexport.quantize_model(Two())
"""
X = np.random.default_rng(0).standard_normal((70, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "quantize_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.savez("two.npz", right=np.ones((3, 24), np.float32), left=np.zeros((3, 40)))

    def invoke(*arguments: str):
        return CliRunner().invoke(app, list(map(str, arguments)))

    return invoke


def test_the_road_to_other_tools_without_python(call, tmp_path):
    done = call("quantize", "quantize_nets.py:cnn", "--calibration", "x.npy", "--static", "-o", "s.onnx")
    assert done.exit_code == 0, done.output
    assert "1: folded into 0" in done.stdout and "written: s.onnx" in done.stdout
    for target in ("hls4ml", "finn"):
        done = call("convert", "s.onnx", "--to", target)
        assert done.exit_code == 0, done.output
        assert (tmp_path / f"s_{target}.onnx").is_file() and f"written: s_{target}.onnx" in done.stdout


def test_scales_are_those_of_all_frames_in_eval_mode(call):
    call("quantize", "quantize_nets.py:cnn", "--calibration", "x.npy", "--static", "--recipe", "none", "-o", "s.onnx")
    found = mx.run("s.onnx", X)
    namespace = {}
    exec(MODULE, namespace)
    static = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
    model = mx.quantize_model(namespace["cnn"](), "mxint8", static).eval()
    model(torch.tensor(X))
    mx.freeze_scales(model)
    np.testing.assert_allclose(next(iter(found.values())), model(torch.tensor(X)).detach().numpy(), atol=1e-5)


def test_formats_by_layer_and_what_became_of_every_layer(call, tmp_path):
    (tmp_path / "formats.yaml").write_text('"5": {weight: mxfp4_e2m1, activation: {format: mxint8, source: static}}\n')
    arguments = ("--calibration", "x.npy", "--weight", "mxfp6_e2m3", "--formats", "formats.yaml", "--exclude", "0")
    done = call("quantize", "quantize_nets:cnn", *arguments, "--recipe", "none", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["path"] == "cnn.onnx" and [c["name"] for c in told["conversion"]["converted"]] == ["5"]
    assert told["conversion"]["converted"][0]["activation"] == "mxint8 static"
    assert "excluded by '0'" in str(told["conversion"]["left"])


def test_arguments_of_forward_by_name(call):
    done = call("quantize", "quantize_nets:Two", "--calibration", "two.npz", "--static")
    assert done.exit_code == 0, done.output
    fed = {"right": np.ones((1, 24), np.float32), "left": np.zeros((1, 40), np.float32)}
    assert next(iter(mx.run("Two.onnx", fed).values())).shape == (1, 8)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (["--static"], OptionError, "--static: constant scales are found from typical inputs"),
        ([], OptionError, "give --input 1,3,32,32"),
        (["--calibration", "absent.npy"], InputFileError, "no such file: absent.npy"),
        (["--calibration", "scalar.npy"], InputFileError, "expected arrays with the batch first"),
        (["--calibration", "empty.npy"], InputFileError, "expected arrays with the batch first"),
        (["--calibration", "text.npy"], InputFileError, "expected real numbers"),
        (["--calibration", "uneven.npz"], InputFileError, "arrays of different numbers of frames"),
        (["--calibration", "wrong.npy", "--static"], UnsupportedError, "forward fails on example_inputs"),
        (["--calibration", "x.npy", "--weight", "mxfp4"], FormatError, "mxfp4"),
        (["--calibration", "x.npy", "--formats", "absent.yaml"], InputFileError, "absent.yaml"),
        (["--calibration", "x.npy", "--exclude", "heed"], UnsupportedError, "'heed' matches no module"),
        (["a.onnx", "-o", "b.onnx", "--calibration", "x.npy"], OptionError, "two names for what is written"),
    ],
)
def test_what_cannot_be(call, tmp_path, arguments, error, words):
    np.save("scalar.npy", np.float32(3))
    np.save("empty.npy", X[:0])
    np.save("text.npy", np.array(["a", "b"]))
    np.save("wrong.npy", X[:, :2])
    np.savez("uneven.npz", a=X, b=X[:3])
    before = sorted(tmp_path.iterdir())
    done = call("quantize", "quantize_nets:cnn", *arguments)
    assert isinstance(done.exception, error) and words in str(done.exception)
    left = [p for p in tmp_path.iterdir() if p not in before and p.name != "__pycache__"]
    assert left == []


def test_a_model_that_is_quantized_already_and_files_elsewhere(call):
    for where, words in (("quantize_nets:ready", "quantized already"), ("../a.py:b", "from the current directory")):
        done = call("quantize", where, "--input", "1,4")
        assert isinstance(done.exception, OptionError) and words in str(done.exception)


def test_results_are_not_written_over(call):
    assert call("quantize", "quantize_nets:cnn", "--input", "1,3,8,8").exit_code == 0
    done = call("quantize", "quantize_nets:cnn", "--input", "1,3,8,8")
    assert "cnn.onnx is there already" in str(done.exception)
    assert call("quantize", "quantize_nets:cnn", "--input", "1,3,8,8", "-f").exit_code == 0
    assert call("clean", "cnn.onnx").exit_code == 0
    assert "cnn_clean.onnx is there already" in str(call("clean", "cnn.onnx").exception)


@pytest.mark.parametrize("given", [("--input", "2,5,8"), ("--calibration", "tokens.npy")])
def test_products_of_activations_are_quantized_if_asked(call, tmp_path, given):
    np.save("tokens.npy", np.ones((3, 5, 8), np.float32))
    for asked, said in (([], "attention=True quantizes them"), (["--attention"], "product_1: QuantMatMul")):
        done = call("quantize", "quantize_nets.py:Gram", *given, *asked, "-f", "-o", "g.onnx")
        assert done.exit_code == 0 and said in done.stdout, done.output
