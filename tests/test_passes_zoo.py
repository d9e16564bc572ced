"""Graphs shaped like those of the qonnx model zoo (TFC, CNV), exported by Brevitas: the whole pipeline, verified."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from mxexport import passes

pytestmark = pytest.mark.filterwarnings("ignore")


def tfc(bits: int) -> nn.Module:
    """Three hidden layers of 64, batch norm and a quantized activation after each."""
    from brevitas import nn as qnn, quant as bq

    weight = {"weight_quant": bq.SignedBinaryWeightPerTensorConst} if bits == 1 else {"weight_bit_width": bits}
    act = {"act_quant": bq.SignedBinaryActPerTensorConst} if bits == 1 else {"bit_width": bits}
    layers, width = [qnn.QuantIdentity(**act)], 784
    for _ in range(3):
        layers += [qnn.QuantLinear(width, 64, bias=False, **weight), nn.BatchNorm1d(64), qnn.QuantIdentity(**act)]
        width = 64
    return nn.Sequential(nn.Flatten(), *layers, qnn.QuantLinear(64, 10, bias=False, **weight))


def cnv(bits: int) -> nn.Module:
    """Convolutions without bias, batch norm, quantized activations and pooling, then linear layers."""
    from brevitas import nn as qnn

    layers, channels = [qnn.QuantIdentity(bit_width=8)], 3
    for width in (16, 32):
        layers += [qnn.QuantConv2d(channels, width, 3, bias=False, weight_bit_width=bits), nn.BatchNorm2d(width)]
        layers += [qnn.QuantIdentity(bit_width=bits), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), qnn.QuantLinear(32 * 36, 10, bias=False, weight_bit_width=bits))


@pytest.mark.parametrize(
    ("make", "bits", "shape"), [(tfc, 1, (1, 1, 28, 28)), (tfc, 2, (1, 1, 28, 28)), (cnv, 2, (1, 3, 32, 32))]
)
def test_zoo_graphs_clean_within_the_stated_bounds(make, bits, shape, tmp_path):
    from brevitas.export import export_qonnx

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = make(bits)
        net(torch.randn(8, *shape[1:]))  # statistics of batch norms and activations
        export_qonnx(net.eval(), torch.rand(shape), str(tmp_path / "zoo.onnx"))
    exact = passes.clean(tmp_path / "zoo.onnx", tmp_path / "tidy.onnx", passes=passes.TIDY, verify=True)
    assert {result for _, result in exact.verified} == {"equal bits"}
    report = passes.clean(tmp_path / "zoo.onnx", tmp_path / "clean.onnx", verify=True)
    quantizers = {name for name in report.before.operators if "qonnx" in name or "brevitas" in name}
    assert quantizers and sum(report.after.operators.get(n, 0) for n in report.after.operators if "qonnx" in n) > 3
    assert not {"BatchNormalization", "Gemm", "Identity"} & set(report.after.operators)
    again = passes.clean(tmp_path / "clean.onnx", tmp_path / "again.onnx")
    assert again.after == report.after
