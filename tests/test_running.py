"""The settings of `executors.run` that keep memory low are in force, and change no bit of a packed model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import OptionError, ShapeError
from mxexport.model import graph
from mxexport.native.building import SWITCH
from mxexport.running import executors, native_operators
from tests.helpers import assert_equal_bits

X = np.random.default_rng(0).standard_normal((3, 64), np.float32)


@pytest.fixture(scope="module", params=["float", "packed"])
def path(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    model = mx.quantize_model(net, "mxfp4_e2m1", "mxfp8_e4m3")
    mx.export(model, torch.from_numpy(X), path, weights=request.param)
    return path


def constant_only(proto: onnx.ModelProto) -> list[bool]:
    """Per node: does it compute from initializers alone?"""
    known, found = {i.name for i in proto.graph.initializer} | {""}, []
    for node in proto.graph.node:
        found.append(known.issuperset(node.input))
        if found[-1]:
            known.update(node.output)
    return found


@pytest.mark.parametrize("switch", ["0", "1"])
def test_run_sets_the_documented_options(path, monkeypatch, switch):
    monkeypatch.setenv(SWITCH, switch)
    seen = []
    session = onnxruntime.InferenceSession

    def spy(source, options, **kwargs):
        seen.append((options.enable_mem_reuse, kwargs["disabled_optimizers"]))
        return session(source, options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    for model in (path, graph.load(path), onnx.load(path)):
        executors.run(model, X)
    bodies_run = not native_operators.status().active
    assert bodies_run or switch == "1"
    assert seen == [(False, ["ConstantFolding"]) if bodies_run else (True, [])] * 3


def test_settings_keep_every_quantized_weight(path):
    names = [n.output[0] for n, c in zip(onnx.load(path).graph.node, constant_only(onnx.load(path)), strict=True) if c]
    proto = executors.with_outputs(onnx.load(path), names)
    plain = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = plain.run(names, {plain.get_inputs()[0].name: X})
    ours = executors.run(path, X, names)
    assert len(names) >= 3
    for name, array in zip(names, expected, strict=True):
        assert_equal_bits(ours[name], array, name)


def test_weights_are_computed_from_the_front_of_the_file(path, tmp_path):
    flags = constant_only(onnx.load(path))
    assert any(flags) and flags == sorted(flags, reverse=True)
    model = graph.load(path)
    nodes = list(model.graph)
    activation = nodes[sum(flags)]
    model.graph.remove(activation)
    model.graph.insert_before(nodes[0], activation)
    assert next(iter(model.graph)) is activation
    graph.save(model, tmp_path / "again.onnx")
    again = onnx.load(tmp_path / "again.onnx")
    assert constant_only(again) == flags
    onnx.checker.check_model(again)
    assert_equal_bits(*(next(iter(executors.run(p, X).values())) for p in (tmp_path / "again.onnx", path)))


def test_the_documented_snippets_run(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    text = (Path(__file__).parents[1] / "docs" / "running.md").read_text()
    snippets = [s for s in re.findall(r"```python\n(.*?)```", text, re.S) if "outputs =" in s]
    assert len(snippets) == 3
    for snippet in snippets:
        scope = {"x": X, "mx": mx}
        exec(compile(snippet, "docs/running.md", "exec"), scope)
        (found,) = scope["outputs"].values() if isinstance(scope["outputs"], dict) else scope["outputs"]
        np.testing.assert_allclose(found, next(iter(executors.run(path, X).values())), rtol=1e-5, atol=1e-5)


def test_a_session_gives_the_bits_of_run_as_often_as_it_is_asked(path):
    session = mx.Session(path, threads=1)
    wanted = mx.run(path, X)
    for _ in range(3):
        for name, array in session.run(X).items():
            assert_equal_bits(array, wanted[name])
    inner = mx.Session(path, outputs=["2.input_quant"]).run(X)
    assert list(inner) == ["2.input_quant"]
    with pytest.raises(ShapeError):
        session.run(X[:, :3])
    with pytest.raises(OptionError, match="threads is 0"):
        mx.Session(path, threads=0)
    with pytest.raises(OptionError, match="no tensor 'nothing'"):
        mx.Session(path, outputs=["nothing"])


def test_files_are_timed_beside_each_other(path):
    done = CliRunner().invoke(app, ["bench", str(path), str(path), "--runs", "3", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [row["path"] for row in told["models"]] == [str(path)] * 2
    assert told["models"][0]["ratio"] == 1 and all(row["fastest_ms"] > 0 for row in told["models"])
    assert "ratio to the first" in CliRunner().invoke(app, ["bench", str(path), "--runs", "1"]).stdout
    assert "absent.onnx" in str(CliRunner().invoke(app, ["bench", "absent.onnx"]).exception)
