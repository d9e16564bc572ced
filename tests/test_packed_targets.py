"""Packed weights go everywhere float weights go: hardware, standard ONNX, verification."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.fpga import network
from mxexport.fpga.lowering import walk
from mxexport.fpga.lowering.calibrate import calibrate
from mxexport.fpga.streams.types import Wide
from mxexport.model import graph
from mxexport.numbers.formats import MX_FORMATS
from mxexport.running import executors
from tests.helpers import every

FORMATS = (*MX_FORMATS, "nvfp4", "mxint4", "uint4_g32", "int4_g32", "float_ocp_e5m2_g16", "float_fnuz_e4m3_g32")


@pytest.fixture(scope="module", params=every(2, FORMATS))  # nvfp4 among them
def files(request, tmp_path_factory):
    """(format, input, exported file, clean file, clean and packed file) of a small network with short last groups."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 6))
    model, x = mx.quantize_model(net, request.param, "mxint8"), torch.randn(4, 70)
    folder = tmp_path_factory.mktemp("packed")
    paths = [folder / f"{name}.onnx" for name in ("exported", "clean", "packed")]
    mx.export(model, (x,), paths[0])
    mx.clean(paths[0], paths[1], verify=True)
    mx.clean(paths[0], paths[2], verify=True, pack=True)
    return request.param, x.numpy(), *paths


def test_stages_compare_equal_by_name(files):
    _, x, exported, clean, packed = files
    for stage in (clean, packed):
        result = mx.verify(exported, stage, x)
        assert result.equal, str(result)


def test_packed_weights_become_standard_onnx_with_equal_bits(files, tmp_path):
    _, x, exported, _, packed = files
    for functions in (False, True):
        report = mx.convert(packed, tmp_path / "qdq.onnx", to="qdq", functions=functions)
        assert functions or {n.domain for n in onnx.load(report.path).graph.node} <= {""}
        assert mx.verify(exported, report.path, x).equal
        mx.convert(report.path, tmp_path / "back.onnx", to="mxexport")
        assert mx.verify(exported, tmp_path / "back.onnx", x).equal


def test_hardware_reads_the_same_codes(files):
    name, x, exported, clean, packed = files
    if not mx.get_format(name).is_mx:
        return
    networks = []
    for path in (exported, clean, packed):
        model = graph.load(path)
        calibrate(model, {model.graph.inputs[0].name: x}, 1)
        sources = {name: Wide(frame, 12, -8) for name, frame in walk.read_frames(model).items()}
        networks.append(network.read(walk.lower(model, sources).model))
    units = [[product.unit for product in found.products()] for found in networks]
    assert len(units[0]) == 2
    for first, *others in zip(*units, strict=True):
        for other in others:
            assert first.weight.format == other.weight.format
            assert np.array_equal(first.weight.codes, other.weight.codes)
            assert np.array_equal(first.weight.scale_codes, other.weight.scale_codes)
            assert np.array_equal(first.bias, other.bias)


def test_packed_convolutions_become_standard_onnx(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(40, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)).eval()
    model, x = mx.quantize_model(net, "mxfp6_e3m2", "mxfp8_e4m3"), torch.randn(2, 40, 8, 8)
    mx.export(model, (x,), tmp_path / "m.onnx", weights="packed")
    mx.convert(tmp_path / "m.onnx", tmp_path / "q.onnx", to="qdq")
    (expected,), (actual,) = (executors.run(tmp_path / f"{n}.onnx", x.numpy()).values() for n in ("m", "q"))
    assert np.array_equal(expected, actual)
