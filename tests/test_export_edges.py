"""What users hand to export and should not, or may: paths, names, what `forward` returns, quant tensors in it."""

from __future__ import annotations

import json
import os
import stat
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import mxexport as mx
from mxexport.errors import InputFileError, OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.running import executors
from tests.helpers import assert_equal_up_to_turned_codes

X = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.fc, self.end = nn.Linear(40, 40), end

    def forward(self, x):
        return self.end(self.fc(x))


def make(end=lambda x: x) -> nn.Module:
    torch.manual_seed(0)
    return mx.quantize_model(Net(end), "mxint8", None).eval()


@pytest.mark.parametrize("path", [".", "", "a\0b", "n" * 300 + ".onnx", None, 3])
def test_what_is_no_path_for_a_file_is_refused_before_tracing(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mxexport.exporting.exporter.trace", lambda *_: pytest.fail("traced"))
    with pytest.raises(InputFileError, match="cannot write"):
        mx.export(make(), X, path)


def test_only_files_are_replaced(tmp_path):
    """Renaming over a device would delete it: as root, `/dev/null` itself."""
    target, model = tmp_path / "m.onnx", tmp_path / "model.onnx"
    mx.export(make(), X, model)
    os.mkfifo(target)
    for write in (
        lambda: mx.export(make(), X, target),
        lambda: graph.save(graph.load(model), target),
        lambda: mx.clean(model, target),
        lambda: mx.convert(model, target, to="qdq"),
        lambda: mx.quant.save_file({"w": X}, target),
    ):
        with pytest.raises(InputFileError, match="cannot write .*no file is there"):
            write()
    assert stat.S_ISFIFO(target.stat().st_mode) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"input_names": ["x"], "output_names": ["x"]}, "name 'x' is given"),
        ({"output_names": ["fc.bias"]}, "name 'fc.bias' is given"),
        ({"input_names": [""]}, "expected a list of names"),
        ({"input_names": "x"}, "expected a list of names"),
        ({"output_names": ["a", "a"]}, "output_names: a stands there more than once"),
        ({"input_names": ["a", "b"]}, "input_names: 2 names, the graph has 1 input"),
        ({"output_names": ["a", "b"]}, "output_names: 2 names, the graph has 1 output"),
        ({"opset": "20"}, "opset '20': expected 18 to 26"),
        ({"opset": None}, "opset None: expected 18 to 26"),
    ],
)
def test_names_and_opsets_that_make_no_file_are_refused(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        mx.export(make(), X, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_name_torch_gave_to_a_tensor_inside_may_be_that_of_an_output(tmp_path):
    mx.export(make(torch.relu), X, tmp_path / "m.onnx", input_names=["linear"], output_names=["fc"])
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert list(executors.run(tmp_path / "m.onnx", {"linear": X.numpy()})) == ["fc"]


def test_an_input_that_is_returned_keeps_its_name(tmp_path):
    class Both(Net):
        def forward(self, x):
            return self.fc(x), x

    model = mx.quantize_model(Both(None), "mxint8", None)
    mx.export(model, X, tmp_path / "m.onnx")
    outputs = list(executors.run(tmp_path / "m.onnx", {"x": X.numpy()}).values())
    assert len(outputs) == 2 and np.array_equal(outputs[1], X.numpy())


@pytest.mark.parametrize(
    "end, message",
    [
        (lambda x: (x, 5), "output 1 of forward is the int 5"),
        (lambda x: {"a": x, "b": "text"}, "output 1 of forward is the str 'text'"),
        (lambda x: None, "returns no tensor"),
        (lambda x: x if x.sum() > 0 else -x, "use torch.where or torch.cond"),
    ],
)
def test_what_a_graph_cannot_return_is_named(tmp_path, capfd, end, message):
    model = make(end)
    with pytest.raises(UnsupportedError, match=message):
        mx.export(model, X, tmp_path / "m.onnx")
    assert not model._forward_hooks and not list(tmp_path.iterdir())
    assert "def forward" not in capfd.readouterr().err  # nor the graph as far as torch got


INSIDE = {
    "returned": lambda x: mx.quantize(x, "mxint8"),
    "in a dict": lambda x: {"y": mx.quantize(x, "uint4_g8")},
    "arithmetic": lambda x: mx.quantize(x, "mxfp4_e2m1") + x,
    "weight": lambda x: functional.linear(x, -mx.quantize(x.T.reshape(2, 40) * 2, "int4_g8")),
    "views": lambda x: mx.quantize(x, "nvfp4").view(-1, 20).transpose(0, 1),
    "attributes": lambda x: mx.quantize(x, "mxint8").T.sum() / mx.quantize(x, "mxint8").shape[1],
}


@pytest.mark.parametrize("name", INSIDE)
def test_quant_tensors_inside_forward_are_exported(tmp_path, name):
    model = make(INSIDE[name])
    report = mx.export(model, X, tmp_path / "m.onnx", dynamic_batch=False)
    assert len(report.layers) >= 2
    (found,) = executors.run(tmp_path / "m.onnx", X.numpy()).values()
    with torch.no_grad():
        expected = model(X)
    expected = expected["y"] if isinstance(expected, dict) else expected
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)


def test_quant_tensors_as_parameters_and_inputs_are_exported_as_their_values(tmp_path):
    class Two(Net):
        def __init__(self):
            super().__init__(None)
            self.head = nn.Linear(40, 3)

        def forward(self, x):
            return self.head(self.fc(x))

    torch.manual_seed(0)
    model = mx.quantize_model(Two(), "mxint8", None, exclude=["head"]).eval()
    model.head.weight = nn.Parameter(mx.quantize(model.head.weight.detach(), "mxfp4_e2m1"))
    mx.export(model, mx.quantize(X, "mxint8"), tmp_path / "m.onnx")
    (found,) = executors.run(tmp_path / "m.onnx", X.numpy()).values()
    np.testing.assert_allclose(found, model(X).detach().numpy(), atol=1e-5)


def test_a_compiled_model_is_exported_as_what_it_wraps(tmp_path):
    report = mx.export(torch.compile(make()), X, tmp_path / "m.onnx")
    assert [layer.name for layer in report.layers] == ["fc.weight_quant"]


class Functional(nn.Module):
    """Reads the weight of a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj, self.tied = nn.Linear(40, 96, bias=False), nn.Linear(96, 8), nn.Embedding(8, 96)
        self.tied.weight = self.proj.weight

    def forward(self, x):
        return self.proj(torch.relu(x @ self.qkv.weight.T))


def test_layers_that_are_not_called_are_named(tmp_path):
    model, told = mx.quantize_model(Functional()).eval(), "not quantized where it is used: qkv: weight is read by code"
    with pytest.warns(UserWarning, match=told):
        report = mx.export(model, X, tmp_path / "m.onnx")
    assert [name for name, _ in report.notes] == ["qkv"]
    assert len(report.layers) == 2 and not any("qkv" in layer.name for layer in report.layers)


class CalledAndRead(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(40, 256, bias=False), nn.Linear(256, 8)

    def forward(self, x):
        return self.proj(self.qkv(x) + x @ self.qkv.weight.T)


def test_a_weight_that_is_read_beside_its_layer_is_named_whatever_finds_its_scale(tmp_path):
    model = mx.quantize_model(CalledAndRead(), mx.QuantSpec("int4", scaling_per_output="channel")).eval()
    with pytest.warns(UserWarning, match="not quantized where it is used: qkv: weight is read by code"):
        report = mx.export(model, X, tmp_path / "m.onnx")
    assert [name for name, _ in report.notes] == ["qkv"]


@pytest.mark.parametrize(
    "spec, dtype",
    [
        (mx.QuantSpec("int4", scaling_per_output="channel"), torch.float32),
        (mx.QuantSpec("int4", scaling_per_output="channel"), torch.bfloat16),
        (mx.QuantSpec("uint4", scaling_per_output="tensor"), torch.float32),
        (mx.QuantSpec("mxint4_g4", source="learned"), torch.float32),
        (mx.QuantSpec("int4_g4", source="mse"), torch.float32),
        (mx.QuantSpec("uint4_g8_s6x2"), torch.float32),
    ],
    ids=["channel", "bfloat16", "asymmetric", "learned", "mse", "nested"],
)
def test_the_scale_of_a_weight_is_stored_with_the_bits_of_torch(tmp_path, spec, dtype):
    """The matrix is larger than what torch's exporter folds by itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 256)).to(dtype)
    model = mx.quantize_model(model, weight=spec, activation=None).eval()
    quantizer, weight = model[0].weight_quant, model[0].weight.detach()
    scale = quantizer.scale(weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "not quantized where it is used")
        mx.export(model, X.to(dtype), tmp_path / "m.onnx")
    g = graph.load(tmp_path / "m.onnx").graph
    (node,) = (node for node in g if node.op_type == "GroupwiseQuant")
    stored = constant_array(node.inputs[1])
    assert np.array_equal(stored, np.broadcast_to(scale.detach().numpy(), stored.shape))
    if (zero := quantizer.zero_point(weight, scale)) is not None:
        stored = constant_array(node.inputs[2])
        assert np.array_equal(stored, np.broadcast_to(zero.numpy(), stored.shape))
    assert {n.op_type for n in g} <= {"GroupwiseQuant", "Expand", "Constant", "Mul", "Cast", "Gemm"}


class Masked(nn.Module):
    """Torch compares the mask of its encoders and decoders with a causal one, value by value, unless told."""

    def __init__(self):
        super().__init__()
        self.body = nn.Transformer(40, 4, 1, 1, 40, batch_first=True)

    def forward(self, x):
        return self.body(x, x, tgt_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]))


def test_masks_of_torchs_transformers_may_be_made_in_forward(tmp_path):
    torch.manual_seed(0)
    model, x = mx.quantize_model(Masked()).eval(), torch.randn(3, 9, 40)
    open_sizes = {"x": {0: "batch", 1: "sequence"}}
    mx.export(model, torch.randn(2, 5, 40), tmp_path / "m.onnx", dynamic_shapes=open_sizes)
    (found,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    with torch.no_grad():
        assert_equal_up_to_turned_codes(found, model(x).numpy())


class Batch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(40, 4)

    def forward(self, batch, *, scale=None):
        return self.fc(batch["x"]) if scale is None else self.fc(batch["x"]) * scale


@pytest.mark.parametrize("kwargs", [None, {"scale": torch.full((2, 4), 2.0)}], ids=["alone", "with_keywords"])
def test_a_dict_may_be_the_last_positional_input(tmp_path, kwargs):
    model, batch = mx.quantize_model(Batch()).eval(), {"x": X}
    mx.export(model, (batch,), tmp_path / "m.onnx", kwargs=kwargs)
    (found,) = executors.run(tmp_path / "m.onnx", (X.numpy(), *(t.numpy() for t in (kwargs or {}).values()))).values()
    with torch.no_grad():
        np.testing.assert_allclose(found, model(batch, **(kwargs or {})).numpy(), atol=1e-5)


class Cache:
    """What decoders of transformers return beside their logits unless told not to."""


class Decoder(Batch):
    def forward(self, x):
        return {"logits": self.fc(x), "past_key_values": Cache()}


def test_objects_that_are_no_tensors_are_left_out_with_a_warning(tmp_path):
    model = mx.quantize_model(Decoder()).eval()
    with pytest.warns(UserWarning, match="left out: past_key_values: this output is a Cache; a graph returns tensors"):
        report = mx.export(model, X, tmp_path / "m.onnx")
    assert report.notes == [("past_key_values", "this output is a Cache; a graph returns tensors only")]
    assert list(executors.run(tmp_path / "m.onnx", X.numpy())) == ["logits"]


def test_dropout_in_eval_mode_is_named(tmp_path):
    model = make(functional.dropout)
    with pytest.warns(UserWarning, match="dropout drops other values each time, in eval mode, too"):
        report = mx.export(model, X, tmp_path / "m.onnx")
    assert [name for name, _ in report.notes] == ["dropout"]
    with pytest.raises(OptionError, match="verify: dropout give other values each time"):
        mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx", verify=True)


class BatchStatistics(Net):
    """A norm that a model asks to use the statistics of the batch although it has others."""

    def __init__(self):
        super().__init__(nn.BatchNorm1d(40))

    def forward(self, x):
        end = self.end
        return functional.batch_norm(self.fc(x), end.running_mean, end.running_var, end.weight, end.bias, training=True)


def test_statistics_of_the_batch_are_used_where_the_model_uses_them(tmp_path):
    model, x = mx.quantize_model(BatchStatistics()).eval(), torch.randn(7, 40)
    mx.export(model, X, tmp_path / "m.onnx")
    (found,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    with torch.no_grad():
        assert_equal_up_to_turned_codes(found, model(x).numpy())


def damaged(model: nn.Module, change) -> nn.Module:
    """A model into which a checkpoint with damaged tensors was loaded."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("weight, weights", [("mxint8", "float"), ("mxfp4_e2m1", "packed"), ("int4_g32", "float")])
def test_a_weight_of_nan_is_named_in_a_warning_and_in_the_report(tmp_path, weight, weights):
    model = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))
    model = damaged(mx.quantize_model(model, weight, "mxint8"), lambda state: state["2.weight"].fill_(torch.nan))
    told = "NaN or Inf in the model: 2: weight holds 32 NaN among its 32 values, and so does the file"
    with pytest.warns(UserWarning, match=told):
        report = mx.export(model, (torch.zeros(1, 32),), tmp_path / "m.onnx", weights=weights)
    assert report.notes[0][0] == "2" and report.notes[0][1].startswith("weight holds 32 NaN among its 32 values")
    assert "2: weight holds 32 NaN" in str(report)
    json.loads(report.to_json(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def test_every_kind_of_damage_is_told_and_a_warning_spells_out_three_layers(tmp_path):
    def change(state):
        state["0.weight"][0, 0], state["0.weight"][1, 1] = torch.nan, -torch.inf
        state["0.bias"][2] = torch.inf
        state["1.running_var"][0] = torch.nan
        state["2.weight"][:] = torch.inf

    model = nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    model = damaged(mx.quantize_model(model, "mxint8"), change)
    with pytest.warns(UserWarning, match="1: running_var holds 1 NaN.*; and 1 more, see the report's notes"):
        report = mx.export(model, (torch.zeros(2, 32),), tmp_path / "m.onnx")
    assert [(where, what.split(",")[0]) for where, what in report.notes] == [
        ("0", "weight holds 1 NaN and 1 Inf among its 256 values"),
        ("0", "bias holds 1 Inf among its 8 values"),
        ("1", "running_var holds 1 NaN among its 8 values"),
        ("2", "weight holds 32 Inf among its 32 values"),
    ]


def test_a_mask_of_minus_inf_is_no_damage(tmp_path, recwarn):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(32, 32)
            self.register_buffer("mask", torch.tensor([0.0] * 31 + [-torch.inf]))

        def forward(self, x):
            return (self.fc(x) + self.mask).softmax(-1)

    report = mx.export(mx.quantize_model(Masked(), "mxint8").eval(), (torch.zeros(1, 32),), tmp_path / "m.onnx")
    assert not report.notes and not [w for w in recwarn if "NaN or Inf" in str(w.message)]
