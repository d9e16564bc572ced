"""qonnx and Brevitas: our passes in qonnx, qonnx's here, and files of both kinds cleaned and mixed."""

from __future__ import annotations

import warnings

import numpy as np
import onnx_ir as ir
import pytest
import torch
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.base import Transformation
from qonnx.transformation.extract_quant_scale_zeropt import ExtractQuantScaleZeroPt
from qonnx.transformation.general import GiveUniqueNodeNames
from qonnx.util.cleanup import cleanup_model

from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.passes import (
    PIPELINE,
    TIDY,
    approximate,
    as_transformation,
    clean,
    fold_constants,
    infer_shapes,
    qonnx_cleanup,
    qonnx_pass,
    remove_identities,
    run_passes,
)
from mxexport.running import execution
from mxexport.targets.check import require as check
from tests.helpers import assert_equal_bits
from tests.pass_helpers import model, op_types

RNG = np.random.default_rng(2)
QUANT = 'qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">'
OURS = "mxexport.ops.GroupwiseQuant<axis=0, group_size=32, bit_width=4, signed=1, narrow=1>"


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def mixed() -> ir.Model:
    """A layer quantized by QONNX's Quant, one by ours, one by QuantizeLinear, and Trunc at the end."""
    body = f"""[a] q = {QUANT}(x, one, zero, eight)  [i] i = Identity(q)  [w] qw = {OURS}(w, s)  [m] m = MatMul(i, qw)
      [n] n = Neg(v)  [v] qv = {QUANT}(n, half, zero, four)  [m2] m2 = MatMul(m, qv)
      [u] u = DequantizeLinear(codes, half)  [m3] m3 = MatMul(m2, u)
      [b] b = qonnx.custom_op.general.BipolarQuant(m3, half)
      [t] t = {QUANT}(b, half, zero, eight)  [y] y = qonnx.custom_op.general.Trunc<rounding_mode="FLOOR", signed=1,
      narrow=0>(t, half, zero, eight, one, four)"""
    return model(
        body, "float[2,40] x", "float[2,4] y", w=normal(40, 4), one=np.float32(1), zero=np.float32(0),
        half=np.float32(0.5),
        eight=np.float32(8), four=np.float32(4), s=np.exp2(RNG.integers(-3, 1, (2, 4))).astype(np.float32),
        v=normal(4, 4), codes=RNG.integers(-7, 8, (4, 4)).astype(np.int8),
    )  # fmt: skip


def wrapped(made: ir.Model) -> ModelWrapper:
    return ModelWrapper(graph.to_proto(made))


def test_mixed_files_are_cleaned_and_keep_every_quantizer(tmp_path):
    made = mixed()
    before = op_types(made)
    record = run_passes(made, PIPELINE, verify=True)
    assert op_types(record.model) == [op for op in before if op not in ("Identity", "Neg")]
    assert {step.verified for step in record.steps if step.changed} == {"equal bits"}
    report = clean(made, tmp_path / "clean.onnx")
    assert report.after.operators["qonnx.custom_op.general.Quant"] == 3


def test_our_passes_as_transformations():
    wrapper = wrapped(mixed()).transform(as_transformation(infer_shapes))
    transformation = as_transformation(remove_identities)
    assert isinstance(transformation, Transformation)
    result = wrapper.transform(as_transformation(fold_constants)).transform(transformation)
    assert not {"Identity", "Neg"} & {n.op_type for n in result.graph.node}
    x = {"x": normal(2, 40)}
    assert_equal_bits(execute_onnx(result, x)["y"], execute_onnx(wrapper, x)["y"])


def test_qonnx_transformations_as_passes():
    made = model("q = " + QUANT + "(x, s, z, b)  y = Relu(q)", s=np.float32(0.5), z=np.float32(0), b=np.float32(4))
    record = run_passes(made, [qonnx_pass(ExtractQuantScaleZeroPt()), remove_identities], verify=True)
    assert op_types(record.model) == ["Div", "Quant", "Mul", "Relu"]
    assert record.changed["ExtractQuantScaleZeroPt"] == 1 and op_types(made) == ["Quant", "Relu"]
    named = run_passes(mixed(), [qonnx_pass(GiveUniqueNodeNames())]).model
    assert named.graph[0].name == "Quant_0" and sorted(op_types(named)) == sorted(op_types(mixed()))


class Broken(Transformation):
    def apply(self, model):
        raise AssertionError("graph is not a chain")


def test_a_failing_transformation_is_named():
    with pytest.raises(UnsupportedError, match="qonnx transformation Broken: graph is not a chain"):
        run_passes(mixed(), [qonnx_pass(Broken())])


def test_transformations_state_their_bound():
    bound = approximate(ulp=2, reason="rounds twice")(lambda m: None).bound
    assert qonnx_pass(GiveUniqueNodeNames(), bound).bound is bound and qonnx_pass(GiveUniqueNodeNames()).bound is None


def test_qonnx_cleanup_keeps_our_quantizers_where_qonnx_folds_them():
    made = model(f"qw = {OURS}(w, s)  i = Identity(x)  y = MatMul(i, qw)", "float[2,40] x", "float[2,4] y",
                 w=normal(40, 4), s=np.full((2, 4), 0.5, np.float32))  # fmt: skip
    theirs = cleanup_model(wrapped(made))
    assert [n.op_type for n in theirs.graph.node] == ["Identity", "MatMul"]  # the quantizer is gone
    ours = qonnx_cleanup(wrapped(made))
    assert isinstance(ours, ModelWrapper) and [n.op_type for n in ours.graph.node] == ["GroupwiseQuant", "MatMul"]
    x = {"x": normal(2, 40)}
    assert_equal_bits(execute_onnx(ours, x)["y"], execution.execute(made, x)["y"])


def test_qonnx_cleanup_extracts_biases_and_keeps_annotations():
    from qonnx.core.datatype import DataType

    wrapper = wrapped(
        model(
            "c = Conv(x, w, b)  y = Relu(c)", "float[1,3,4,4] x", "float[1,3,4,4] y", w=normal(3, 3, 1, 1), b=normal(3)
        )
    )
    wrapper.set_tensor_datatype("x", DataType["INT4"])
    cleaned = qonnx_cleanup(wrapper, extract_conv_bias=True)
    assert [n.op_type for n in cleaned.graph.node] == ["Conv", "Add", "Relu"]
    assert cleaned.get_tensor_datatype("x") == DataType["INT4"]


@pytest.fixture(scope="module")
def brevitas(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import brevitas.nn as qnn
        from brevitas.export import export_onnx_qcdq, export_qonnx

        torch.manual_seed(0)
        net = torch.nn.Sequential(
            qnn.QuantIdentity(return_quant_tensor=True),
            qnn.QuantConv2d(3, 8, 3, weight_bit_width=4),
            torch.nn.BatchNorm2d(8),
            qnn.QuantReLU(return_quant_tensor=True),
            qnn.TruncAvgPool2d(2),
            torch.nn.Flatten(),
            qnn.QuantLinear(72, 5, bias=True, weight_bit_width=4),
        ).eval()
        qcdq = torch.nn.Sequential(qnn.QuantIdentity(), qnn.QuantLinear(16, 5, bias=True, weight_bit_width=4)).eval()
        folder = tmp_path_factory.mktemp("brevitas")
        export_qonnx(net, torch.rand(1, 3, 8, 8), str(folder / "qonnx.onnx"))
        export_onnx_qcdq(qcdq, torch.rand(1, 16), str(folder / "qcdq.onnx"))
    return folder


def test_brevitas_qonnx(brevitas, tmp_path):
    exact = clean(brevitas / "qonnx.onnx", tmp_path / "tidy.onnx", passes=TIDY, verify=True)
    assert {result for _, result in exact.verified} == {"equal bits"}
    report = clean(brevitas / "qonnx.onnx", tmp_path / "clean.onnx", verify=True)
    quantizers = {name for name in report.before.operators if "qonnx" in name}
    assert quantizers == {"qonnx.custom_op.general.Quant", "qonnx.custom_op.general.Trunc"}
    assert all(report.after.operators[name] == report.before.operators[name] for name in quantizers)
    assert "remove_constant_inputs" in report.changed and "BatchNormalization" not in report.after.operators
    cleaned = graph.load(tmp_path / "clean.onnx")
    assert all(value.shape is not None for node in cleaned.graph for value in node.outputs)


@pytest.mark.parametrize("target", ["hls4ml", "finn"])
def test_brevitas_average_pool_is_named(brevitas, target):
    source = graph.load(brevitas / "qonnx.onnx")
    where = {node.op_type: node.name for node in source.graph}
    with pytest.raises(UnsupportedError) as caught:
        check(source, target)
    found = dict(caught.value.problems)
    assert "a Trunc that turns 10-bit integers" in found[where["Trunc"]] and where["AveragePool"] in found


def test_brevitas_qcdq(brevitas, tmp_path):
    report = clean(brevitas / "qcdq.onnx", tmp_path / "clean.onnx", verify=True)
    for name in ("QuantizeLinear", "DequantizeLinear"):
        assert report.after.operators.get(name) == report.before.operators.get(name)
    assert "Gemm" not in report.after.operators
