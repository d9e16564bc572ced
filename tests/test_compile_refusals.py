"""Each refusal of `compile` names the true cause, with the node, once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.fpga.lowering import prepared
from mxexport.model import graph
from mxexport.passes.clean.split_gemm import split_gemm
from mxexport.targets.check import require as check
from tests.pass_helpers import model as onnx_text


def problems_of(directory, model=None, x=None, **options) -> list[tuple[str, str]]:
    """What `compile` refuses in an exported model, or in the file m.onnx of the directory."""
    path = directory / "m.onnx"
    if model is not None:
        mx.export(model.eval(), x if isinstance(x, tuple) else (x,), path, **options)
    with pytest.raises(UnsupportedError) as caught:
        mx.compile(path, directory / "fpga", calibration=np.ones((4, 32), np.float32))
    assert not (directory / "fpga").exists()
    return caught.value.problems or [("", str(caught.value))]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(32, 4), nn.Linear(32, 4)


ROW = torch.ones(1, 32)


class Unread(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(32, 4)

    def forward(self, x, y):
        return self.a(x), self.a(x)


def test_inputs_that_nobody_reads_and_outputs_that_are_twice_the_same_are_named(tmp_path):
    found = problems_of(tmp_path, mx.quantize_model(Unread(), "mxint8", "mxint8"), (ROW, ROW))
    assert found[0] == ("input 'y'", "read by no node; export the model without it")


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_inputs_of_sizes_that_none_have_are_refused(tmp_path, size):
    """Neither kind of frame is computed once, to see what all have in common."""
    model = mx.quantize_model(nn.Sequential(nn.Linear(32, 4)), "mxint8", "mxint8")
    proto = onnx.load(mx.export(model, (ROW,), tmp_path / "m.onnx").path)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    proto.graph.node.append(helper.make_node("Shape", ["input"], ["sizes"]))
    onnx.save(proto, tmp_path / "m.onnx")
    assert problems_of(tmp_path)


def test_products_with_a_vector_are_refused(tmp_path):
    quant = 'qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">'
    body = f"q = {quant}(x, step, zero, four) v = {quant}(w, step, zero, four) y = MatMul(q, v)"
    numbers = {"w": np.ones(4, np.float32), "step": np.float32(0.5), "zero": np.float32(0), "four": np.float32(4)}
    graph.save(onnx_text(body, "float[n,4] x", "float[n] y", **numbers), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError):
        mx.compile(tmp_path / "m.onnx", tmp_path / "fpga", calibration=np.ones((4, 4), np.float32))


def test_parameters_among_the_inputs_are_told_from_inputs(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(32, 4)), "mxint8", "mxint8")
    found = dict(problems_of(tmp_path, model, ROW, keep_initializers=True))
    assert "run mx.clean, which takes it out" in found["input '0.weight'"]


@pytest.mark.parametrize("activation", ["int8_g32", "nvfp4", "float_e4m3_g32"])
def test_a_product_behind_a_refused_quantizer_is_not_called_unquantized(tmp_path, activation):
    model = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4, bias=False))
    found = problems_of(tmp_path, mx.quantize_model(model, "mxint8", activation), ROW)
    assert [where.split("'")[1] for where, _ in found] == ["0.input_quant", "3.input_quant"]
    assert len(found) == 2 and all("has float scales" in why for _, why in found)


def test_a_product_without_a_quantizer_is_still_named(tmp_path):
    model = nn.Sequential(nn.Linear(32, 8), nn.LogSoftmax(1), nn.Linear(8, 4))
    found = problems_of(tmp_path, mx.quantize_model(model, "mxint8", None), ROW)
    reasons = ["input is not quantized", "apply it on the host", "input is not quantized"]
    assert [reason in why for (_, why), reason in zip(found, reasons, strict=True)] == [True] * 3


def test_the_bias_behind_a_refused_product_is_no_second_problem(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Linear(32, 8)), None, "mxint8")
    mx.export(model.eval(), (ROW,), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "m.onnx", passes=[split_gemm])
    ops = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert ops[-2:] == ["MatMul", "Add"]
    ((where, why),) = problems_of(tmp_path)
    assert "(MatMul)" in where and "weight is not a quantized initializer" in why


def with_nodes(directory, edit) -> None:
    model = mx.quantize_model(nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4)), "mxint8", "mxint8")
    mx.export(model.eval(), (ROW,), directory / "m.onnx")
    proto = onnx.load(directory / "m.onnx")
    edit(proto.graph)
    onnx.save(proto, directory / "m.onnx")


def test_results_of_constants_are_computed_first_and_others_named_together(tmp_path, monkeypatch):
    def edit(g):
        bias = next(i for i in g.initializer if i.name == "0.bias")
        chain = [helper.make_node("Neg", [f"c{i}" if i else "0.bias"], [f"c{i + 1}"], f"neg{i}") for i in range(32)]
        for node in g.node:
            node.input[:] = ["c32" if name == bias.name else name for name in node.input]
        nodes = [*chain, *g.node]
        del g.node[:]
        g.node.extend(nodes)

    with_nodes(tmp_path, edit)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "fold_constants", lambda model: None)  # as where a result is too large to keep
        found = problems_of(tmp_path)
    assert found[0] == ("nodes 'neg0' (Neg), 'neg1' (Neg), 'neg2' (Neg) and 29 more", "compute constants; run mx.clean")
    assert [where for where, _ in found[1:]] == ["node '0' (Gemm)"]  # its bias is not there yet
    mx.compile(tmp_path / "m.onnx", tmp_path / "fpga", calibration=np.ones((4, 32), np.float32))


@pytest.mark.parametrize("value, message", [(np.nan, "its bias holds NaN or Inf"), (np.inf, "its bias holds NaN")])
def test_a_bias_that_is_no_number_is_refused(tmp_path, value, message):
    def edit(g):
        bias = next(i for i in g.initializer if i.name == "2.bias")
        bias.CopyFrom(numpy_helper.from_array(np.full(4, value, np.float32), "2.bias"))

    with_nodes(tmp_path, edit)
    assert [(where, message in why) for where, why in problems_of(tmp_path)] == [("node '2' (Gemm)", True)]


def test_a_bias_far_above_the_products_is_the_cause_that_is_named(tmp_path):
    def edit(g):
        bias = next(i for i in g.initializer if i.name == "2.bias")
        bias.CopyFrom(numpy_helper.from_array(np.array([0, 1, -1e30, 2], np.float32), "2.bias"))

    with_nodes(tmp_path, edit)
    ((_, text),) = problems_of(tmp_path)
    assert "node '2': its bias reaches 1e+30 (output 2) where the products reach" in text
    assert "at most 63 are exact" in text and "exponent bits" not in text


def test_wide_formats_and_wide_ranges_are_told_apart(tmp_path):
    layer = nn.Linear(32, 4, bias=False)
    (formats,) = problems_of(tmp_path, mx.quantize_model(nn.Sequential(layer), "mxfp8_e5m2", "mxfp8_e5m2"), ROW)
    assert "The formats alone are too wide; use one with fewer exponent bits" in formats[1]
    wide = nn.Linear(32, 4, bias=False)
    with torch.no_grad():
        wide.weight.mul_(2.0 ** torch.tensor([[0], [-60], [0], [0]]))
    (ranges,) = problems_of(tmp_path, mx.quantize_model(nn.Sequential(wide), "mxint8", "mxint8"), ROW)
    assert "The groups of its weight range over 2**" in ranges[1]


def test_quantizers_without_a_product_are_refused(tmp_path):
    ends = nn.Sequential(nn.Linear(32, 8), mx.QuantIdentity("mxint8"))
    found = problems_of(tmp_path, mx.quantize_model(ends, "mxint8", "mxint8"), ROW)
    assert len(found) == 1 and "no matrix product follows" in found[0][1]
    twice = nn.Sequential(nn.Linear(32, 32), mx.QuantIdentity("mxfp4_e2m1"), nn.Linear(32, 4))
    found = problems_of(tmp_path, mx.quantize_model(twice, "mxint8", "mxint8"), ROW)
    assert len(found) == 1 and "has quantized already" in found[0][1]


def test_check_says_the_same(tmp_path):
    from mxexport.model import graph

    model = mx.quantize_model(Unread(), "mxint8", "mxint8")
    found = problems_of(tmp_path, model, (ROW, ROW))
    with pytest.raises(UnsupportedError) as caught:
        check(graph.load(tmp_path / "m.onnx"), "dataflow")
    assert caught.value.problems == found


class Resized(nn.Module):
    """A product on one token, behind what is refused."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 16)

    def forward(self, x):
        x = self.patches(nn.functional.interpolate(x, size=(8, 8), mode="bicubic")).flatten(2).transpose(1, 2)
        return self.head(nn.functional.gelu(x[:, 0:1]))


def test_shapes_behind_a_refusal_are_not_held_against_a_product(tmp_path):
    x = torch.randn(2, 3, 10, 10)
    mx.export(mx.quantize_model(Resized(), "mxint8", "mxint8"), (x,), tmp_path / "m.onnx")
    found = dict(mx.check(tmp_path / "m.onnx", target="fpga"))
    assert "its mode is cubic" in found["node 'resize' (Resize)"]
    assert not any("head" in place for place in found)
