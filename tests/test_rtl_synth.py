"""Yosys estimates: every unit synthesises, memories and multipliers land where they should."""

from __future__ import annotations

import numpy as np
import pytest

from mxexport.errors import MissingToolError, MXExportError
from mxexport.fpga.datapaths.weights import Weight
from mxexport.fpga.library import rtl_sources
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.streams.words import write_mem
from mxexport.fpga.tools import yosys
from mxexport.fpga.unit import Folding
from mxexport.fpga.units import MatMul
from mxexport.numbers.formats import get_format
from tests.helpers import in_full

INT8 = {"AExpBits": 0, "AManBits": 6, "WExpBits": 0, "WManBits": 6}


def area(top, memory_dir=None, **parameters):
    return yosys.synthesize(top, rtl_sources(), parameters, memory_dir=memory_dir)


@pytest.fixture
def memories(tmp_path):
    """ROMs of a [16, 64] int8 layer, pe 2, simd 4: 128 weight words of 64 bits, 8 Kib in all."""
    rng = np.random.default_rng(3)
    codes, scale = rng.integers(0, 256, (16, 64)).astype(np.uint8), rng.integers(118, 126, (16, 2)).astype(np.uint8)
    bias = rng.integers(-(2**20), 2**20, 16)
    weight = Weight(get_format("mxint8"), codes, scale, 32)
    unit = MatMul(Blocks((64,), "mxint8", 32, 110, 120), weight, bias, 230, 36, 0)
    for name, memory in unit.memories(Folding(2, 4)).items():
        write_mem(tmp_path / f"{name}.mem", memory.fields, memory.width)
    return tmp_path


def matmul(memories, **parameters):
    files = {"WeightFile": "weight.mem", "ScaleFile": "scale.mem", "BiasFile": "bias.mem"}
    shape = {"K": 64, "Rows": 16, "Pe": 2, "Simd": 4, "AccWidth": 36, "ScaleOffset": 230, "ShiftMax": 15, "HasBias": 1}
    return area("mx_matmul", memories, **shape, **INT8, **files, **parameters)


@pytest.mark.parametrize(
    "top, parameters",
    [
        ("mx_quantize", {"Width": 24, "K": 70, "Lanes": 2}),
        ("mx_lanes", {"InLanes": 4, "OutLanes": 2, "ElemWidth": 16}),
        ("mx_skid", {"Width": 16}),
        ("mx_relu", {"Width": 16, "Lanes": 2}),
    ],
)
def test_unit_synthesises(top, parameters):
    result = area(top, **parameters)
    assert result.lut > 0
    assert (result.dsp, result.bram18, result.bram36, result.uram) == (0, 0, 0, 0)


def test_fifo_is_distributed_ram():
    result = area("mx_fifo", Width=20, Depth=32)
    assert result.lutram > 0 and result.ff < 20


def test_deep_fifo_and_line_buffer_are_block_ram():
    assert area("mx_fifo", Width=35, Depth=1024).bram36 == 1
    lines = area("mx_window", Bits=8, Simd=8, H=28, W=28, Beats=2, OutH=26, OutW=26)
    assert lines.bram36 + lines.bram18 > 0 and lines.lutram == 0


@in_full
def test_quantizer_without_rounding_bias_is_smaller():
    plain, even = (area("mx_quantize", Width=32, Lanes=4, RoundBias=bias) for bias in (0, 1 << 21))
    assert plain.total_lut < even.total_lut


def test_weights_above_4_kib_go_to_block_ram_and_int8_products_to_dsp(memories):
    result = matmul(memories)
    assert result.bram18 + result.bram36 > 0
    assert result.dsp == 8


@in_full
def test_weights_go_to_luts_when_asked(memories):
    result = matmul(memories, RomStyle="lut", UseDsp=0)
    assert (result.bram18, result.bram36, result.dsp) == (0, 0, 0)


@in_full
def test_a_new_memory_file_is_a_new_result(memories):
    before = matmul(memories, RomStyle="lut")
    write_mem(memories / "weight.mem", np.zeros((128, 8), int), 8)
    assert matmul(memories, RomStyle="lut").lut < before.lut


def test_yosys_error_is_reported():
    with pytest.raises(MXExportError, match="mx_fifo: Width = 8, Depth = 3"):
        area("mx_fifo", Depth=3)


def test_missing_pyosys_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(yosys.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="needs pyosys: pip install"):
        area("mx_relu")
