"""Recurrent layers: torch's own without formats, quantized operands with them, the same bits in every executor."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence
from torch.utils._pytree import tree_leaves

import mxexport as mx
from mxexport.errors import FormatError, ShapeError, UnsupportedError
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.units.slice import Slice
from mxexport.quant import QUANT_LAYERS, fake_quantize, freeze_scales
from mxexport.running import executors
from tests.helpers import FULL, assert_equal_up_to_turned_codes, rms

WEIGHT, ACTIVATION = "mxfp4_e2m1_g16", "mxint8_g16"
DEEP = {"num_layers": 2, "bidirectional": True, "batch_first": True}
VARIANTS = {
    "rnn": (nn.RNN, {}),
    "rnn_relu_deep": (nn.RNN, {"nonlinearity": "relu", **DEEP}),
    "lstm": (nn.LSTM, {"bias": False}),
    "lstm_deep": (nn.LSTM, DEEP),
    "lstm_projected": (nn.LSTM, {"proj_size": 5, "num_layers": 2}),
    "gru": (nn.GRU, {}),
    "gru_deep": (nn.GRU, DEEP),
}
STEPS, BATCH, INPUTS, HIDDEN = 3, 3, 20, 24
EXPORTED = VARIANTS if FULL else ["rnn_relu_deep", "lstm_projected", "gru"]


def made(variant: str, weight=WEIGHT, activation=ACTIVATION):
    torch.manual_seed(0)
    kind, options = VARIANTS[variant]
    layer = kind(INPUTS, HIDDEN, **options)
    shape = (BATCH, STEPS, INPUTS) if layer.batch_first else (STEPS, BATCH, INPUTS)
    return layer, QUANT_LAYERS[kind].from_float(layer, weight, activation), torch.randn(shape)


def initial(layer: nn.RNNBase, *batch: int):
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    hidden = torch.randn(count, *batch, layer.proj_size or HIDDEN)
    return (hidden, torch.randn(count, *batch, HIDDEN)) if layer.mode == "LSTM" else hidden


def assert_same(actual, expected, exact: bool) -> None:
    """Torch's own LSTM adds in another order (oneDNN), and its sigmoid of a GRU's strided gates rounds otherwise."""
    for a, b in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=0, atol=1e-6)


# --- the layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "initial"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_without_formats_is_the_float_layer(variant, given):
    layer, quantized, x = made(variant, None, None)
    exact = layer.mode.startswith("RNN") or layer.proj_size > 0
    state = (initial(layer, BATCH),) if given else ()
    assert_same(quantized(x, *state), layer(x, *state), exact)
    state = (initial(layer),) if given else ()
    single = x[0] if layer.batch_first else x[:, 0]
    assert_same(quantized(single, *state), layer(single, *state), exact)


def quantized_steps(layer: nn.RNNBase, x: torch.Tensor):
    """One layer, one direction, step by step: x [T, N, I] -> hidden states [T, N, H]."""
    weight_ih, weight_hh = (fake_quantize(getattr(layer, f"weight_{k}_l0"), WEIGHT) for k in ("ih", "hh"))
    hidden = cell = torch.zeros(x.shape[1], HIDDEN)
    for row in fake_quantize(x, ACTIVATION):
        given = functional.linear(row, weight_ih, getattr(layer, "bias_ih_l0", None))
        held = functional.linear(fake_quantize(hidden, ACTIVATION), weight_hh, getattr(layer, "bias_hh_l0", None))
        if layer.mode == "RNN_TANH":
            hidden = torch.tanh(given + held)
        elif layer.mode == "LSTM":
            i, f, g, o = (given + held).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        else:
            (r, z, n), (held_r, held_z, held_n) = given.chunk(3, -1), held.chunk(3, -1)
            r, z = (r + held_r).sigmoid(), (z + held_z).sigmoid()
            n = (n + r * held_n).tanh()
            hidden = (1 - z) * n + z * hidden
        yield hidden


@pytest.mark.parametrize("variant", ["rnn", "lstm", "gru"])
def test_products_read_quantized_weights_inputs_and_hidden_states(variant):
    layer, quantized, x = made(variant)
    with torch.no_grad():
        expected = torch.stack(list(quantized_steps(layer, x)))
        actual, _ = quantized(x)
    assert_equal_up_to_turned_codes(actual.numpy(), expected.numpy(), 1e-5)
    assert not torch.allclose(actual, layer(x)[0], atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_parameters_are_those_of_the_float_layer(variant):
    layer, quantized, x = made(variant)
    assert isinstance(quantized, type(layer)) and list(quantized.state_dict()) == list(layer.state_dict())
    assert all(a is b for a, b in zip(quantized.parameters(), layer.parameters(), strict=True))
    fresh = type(quantized)(INPUTS, HIDDEN, **VARIANTS[variant][1], weight=WEIGHT, activation=ACTIVATION)
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert_same(other(x), quantized(x), exact=True)
    quantized.to(torch.float64)
    assert layer._flat_weights[0].dtype == torch.float32 or quantized._flat_weights[0] is layer._flat_weights[0]


def test_formats_of_the_hidden_and_the_cell_state():
    layer, _, x = made("lstm")
    quantized = mx.QuantLSTM(INPUTS, HIDDEN, bias=False, weight=None, activation=None, hidden=None, cell="mxint4_g16")
    quantized.load_state_dict(layer.state_dict())
    _, (_, cell) = quantized(x)
    assert torch.equal(cell, fake_quantize(cell, "mxint4_g16")) and list(quantized.quantizers()) == ["cell_l0_quant"]
    assert list(mx.QuantGRU(4, 4, weight=None, activation=None, hidden="mxint4").quantizers()) == ["hidden_l0_quant"]


def test_model_conversion_takes_recurrent_layers_and_their_formats_by_name():
    model = nn.ModuleDict({"encoder": nn.LSTM(INPUTS, HIDDEN), "head": nn.Linear(HIDDEN, 4)})
    formats = {"encoder": {"hidden": "mxint4", "cell": "mxint8"}}
    quantized, report = mx.quantize_model(model, WEIGHT, ACTIVATION, formats=formats, return_report=True)
    held = {name: q.format.name for name, q in quantized["encoder"].quantizers().items()}
    assert held["hidden_l0_quant"] == "mxint4" and held["cell_l0_quant"] == "mxint8"
    assert held["weight_hh_l0_quant"] == WEIGHT and held["input_l0_quant"] == ACTIVATION
    assert "encoder: QuantLSTM weight=mxfp4_e2m1_g16 activation=mxint8_g16" in str(report)
    assert "hidden state mxint4, cell state mxint8" in str(report)
    quantized = mx.quantize_model(model, None, None, formats={"encoder": {"hidden": "mxint4"}})
    assert list(quantized["encoder"].quantizers()) == ["hidden_l0_quant"] and type(quantized["head"]) is nn.Linear


def test_gradients_go_through_time_and_training_lowers_the_loss():
    torch.manual_seed(0)
    layer, head = mx.QuantLSTM(8, 16, num_layers=2, dropout=0.1, weight=WEIGHT, activation=ACTIVATION), nn.Linear(16, 1)
    x = torch.randn(3, 32, 8, requires_grad=True)
    wanted = (x[0].sum(-1, keepdim=True) > 0).float()  # what the first step said
    layer(x)[0][-1].sum().backward()
    assert x.grad[0].abs().max() > 0 and all(p.grad is not None for p in layer.parameters())
    optimizer, losses = torch.optim.Adam([*layer.parameters(), *head.parameters()], 2e-2), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(head(layer(x.detach())[0][-1]), wanted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    layer.eval()
    assert_same(layer(x), layer(x), exact=True)


# --- exported -------------------------------------------------------------------------------------------------


def exported(model: nn.Module, x: torch.Tensor, path, **options):
    """The report, the stored model, and what torch computes."""
    report = mx.export(model.eval(), (x,), path, dynamic_batch=False, **options)
    with torch.no_grad():
        return report, onnx.load(path), [y.numpy() for y in tree_leaves(model(x))]


@pytest.mark.parametrize("variant", EXPORTED)
def test_exported_layer_computes_what_torch_does_in_both_executors(variant, tmp_path):
    _, quantized, x = made(variant)
    report, proto, expected = exported(nn.Sequential(quantized), x, tmp_path / "m.onnx")
    for execute in (executors.run, executors.run_qonnx):
        found = execute(tmp_path / "m.onnx", x.numpy()).values()
        for actual, wanted in zip(found, expected, strict=True):
            assert_equal_up_to_turned_codes(actual, wanted, 1e-5)
    names = [entry.name for entry in report.layers]
    directions = 2 if quantized.bidirectional else 1
    for layer in range(quantized.num_layers):
        assert sum(n.startswith(f"0.input_l{layer}_quant") for n in names) == 1
        for place in (f"l{layer}", f"l{layer}_reverse")[:directions]:
            steps = [n for n in names if n.partition("_quant")[0] == f"0.hidden_{place}"]
            assert len(steps) == STEPS - 1  # the state at the start is zero
    stored = [t.name for t in proto.graph.initializer]
    for name, parameter in quantized.named_parameters():
        shapes = [t.name for t in proto.graph.initializer if sorted(t.dims) == sorted(parameter.shape)]
        assert parameter.ndim == 1 or (f"0.{name}" in stored and len(shapes) <= 2 * quantized.num_layers * directions)


def test_passes_keep_the_bits_and_weights_are_packed_once(tmp_path):
    _, quantized, x = made("gru")
    exported(quantized, x, tmp_path / "m.onnx")
    report = mx.export(quantized, (x,), tmp_path / "packed.onnx", dynamic_batch=False, weights="packed")
    mx.clean(tmp_path / "m.onnx", tmp_path / "clean.onnx")
    assert not report.notes
    for name in ("packed", "clean"):
        proto = onnx.load(tmp_path / f"{name}.onnx")
        unpacked = [n for n in proto.graph.node if n.op_type in ("MXFloatDequant", "GroupwiseDequant")]
        assert len(unpacked) == 2 and mx.verify(tmp_path / "m.onnx", tmp_path / f"{name}.onnx")


def test_the_batch_may_stay_open_and_states_may_be_inputs(tmp_path):
    layer, quantized, x = made("lstm")
    h, c = initial(layer, BATCH)
    shapes = {"x": {1: "n"}, "state": ({1: "n"}, {1: "n"})}
    mx.export(quantized.eval(), (x, (h, c)), tmp_path / "m.onnx", dynamic_shapes=shapes, input_names=["x", "h", "c"])
    x, h, c = (torch.cat([t, t.flip(-1)], axis) for t, axis in ((x, 1), (h, 1), (c, 1)))
    with torch.no_grad():
        expected = [y.numpy() for y in tree_leaves(quantized(x, (h, c)))]
    found = mx.run(tmp_path / "m.onnx", {"x": x.numpy(), "h": h.numpy(), "c": c.numpy()}).values()
    for actual, wanted in zip(found, expected, strict=True):
        assert_equal_up_to_turned_codes(actual, wanted, 1e-5)


def test_static_scales_are_calibrated_over_all_steps_and_stored_once(tmp_path):
    spec = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
    torch.manual_seed(0)
    layer, x = mx.QuantRNN(8, 16, weight="int8", activation=spec), torch.randn(5, 4, 8)
    layer(x)
    freeze_scales(layer)
    _, proto, (expected, _) = exported(layer, x, tmp_path / "m.onnx")
    found = list(executors.run(tmp_path / "m.onnx", x.numpy()).values())
    assert_equal_up_to_turned_codes(found[0], expected, 1e-5)
    read = [node.input[1] for node in proto.graph.node if node.name.startswith("hidden_l0_quant")]
    assert len(read) == 4 and len(set(read)) == 1
    assert set(read) <= {t.name for t in proto.graph.initializer}


def test_trained_on_digits_it_is_as_accurate_in_every_stage(tmp_path):
    """Rows of digits as steps: float, MX in torch, and onnxruntime."""
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(images.reshape(-1, 8, 8) / 16, dtype=torch.float32), torch.tensor(labels)
    test = slice(1300, None)
    torch.manual_seed(0)
    model = Rows()
    fit(model, x[:1300], y[:1300], 10, 1e-2)
    quantized = mx.quantize_model(model, "mxfp4_e2m1_g8", "mxint8_g8")
    fit(quantized, x[:640], y[:640], 1, 2e-3)
    with torch.no_grad():
        results = {"float": model(x[test]).numpy(), "torch": quantized(x[test]).numpy()}
    mx.export(quantized, (x[:2],), tmp_path / "m.onnx")
    (results["onnxruntime"],) = mx.run(tmp_path / "m.onnx", x[test].numpy()).values()
    right = {stage: float((found.argmax(1) == y[test].numpy()).mean()) for stage, found in results.items()}
    assert right["float"] > 0.88 and right["torch"] > right["float"] - 0.03, right
    assert right["onnxruntime"] == right["torch"]
    assert_equal_up_to_turned_codes(results["onnxruntime"], results["torch"])


class Rows(nn.Module):
    def __init__(self, kind=nn.GRU):
        super().__init__()
        self.rnn, self.head = kind(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Steps(nn.Module):
    """Few states, for hardware: each step has its own units."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(8, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> None:
    optimizer, generator = torch.optim.Adam(model.parameters(), rate), torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()


# --- hardware -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU] if FULL else [nn.RNN, nn.GRU])
def test_unrolled_layers_compile_to_hardware(kind, tmp_path):
    torch.manual_seed(0)
    model, x = mx.quantize_model(Steps(kind), "mxint8_g8", "mxint8_g8"), torch.randn(16, 3, 8)
    _, _, (expected,) = exported(model, x, tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "clean.onnx")
    design = mx.compile(tmp_path / "clean.onnx", tmp_path / "fpga", calibration=x.numpy())
    dataflow = design.run_dataflow(x.numpy())
    assert_equal_up_to_turned_codes(dataflow.values, expected, 0.05 * rms(expected))
    if FULL or kind is nn.GRU:
        simulated = design.simulate(x.numpy(), stall_in=0.3, stall_out=0.3)
        assert np.array_equal(simulated.raw, dataflow.raw)


class BothWays(nn.Module):
    """Two directions, time first; `wrapped`: with the batch first outside, as hardware counts frames."""

    def __init__(self, wrapped: bool, kind=nn.GRU):
        super().__init__()
        self.rnn, self.head, self.wrapped = kind(8, 4, bidirectional=True), nn.Linear(8, 3), wrapped

    def forward(self, x):
        return self.head(self.rnn(x.transpose(0, 1) if self.wrapped else x)[0][-1])


def test_time_first_and_both_directions_compile_as_exported(tmp_path):
    """Constants that torch left to compute are computed on the way."""
    torch.manual_seed(0)
    model, x = mx.quantize_model(BothWays(True), "mxint8_g8", "mxint8_g8"), torch.randn(16, 3, 8)
    _, _, (expected,) = exported(model, x, tmp_path / "m.onnx")
    assert mx.check(tmp_path / "m.onnx", target="fpga") == []
    design = mx.compile(tmp_path / "m.onnx", tmp_path / "fpga", calibration=x.numpy())
    dataflow = design.run_dataflow(x.numpy())
    assert_equal_up_to_turned_codes(dataflow.values, expected, 0.05 * rms(expected))
    if FULL:
        simulated = design.simulate(x.numpy(), stall_in=0.3, stall_out=0.3)
        assert np.array_equal(simulated.raw, dataflow.raw)


def test_a_batch_behind_the_time_is_refused_with_what_to_do(tmp_path):
    model = mx.quantize_model(BothWays(False, nn.RNN), "mxint8_g8", "mxint8_g8").eval()
    mx.export(model, (torch.randn(2, 1, 8),), tmp_path / "m.onnx", dynamic_shapes={"x": {1: "batch"}})
    (where, what), *_ = mx.check(tmp_path / "m.onnx", target="fpga")
    assert where == "input 'x'" and "[2, batch, 8]" in what and "self.model(x.transpose(0, 1))" in what


def test_a_slice_of_the_last_step_takes_no_more_lanes_than_it_keeps():
    """Of three steps side by side; with two lanes it gave one value a beat, where two belong."""
    unit = Slice(Wide((32, 3), 24, -20), (0, 0, 2), (1, 32, 1))
    assert [folding.simd for folding in unit.foldings()] == [1]
    tail = Slice(Wide((4, 3, 7), 13, 0), (0, 1, 4), (4, 1, 3))
    assert [folding.simd for folding in tail.foldings()] == [1, 2, 4]


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: mx.QuantRNN(4, 4, cell="mxint8"), FormatError, "QuantRNN: cell='mxint8', and only an LSTM has"),
        (lambda: mx.QuantGRU(4, 4, bias_format="int32"), FormatError, "bias_format 'int32', expected 'float'"),
        (lambda: mx.QuantGRU(4, 4, hidden="mxint9"), FormatError, "mxint9"),
        (
            lambda: mx.QuantRNN(4, 4)(torch.ones(3, 2, 5)),
            ShapeError,
            r"\(3, 2, 5\); expected \[T, N, I\] .* I = 4",
        ),
        (lambda: mx.QuantRNN(4, 4)(torch.ones(0, 2, 4)), ShapeError, "the sequence has no step"),
        (lambda: mx.QuantRNN(4, 4)(torch.ones(3, 2, 4), torch.ones(2, 2, 4)), ShapeError, r"expected \(1, 2, 4\)"),
        (lambda: mx.QuantLSTM(4, 4)(torch.ones(3, 2, 4), torch.ones(1, 2, 4)), ShapeError, r"pair \(hidden, cell\)"),
        (lambda: mx.QuantRNN(4, 4)(pack_sequence([torch.ones(3, 4)])), UnsupportedError, "pad_packed_sequence"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_length_that_stays_open_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UnsupportedError, match=r"length of the sequence must be constant.*\{1: \"batch\"\}"):
        mx.export(mx.QuantRNN(8, 8).eval(), (torch.randn(4, 2, 8),), tmp_path / "m.onnx")
