"""Exported files: contracted scales, stable names, the same bits in every executor, clear refusals."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import InputFileError, UnsupportedError
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.numbers import bits
from mxexport.numbers.formats import MX_FORMATS
from mxexport.numbers.groups import contracted_shape
from mxexport.quant import Quantizer
from mxexport.running import executors, verification
from tests.helpers import assert_equal_bits, assert_equal_up_to_turned_codes, edge_values

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the reference evaluator's


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.body = nn.Sequential(nn.Linear(200, 16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.body(self.pool(self.relu(self.conv(x))).flatten(1)))


@pytest.fixture(scope="module", params=[*MX_FORMATS, "nvfp4", ("int4_g16", "uint8_g32"), ("mxfp4_e2m1", None)], ids=str)
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    formats = request.param if isinstance(request.param, tuple) else (request.param, request.param)
    model = mx.quantize_model(Net(), *formats)
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    report = mx.export(model, (torch.randn(1, 3, 12, 12),), path)
    return model.eval(), path, report


def inputs(count: int = 5) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((count, 3, 12, 12)).astype(np.float32)
    x[0] = 0
    return x


def test_file_is_valid_and_says_what_it_is(exported):
    _, path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [o.domain for o in model.opset_import] == ["", ops.DOMAIN]
    assert model.producer_name == "mxexport"
    text = path.read_bytes()
    assert b"pkg.torch" not in text and str(path.parent).encode() not in text and b"site-packages" not in text
    for node in model.graph.node:
        if node.op_type in graph.QUANTIZERS:
            assert {p.key for p in node.metadata_props} == {"mx_format"} and "along axis" in node.doc_string
            assert {a.name for a in node.attribute} == set(ops.OPERATORS[node.op_type].attributes)


def test_names_come_from_the_module_path(exported):
    _, path, _ = exported
    names = [n.name for n in onnx.load(path).graph.node]
    assert {"conv", "relu", "body.0", "head"} <= set(names)
    assert {"conv.weight_quant", "body.0.weight_quant", "head.weight_quant"} <= set(names)
    assert len(names) == len(set(names))


def test_every_weight_scale_is_contracted_and_none_expanded(exported):
    _, path, report = exported
    model = graph.load(path)
    weights = [n for n in model.graph if graph.is_ours(n, graph.QUANTIZERS) and constant(n.inputs[0]) is not None]
    assert len(weights) == 3
    for node in weights:
        a, shape = graph.attributes(node), tuple(constant(node.inputs[0]).shape)
        for other in node.inputs[1:]:
            assert constant(other).shape == contracted_shape(shape, a["axis"], a["group_size"])
    big = [v for v in model.graph.initializers.values() if v.const_value.size >= 8 * 3 * 9]
    assert {v.name for v in big} == {"conv.weight", "body.0.weight"}
    layers = {layer["name"]: layer for layer in json.loads(report.to_json())["layers"]}
    assert layers["body.0.weight_quant"]["shape"] == [16, 200] and layers["head.weight_quant"]["bytes"] > 0


@pytest.mark.parametrize("execute", [executors.run, executors.run_qonnx, executors.run_reference])
def test_quantizers_give_equal_bits_on_equal_input(exported, execute):
    _, path, _ = exported
    differences = verification.count_quantizer_differences(graph.load(path), inputs(), execute)
    assert len(differences) >= 3 and not any(differences.values()), differences


def test_torch_weights_have_the_same_bits(exported):
    model, path, _ = exported
    names = [n.outputs[0].name for n in graph.load(path).graph if n.name.endswith("weight_quant")]
    for name, value in executors.run(path, inputs(), names).items():
        layer = model.get_submodule(name.removesuffix(".weight_quant"))
        assert bits.equal_bits(value, layer.quant_weight().value.detach().numpy()).all()


def test_outputs_agree_with_torch_up_to_accumulation_order(exported):
    """Float32 products are summed in different orders, so values near a rounding point may land one code apart.

    Every quantizer is bit-exact on equal input (above); here a flipped code moves an output by one code's worth.
    """
    model, path, _ = exported
    x = inputs(40)
    expected = model(torch.from_numpy(x)).detach().numpy()
    for execute in (executors.run, executors.run_qonnx):
        (actual,) = execute(path, x).values()
        assert_equal_up_to_turned_codes(actual, expected)


@pytest.mark.parametrize("layer", [mx.QuantReLU("nvfp4"), mx.QuantConv2d(3, 4, 3, weight="nvfp4", activation="nvfp4")])
def test_nvfp4_is_found_at_run_time_and_named(tmp_path, layer):
    report = mx.export(nn.Sequential(layer), (torch.randn(2, 3, 12, 12),), tmp_path / "m.onnx")
    assert {r.format for r in report.layers} == {"nvfp4"}
    model = graph.load(tmp_path / "m.onnx")
    assert [n.op_type for n in model.graph if graph.is_ours(n, graph.SCALES)] == ["NVFP4Scale"]
    assert all(graph.quantizer_format(n).name == "nvfp4" for n in model.graph if graph.is_ours(n, graph.QUANTIZERS))
    for execute in (executors.run, executors.run_qonnx):
        assert not any(verification.count_quantizer_differences(model, inputs(), execute).values())


@pytest.mark.parametrize("opset", [18, 20, 21, 25, 26])
def test_opset_is_honoured(tmp_path, opset):
    """GELU is an operator from opset 20 on, and torch itself writes 25 at most."""
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 4), nn.GELU()), "mxint8", "mxint8")
    mx.export(model, (torch.randn(2, 40),), tmp_path / "m.onnx", opset=opset)
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset
    assert {o.version for f in proto.functions for o in f.opset_import if o.domain == ""} == {opset}
    executors.run(proto, np.ones((3, 40), np.float32))


def test_exporting_twice_gives_the_same_file(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 4)), "mxint8", "mxint8")
    for name in "ab":
        mx.export(model, (torch.randn(2, 40),), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_training_flags_and_names_survive(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 4), nn.Dropout(), nn.Linear(4, 2))).train()
    model[1].eval()
    mx.export(model, (torch.randn(2, 40),), tmp_path / "m.onnx", input_names=["x"], output_names=["y"])
    assert model.training and model[0].training and not model[1].training
    proto = onnx.load(tmp_path / "m.onnx")
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("x", "y")


class Unexportable(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = mx.QuantLinear(8, 8)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


def test_refusals_are_clear_and_leave_nothing_behind(tmp_path):
    path = tmp_path / "m.onnx"
    model = Unexportable().train()
    for bad, message in (
        (model, "torch cannot export Unexportable"),
        (nn.Linear(4, 4), "no quantized layer"),
        (mx.quantize_model(nn.Linear(8, 8)).double(), "is torch.float64"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            mx.export(bad, (torch.randn(2, 8),), path)
    assert model.training and list(tmp_path.iterdir()) == []
    with pytest.raises(InputFileError, match="no such directory"):
        mx.export(mx.QuantLinear(8, 8), (torch.randn(2, 8),), tmp_path / "absent" / "m.onnx")
    with pytest.raises(InputFileError, match="not a readable ONNX model"):
        path.write_bytes(b"not onnx")
        graph.load(path)


@pytest.mark.parametrize("fmt", MX_FORMATS)
def test_the_operator_of_traced_graphs_is_the_quantizer(fmt):
    """One operator for scale and elements, which the file holds as two nodes."""
    x = torch.from_numpy(edge_values((40, 70)))
    quantizer = Quantizer(mx.get_format(fmt), -1, "even")
    with torch.no_grad():
        program = torch.export.export(Wrapped(quantizer), (x,))
    kinds = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert len(kinds) == 1 and kinds[0].startswith("mxexport.mx_then_")
    assert_equal_bits(program.module()(x).numpy(), quantizer(x).numpy(), fmt)


class Wrapped(nn.Module):
    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, x):
        return self.quantizer(x)
