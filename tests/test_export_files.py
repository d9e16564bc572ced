"""What lies on disk and what is left of the model after an export, whether it succeeds or not; the report."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import InputFileError, UnsupportedError
from mxexport.exporting import exporter
from mxexport.model import graph, staging, writer
from mxexport.numbers import bits
from mxexport.running import executors, verification
from tests.helpers import assert_equal_bits

X = (torch.randn(2, 40),)


class Net(nn.Module):
    """Keeps a cache in `forward`, as language models do."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(40, 64), nn.BatchNorm1d(64), nn.Linear(64, 8)
        self.cache, self.seen = {}, []

    def forward(self, x):
        self.cache["last"] = hidden = self.norm(self.fc(x))
        self.seen.append(hidden)
        return self.head(hidden.relu())


class Branching(Net):
    def forward(self, x):
        hidden = super().forward(x)
        return hidden if hidden.sum() > 0 else -hidden


def make(kind=Net) -> nn.Module:
    torch.manual_seed(0)
    model = mx.quantize_model(kind(), "mxfp4_e2m1", "mxint8").train()
    model.norm.eval()
    model.head.register_forward_hook(lambda *_: None)
    return model


def everything(model: nn.Module) -> list:
    """Flags, hooks, parameters and attributes of every module, by identity, and the values."""
    return [
        (
            {n: id(v) for n, v in m.__dict__.items()},
            {n: list(v) for n, v in m.__dict__.items() if isinstance(v, (dict, list))},
            m.training,
            [(p.dtype, p.requires_grad, p.tolist()) for p in (*m.parameters(False), *m.buffers(False))],
        )
        for m in model.modules()
    ]


def raise_full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raise_unsupported(*_, **__):
    raise UnsupportedError("stop here")


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> onnx.ModelProto:
    """What tracing gives: the slow part, done once."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "carry_in_float32", lambda model: kept.append(ir.to_proto(model)))
        mx.export(make(), X, tmp_path_factory.mktemp("traced") / "m.onnx")
    return kept[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    mx.export(make(), X, path)
    return path


STAGES = {
    "tracing": (None, None, UnsupportedError),
    "half": (exporter, "carry_in_float32", UnsupportedError),
    "folding": (exporter, "fold_weight_scales", UnsupportedError),
    "naming": (exporter, "name_everything", UnsupportedError),
    "figures": (exporter, "describe_layers", UnsupportedError),
    "serializing": (writer.ir, "save", InputFileError),
    "renaming": (staging, "_move", InputFileError),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_export_changes_nothing(tmp_path, monkeypatch, traced, stage):
    model = make(Branching if stage == "tracing" else Net)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"an older file"), (tmp_path / "m.onnx.data").write_bytes(b"somebody's data")
    before = everything(model)
    where, name, error = STAGES[stage]
    if where is not None:
        monkeypatch.setattr(exporter, "trace", lambda *_: (ir.from_proto(traced), []))
        monkeypatch.setattr(where, name, raise_full_disk if error is InputFileError else raise_unsupported)
    with pytest.raises(error, match="No space left" if error is InputFileError else "cannot export|stop here"):
        mx.export(model, X, path, external_data=True)
    assert everything(model) == before
    assert {f.name for f in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    assert path.read_bytes() == b"an older file" and (tmp_path / "m.onnx.data").read_bytes() == b"somebody's data"


def test_two_files_change_together(tmp_path, monkeypatch, exported):
    """The data file is in place when renaming the model fails: it goes back to what it was."""
    path, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    graph.save(graph.load(exported), path, external_data=True)
    old = path.read_bytes(), data.read_bytes()
    model = graph.load(exported)
    model.graph.initializers["fc.weight"].const_value = ir.tensor(np.ones((64, 40), np.float32))
    rename = os.replace
    calls = []

    def fail_at_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise_full_disk()
        rename(source, target)

    monkeypatch.setattr(staging, "_move", fail_at_second)
    with pytest.raises(InputFileError, match="No space left"):
        graph.save(model, path, external_data=True)
    assert calls == [data, path] and (path.read_bytes(), data.read_bytes()) == old
    monkeypatch.undo()
    graph.save(model, path, external_data=True)
    assert data.read_bytes() != old[1]


def test_a_successful_export_changes_only_the_disk(tmp_path):
    model = make()
    before = everything(model)
    mx.export(model, X, tmp_path / "m.onnx")
    assert everything(model) == before and model.cache == {} and model.seen == []
    model(X[0]).sum().backward()  # still trainable
    assert model.fc.weight.grad is not None


# --- external data --------------------------------------------------------------------------------------------


def test_tensors_in_a_file_of_their_own(tmp_path):
    model, x = make().eval(), np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    inside, beside = (mx.export(model, X, tmp_path / f"{e}.onnx", external_data=e) for e in (False, True))
    assert inside.data_path is None and beside.data_path == str(tmp_path / "True.onnx.data")
    assert {f.name for f in tmp_path.iterdir()} == {"False.onnx", "True.onnx", "True.onnx.data"}
    onnx.checker.check_model(tmp_path / "True.onnx", full_check=True)
    large = [
        t for t in onnx.load(tmp_path / "True.onnx", load_external_data=False).graph.initializer if t.external_data
    ]
    assert {t.name for t in large} >= {"fc.weight", "head.weight"}
    assert {e.value for t in large for e in t.external_data if e.key == "location"} == {"True.onnx.data"}
    (first,), (second,) = (executors.run(r.path, x).values() for r in (inside, beside))
    assert bits.equal_bits(first, second).all()
    assert not any(verification.count_quantizer_differences(graph.load(beside.path), x).values())


def test_large_models_get_a_data_file_by_themselves(tmp_path, monkeypatch, exported):
    path, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    monkeypatch.setattr(writer, "EXTERNAL_ABOVE", 4 * 40 * 64)
    graph.save(graph.load(exported), path)
    assert data.stat().st_size >= 4 * 40 * 64
    monkeypatch.undo()
    graph.save(graph.load(exported), path)
    assert not data.exists()


def test_stale_data_goes_and_a_stranger_s_stays(tmp_path, exported):
    path, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    graph.save(graph.load(exported), path, external_data=True)
    graph.save(graph.load(exported), path)
    assert not data.exists()
    data.write_bytes(b"somebody's data")
    graph.save(graph.load(exported), path)
    assert data.read_bytes() == b"somebody's data"


def test_a_model_may_replace_the_files_it_was_read_from(tmp_path, exported):
    path, x = tmp_path / "m.onnx", np.ones((1, 40), np.float32)
    before = next(iter(executors.run(exported, x).values()))
    graph.save(graph.load(exported), path, external_data=True)
    for external in (True, False, None):
        graph.save(graph.load(path), path, external_data=external)
        assert bits.equal_bits(next(iter(executors.run(path, x).values())), before).all()
    assert [f.name for f in tmp_path.iterdir()] == ["m.onnx"]


def test_a_directory_is_no_file(tmp_path, exported):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(InputFileError, match="cannot write .*m.onnx"):
        graph.save(graph.load(exported), tmp_path / "m.onnx", external_data=True)
    assert [f.name for f in tmp_path.iterdir()] == ["m.onnx"]


# --- the report -----------------------------------------------------------------------------------------------


def test_figures_of_a_weight_by_hand(tmp_path):
    """Groups [6, 7, ...]: the scale is 1, 7 lies half a step (of 2) beyond 6 and 7.5 further; int8 alike."""
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 2, bias=False)), "mxfp4_e2m1", "mxint8")
    weight = torch.zeros(2, 40)
    weight[0, :4] = torch.tensor([6.0, 6.9, 7.5, -7.9])
    weight[1, 39] = 1.0
    model[0].weight.data = weight
    report = mx.export(model, X, tmp_path / "m.onnx")
    (layer,) = [layer for layer in report.layers if layer.name == "0.weight_quant"]
    assert (layer.groups, layer.bytes, layer.padding_percent) == (4, 2 * 40 // 2 + 4, 37.5)
    assert layer.saturated_percent == 100 * 2 / 80
    signal, noise = 36 + 6.9**2 + 7.5**2 + 7.9**2 + 1, 0.9**2 + 1.5**2 + 1.9**2
    assert layer.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)


@pytest.mark.parametrize("fmt", ["mxint8", "uint4_g16"])
def test_nothing_saturates_where_scales_reach_the_largest_value(tmp_path, fmt):
    torch.manual_seed(0)
    model = mx.quantize_model(
        nn.Sequential(nn.Linear(40, 64)), fmt, None, scale_rule="ceil" if "mx" in fmt else "floor"
    )
    (layer,) = mx.export(model, X, tmp_path / "m.onnx").layers
    assert layer.saturated_percent == 0 and layer.sqnr_db > 15


def test_report_as_table_and_json(tmp_path):
    report = mx.export(make(), X, tmp_path / "m.onnx", external_data=True)
    lines = str(report).splitlines()
    assert str(tmp_path / "m.onnx.data") in lines[0] and lines[1].split()[:3] == ["name", "format", "axis"]
    assert [line.split()[0] for line in lines[2:6]] == [layer.name for layer in report.layers]
    packed = 64 * 40 // 2 + 64 * 2 + 8 * 64 // 2 + 8 * 2
    assert lines[6] == f"2 weights, {packed:,} bytes once packed"
    parsed = json.loads(report.to_json())
    assert parsed["layers"] == [vars(layer) for layer in report.layers] and parsed["data_path"] == report.data_path


@pytest.mark.parametrize("weights", ["float", "packed"])
def test_parameters_are_inputs_only_when_asked(tmp_path, weights):
    x, model = torch.randn(3, 40), mx.quantize_model(nn.Sequential(nn.Linear(40, 8)), "mxint8", "mxfp8_e4m3")
    plain, kept, cleaned = (tmp_path / f"{name}.onnx" for name in ("plain", "kept", "cleaned"))
    mx.export(model, (x,), plain, weights=weights)
    mx.export(model, (x,), kept, weights=weights, keep_initializers=True)
    proto = onnx.load(kept)
    assert [v.name for v in onnx.load(plain).graph.input] == ["input"]
    assert {v.name for v in proto.graph.input} == {"input"} | {t.name for t in proto.graph.initializer}
    onnx.checker.check_model(proto)
    for executor in executors.EXECUTORS.values():
        assert_equal_bits(*(next(iter(executor(path, x.numpy()).values())) for path in (kept, plain)))
    mx.clean(kept, cleaned, verify=True)
    assert [v.name for v in onnx.load(cleaned).graph.input] == ["input"]
