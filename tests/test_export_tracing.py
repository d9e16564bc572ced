"""What export does while torch traces: equal graphs, in less time."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.exporting.torch_tables import read_once
from mxexport.exporting.while_tracing import AsGraphsHold, as_graphs_hold
from mxexport.model import graph
from mxexport.quant.kernels.exported import QUANTIZER_OF


class TwoFormats(nn.Module):
    """Two layers that read one tensor: the same scales, elements of two formats."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.other = (nn.Linear(64, 8) for _ in range(3))

    def forward(self, x):
        return self.first(x) + self.second(x) * self.other(x)


def test_quantizers_that_find_the_same_scale_share_it(tmp_path):
    # E2M3 and the eight-bit integers both scale the largest magnitude to its binade; only steps differ.
    model = mx.quantize_model(TwoFormats(), "mxint8", "mxfp6_e2m3")
    model.second.set_formats("mxint8", "mxfp6_e3m2")
    model.other.set_formats("mxint8", "mxfp6_e2m3")
    mx.export(model, torch.randn(2, 64), tmp_path / "model.onnx")
    nodes = list(graph.load(tmp_path / "model.onnx").graph)
    assert [n.name for n in nodes if n.op_type == "MXScale"] == ["first.input_scale", "second.input_scale"]
    quantizers = {n.name: n.inputs[1].name for n in nodes if n.op_type == "MXFloatQuant"}
    assert quantizers == {"first.input_quant": "first.input_scale", "second.input_quant": "second.input_scale"}


def test_no_node_of_both_is_left_in_branches_either(tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda t: self.one(t), lambda t: self.two(t) * 2, (x,))

    x = torch.randn(2, 32)
    model = mx.quantize_model(Branches(), "mxfp8_e4m3", "mxint8").eval()
    mx.export(model, x, tmp_path / "model.onnx")
    nodes = list(graph.load(tmp_path / "model.onnx").graph.all_nodes())
    assert not {n.op_type for n in nodes} & set(QUANTIZER_OF)
    assert sum(n.op_type == "MXScale" for n in nodes) == 4
    for sign in (1, -1):
        given = sign * x.abs()
        (found,) = mx.run(tmp_path / "model.onnx", {"x": given.numpy()}).values()
        torch.testing.assert_close(torch.from_numpy(found), model(given), rtol=0, atol=1e-6)


def test_torch_reads_its_table_once_and_no_model_changes_it():
    with read_once():
        first = ONNXRegistry.from_torchlib(20)
        count = len(first.functions)
        first.register_op(torch.ops.mxexport.mx_scale.default, lambda x: x)
        first.functions["aten::relu"].clear()
        second = ONNXRegistry.from_torchlib(20)
    plain = ONNXRegistry.from_torchlib(20)
    assert second is not first and len(first.functions) == count + 1
    assert second.opset_version == plain.opset_version
    assert {str(k): len(v) for k, v in second.functions.items()} == {str(k): len(v) for k, v in plain.functions.items()}


def test_torch_makes_its_own_table_again_after_a_failure():
    made = ONNXRegistry.from_torchlib.__func__
    with pytest.raises(ValueError), read_once():
        raise ValueError
    assert ONNXRegistry.from_torchlib.__func__ is made


def test_the_mode_ends_with_forward_whatever_happens():
    class Watching(nn.Module):
        def forward(self, fails):
            assert any(isinstance(mode, AsGraphsHold) for mode in modes())
            if fails:
                raise ValueError

    def modes():
        return torch.overrides._get_current_function_mode_stack()

    model = Watching()
    with as_graphs_hold(model):
        model(False)
        assert not modes()
        with pytest.raises(ValueError):
            model(True)
        assert not modes()
    with pytest.raises(AssertionError):
        model(False)


def test_a_scale_of_an_open_axis_says_how_long_it_is(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Conv1d(8, 8, 3)), "mxint8", "mxint8")
    model[0].set_formats("mxint8", mx.QuantSpec("mxint8"))
    mx.export(model, torch.randn(2, 8, 16), tmp_path / "model.onnx", dynamic_shapes=({0: "batch", 2: "time"},))
    (scale,) = (n.outputs[0] for n in graph.load(tmp_path / "model.onnx").graph if n.op_type == "MXScale")
    assert scale.shape == ir.Shape(["batch", 1, "time"])


def test_a_failed_export_leaves_no_mode_of_torch_behind(tmp_path):
    """Compiled functions would run in it, and fail there."""

    class Five(nn.Linear):
        def forward(self, x):
            return super().forward(x), 5

    model = mx.quantize_model(nn.Sequential(Five(32, 4)), "mxint8", "mxint8")
    with pytest.raises(UnsupportedError, match="the int 5"):
        mx.export(model, (torch.zeros(1, 32),), tmp_path / "m.onnx")
    assert not torch.overrides._get_current_function_mode_stack()
    assert "forward" not in vars(model)
