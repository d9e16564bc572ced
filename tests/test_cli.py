"""The command: one clear line and the documented exit code for everything that can go wrong."""

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
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import COMMANDS, app
from mxexport.cli._common import load_inputs, save_array
from mxexport.cli.user_models import _call, example
from mxexport.errors import InputFileError, OptionError


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mxexport.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 4))
    mx.export(mx.quantize_model(mlp, "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 40),), directory / "mlp.onnx")
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softsign(), nn.Flatten(), nn.Linear(144, 4))
    mx.export(mx.quantize_model(cnn), (torch.zeros(1, 1, 8, 8),), directory / "cnn.onnx")
    np.save(directory / "x.npy", np.random.default_rng(0).random((20, 40), np.float32))
    return directory


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in (function.__name__ for function in COMMANDS):
        assert command in done.stdout
        assert run(command, "--help").returncode == 0


def test_info_and_run_speak_json(files, tmp_path):
    info = json.loads(run("info", files / "mlp.onnx", "--json").stdout)
    assert [q["format"] for q in info["quantizers"]] == ["mxfp4_e2m1"] * 2 + ["mxint8"] * 2  # constants first
    assert "mxfp4_e2m1" in run("info", files / "mlp.onnx").stdout
    for executor in ("onnxruntime", "qonnx", "reference"):
        done = run("run", files / "mlp.onnx", files / "x.npy", "--out", tmp_path / executor, "--executor", executor)
        assert done.returncode == 0, done.stderr
    assert json.loads(run("run", files / "mlp.onnx", files / "x.npy", "--out", tmp_path / "y.npy", "--json").stdout)
    assert np.load(tmp_path / "y.npy").shape == (20, 4)


def test_compile_simulate_report_on_the_command_line(files, tmp_path):
    out = tmp_path / "design"
    done = run("compile", files / "mlp.onnx", out, "--calibration", files / "x.npy", "--json")
    assert done.returncode == 0, done.stderr
    assert [layer["name"] for layer in json.loads(done.stdout)["layers"]] == ["0", "2"]
    done = run("simulate", out, files / "x.npy", "--out", tmp_path / "y.npy", "--stall", "0.3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["equals_dataflow"] is True
    assert json.loads(done.stdout)["saturated_inputs"] == 0
    assert "frames per second" in run("report", out).stdout


def test_several_inputs_and_outputs_by_name(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, left, right):
            y = self.a(left) + self.b(right)
            return y, torch.relu(y)

    example = (torch.zeros(1, 8), torch.zeros(1, 8))
    mx.export(mx.quantize_model(Two()), example, tmp_path / "two.onnx", output_names=["sum", "relu"])
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", **{n: rng.standard_normal((6, 8)).astype(np.float32) for n in ("right", "left")})
    done = run("compile", tmp_path / "two.onnx", "-o", tmp_path / "d", "--calibration", tmp_path / "x.npz")
    assert done.returncode == 0, done.stderr
    done = run("simulate", tmp_path / "d", tmp_path / "x.npz", "-o", tmp_path / "y.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["equals_dataflow"] is True and json.loads(done.stdout)["frames"] == 6
    found = load_inputs(tmp_path / "y.npz")
    assert np.array_equal(found["relu"], np.maximum(found["sum"], 0))


def test_a_frame_rate_out_of_reach_and_saturated_inputs_are_shown(files, tmp_path):
    out, x = tmp_path / "design", files / "x.npy"
    done = run("compile", files / "mlp.onnx", out, "--calibration", x, "--target-fps", "1e9")
    assert done.returncode == 0 and "target_fps 1e+09 is not reached: 2e+08 frames per second" in done.stdout
    assert "layer '0' takes 1 cycles per frame" in run("report", out).stdout
    np.save(tmp_path / "large.npy", np.load(x) * 1e6)
    done = run("simulate", out, tmp_path / "large.npy", "--out", tmp_path / "y.npy", "--json")
    assert json.loads(done.stdout)["saturated_inputs"] == 800


def test_exit_codes_and_one_clear_message(files, tmp_path):
    """Usage and files 2, unsupported model 3, missing tool 4; never a traceback."""
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01not a model")
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    x = files / "x.npy"
    cases = [
        (2, "unknown format 'mxfp5'", ("demo", "--format", "mxfp5")),
        (2, "no such file", ("info", tmp_path / "absent.onnx")),
        (2, "not a readable ONNX model", ("info", tmp_path / "bad.onnx")),
        (2, "no such file", ("run", files / "mlp.onnx", tmp_path / "absent.npy")),
        (2, "not a .npy array", ("run", files / "mlp.onnx", tmp_path / "bad.npy")),
        (2, "expected one of onnxruntime", ("run", files / "mlp.onnx", x, "--executor", "tvm")),
        (2, "no compiled design", ("report", tmp_path)),
        (2, "No such command", ("fly",)),
        (
            2,
            "clock_mhz is nan",
            ("compile", files / "mlp.onnx", tmp_path / "d", "--calibration", x, "--clock-mhz", "nan"),
        ),
        (
            2,
            "did you mean xczu7ev",
            ("compile", files / "mlp.onnx", tmp_path / "d", "--calibration", x, "--part", "xczu7ew"),
        ),
        (3, "node '1' (Abs)", ("compile", files / "cnn.onnx", tmp_path / "d", "--calibration", x)),
        (3, "has shape (20, 40)", ("run", files / "cnn.onnx", x)),
    ]
    for code, message, arguments in cases:
        done = run(*arguments)
        assert done.returncode == code, (arguments, done.returncode, done.stderr)
        assert message in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)


def test_wrong_scale_shape_in_a_file_is_named(files, tmp_path):
    model = onnx.load(files / "mlp.onnx")
    scale = next(i for i in model.graph.initializer if i.name == "0.weight_scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.ones((8, 40), np.float32), scale.name))
    onnx.save(model, tmp_path / "m.onnx")
    done = run("compile", tmp_path / "m.onnx", tmp_path / "d", "--calibration", files / "x.npy")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "'0.weight_quant'" in done.stderr and "scale has shape (8, 40), expected (8, 2)" in done.stderr
    done = run("run", tmp_path / "m.onnx", files / "x.npy", "--executor", "qonnx", "--out", tmp_path / "y.npy")
    assert done.returncode == 3 and "scale has shape (8, 40), expected (8, 2)" in done.stderr


def test_missing_compiler_gives_exit_code_4(files, tmp_path):
    out = tmp_path / "design"
    assert run("compile", files / "mlp.onnx", out, "--calibration", files / "x.npy").returncode == 0
    done = run("simulate", out, files / "x.npy", CXX="no-such-compiler")
    assert done.returncode == 4 and "g++" in done.stderr and "Traceback" not in done.stderr


def test_arrays_go_to_exactly_the_path_given(tmp_path):
    """numpy appends .npy to other names, and takes `file` for an argument of its own."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_array(tmp_path / "noext", array)
    assert np.array_equal(load_inputs(tmp_path / "noext"), array)
    save_array(tmp_path / "all.npz", {"file": array, "a/b": array[:0], "größe": array})
    loaded = load_inputs(tmp_path / "all.npz")
    assert list(loaded) == ["file", "a/b", "größe"] and np.array_equal(loaded["größe"], array)
    assert {f.name for f in tmp_path.iterdir()} == {"noext", "all.npz"}
    for path in (tmp_path, tmp_path / "no" / "y.npy"):
        with pytest.raises(InputFileError, match="cannot write"):
            save_array(path, array)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    save_array(tmp_path / "pipe", array)
    assert os.read(reader, 6) == b"\x93NUMPY" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_a_header_of_a_hopeless_size_is_no_array(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 40), }".ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header + bytes(100))
    with pytest.raises(InputFileError, match="not a .npy array"):
        load_inputs(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: example("1000000,100000000"), "torch cannot make it"),
        (lambda: example("99999999999999999999"), "torch cannot make it"),
        (lambda: _call(lambda: sys.exit(7), "net:build"), "net:build failed.*SystemExit: 7"),
    ],
)
def test_export_says_what_is_wrong_with_its_arguments(call, message):
    with pytest.raises(OptionError, match=message):
        call()


def test_the_version_is_shown():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output.strip() == f"mxexport {mx.__version__}"
