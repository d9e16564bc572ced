"""The command `export`: the user's module, trained parameters that are never unpickled, clear errors."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from mxexport import cli
from mxexport.model import graph
from mxexport.running import executors

MODULE = """
import torch
import mxexport as mx

def build():
    return torch.nn.Sequential(torch.nn.Embedding(20, 40), torch.nn.Linear(40, 8, bias=False))

def depthwise():
    conv = torch.nn.Conv2d(40, 40, 3, groups=40)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(40), torch.nn.Conv2d(40, 64, 1)).eval()

class Nets:
    ready = mx.quantize_model(build(), "mxfp4_e2m1", None)

def needs(argument):
    pass

def fails():
    raise KeyError("width")

number = 3
"""


class Trap:
    """Unpickling this would leave a file behind."""

    def __reduce__(self):
        return (open, ("trapped", "w"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "mynet.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mxexport", "export", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, " ".join(captured.err.split())

    yield call
    sys.modules.pop("mynet", None)


def test_factory_weights_and_formats(run, tmp_path):
    state = {"0.weight": torch.randn(20, 40), "1.weight": torch.ones(8, 40)}
    save_file(state, tmp_path / "trained.safetensors")
    options = ["--weights-file", "trained.safetensors", "--weight", "mxfp8_e4m3", "--activation", "none", "--json"]
    code, out, _ = run("mynet:build", "m.onnx", "--input", "int64:1,7", "--opset", "21", *options)
    report = json.loads(out)
    assert code == 0 and report["opset"] == 21
    assert {(layer["name"], layer["format"]) for layer in report["layers"]} == {
        ("0.weight_quant", "mxfp8_e4m3"),
        ("1.weight_quant", "mxfp8_e4m3"),
    }
    (found,) = executors.run(tmp_path / "m.onnx", np.arange(14).reshape(2, 7)).values()
    assert found.shape == (2, 7, 8) and (found == found[..., :1]).all()  # every row of the weight is the same


def test_a_quantized_model_is_written_as_it_is(run):
    code, out, _ = run("mynet:Nets.ready", "m.onnx", "--input", "int64:1,7")
    assert code == 0 and out.count("mxfp4_e2m1") == 2 and "mxint8" not in out


def test_checkpoints_are_never_unpickled(run, tmp_path):
    for name, write in (("trap.pt", lambda f: torch.save({"0.weight": Trap()}, f)), ("trap.pkl", _pickle)):
        write(tmp_path / name)
        code, _, err = run("mynet:build", "m.onnx", "--input", "int64:1,7", "--weights-file", name)
        assert code == 2 and f"{name} holds no plain tensors that can be read without running code" in err
    assert not (tmp_path / "trapped").exists() and not (tmp_path / "m.onnx").exists()


def _pickle(path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mynet", "--input", "1,4"], 2, "'mynet': expected package.module:name"),
        (["absent.net:build", "--input", "1,4"], 2, "no module 'absent.net' in"),
        (["mynet:nothing", "--input", "1,4"], 2, "mynet has no 'nothing'"),
        (["mynet:number", "--input", "1,4"], 2, "expected a torch.nn.Module, found int"),
        (["mynet:fails", "--input", "1,4"], 2, "mynet:fails failed, called without arguments: KeyError: 'width'"),
        (["mynet:needs", "--input", "1,4"], 2, "missing 1 required positional argument: 'argument'"),
        (["mynet:build", "--input", "1,x"], 2, "expected whole numbers with commas"),
        (["mynet:build", "--input", "0,4"], 2, "sizes must be at least 1"),
        (["mynet:build", "--input", "float8:1,4"], 2, "unknown type 'float8'"),
        (["mynet:build", "--input", "int64:1,7", "--weight", "mxfp9"], 2, "unknown format 'mxfp9'"),
        (["mynet:build", "--input", "int64:1,7", "--weights-file", "absent.pt"], 2, "no such file: absent.pt"),
        (["mynet:build", "--input", "int64:1,7", "--weights-file", "other.pt"], 2, 'Unexpected key(s) in state_dict'),
        (["mynet:build", "--input", "1,4"], 3, "torch cannot export Sequential"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)  # fmt: skip
def test_mistakes_are_explained(run, tmp_path, arguments, code, message):
    torch.save({"0.weight": torch.randn(20, 40), "other": torch.ones(1)}, tmp_path / "other.pt")
    found, out, err = run(arguments[0], "m.onnx", *arguments[1:])
    assert (found, out) == (code, "") and message in err and "Traceback" not in err
    assert not list(tmp_path.glob("m.onnx*"))


def test_weights_are_packed_and_parameters_inputs_when_asked(run, tmp_path):
    for options, inputs in (((), 1), (("--keep-initializers",), 3)):
        code, _, err = run("mynet:Nets.ready", "m.onnx", "--input", "int64:1,7", "--weights", "packed", "-f", *options)
        assert code == 0, err
        proto = onnx.load(tmp_path / "m.onnx")
        assert {n.op_type for n in proto.graph.node} >= {"MXFloatDequant"} and len(proto.graph.input) >= inputs
        assert (len(proto.graph.input) == 1) == (inputs == 1)
    code, _, err = run("mynet:Nets.ready", "m.onnx", "-f", "--input", "int64:1,7", "--weights", "zipped")
    assert code == 2 and "expected 'float' or 'packed'" in err


def test_the_recipe_is_the_default_and_says_what_it_changed(run, tmp_path):
    options = ["--input", "1,40,5,5", "--weight", "mxfp8_e4m3", "--activation", "mxfp8_e4m3"]
    code, out, _ = run("mynet:depthwise", "robust.onnx", *options)
    assert code == 0 and "0: weight mxfp8_e4m3 -> mxint8 (recipe: depthwise)" in out
    code, out, _ = run("mynet:depthwise", "asked.onnx", *options, "--recipe", "none")
    assert code == 0 and "recipe" not in out
    formats = []
    for name in ("robust", "asked"):
        nodes = {node.name: node for node in graph.load(tmp_path / f"{name}.onnx").graph}
        formats.append([graph.quantizer_format(nodes[f"{i}.weight_quant"]).name for i in (0, 2)])
    assert formats == [["mxint8", "mxfp8_e4m3"], ["mxfp8_e4m3", "mxfp8_e4m3"]]
    code, _, err = run("mynet:depthwise", "m.onnx", *options, "--recipe", "rubust")
    assert code == 2 and "unknown recipe 'rubust'" in err
