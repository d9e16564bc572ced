"""Dot products in LUTs, as logic and as cells by name: every pair of codes, the extremes in every lane."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mxexport.fpga.datapaths import latencies
from mxexport.fpga.streams.words import pack_fields
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import get_format
from tests.dot_streams import build_stream

FULL = os.environ.get("MXEXPORT_FULL") == "1"
MINIFLOATS = ["mxfp4_e2m1", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"]

DOT_STREAM = """// mx_dot as a stream: sum with what is owed to it.
module mx_dot_stream #(parameter int AExpBits = 0, AManBits = 6, WExpBits = 0, WManBits = 6, Simd = 4, UseDsp = 0,
                       localparam int ABits = mx_pkg::element_bits(AExpBits, AManBits),
                       localparam int WBits = mx_pkg::element_bits(WExpBits, WManBits),
                       localparam int Sum = mx_pkg::product_bits(AExpBits, AManBits, WExpBits, WManBits)
                                            + $clog2(Simd)) (
  input logic aclk, input logic aresetn,
  input logic s_axis_tvalid, output logic s_axis_tready,
  input logic [Simd*(ABits+WBits)-1:0] s_axis_tdata, input logic s_axis_tlast,
  output logic m_axis_tvalid, input logic m_axis_tready, output logic [Sum:0] m_axis_tdata,
  output logic m_axis_tlast
);
  localparam int Delay = mx_pkg::dot_latency(AExpBits, AManBits, WExpBits, WManBits, Simd, UseDsp != 0);
  logic signed [Sum-1:0] sum;
  logic owed;
HANDSHAKE
  mx_dot #(
    .AExpBits(AExpBits), .AManBits(AManBits), .WExpBits(WExpBits), .WManBits(WManBits), .Simd(Simd),
    .UseDsp(UseDsp != 0)
  ) u_dot (
    .aclk, .en_i(en), .a_i(s_axis_tdata[Simd*ABits-1:0]), .w_i(s_axis_tdata[Simd*ABits+:Simd*WBits]),
    .sum_o(sum), .carry_o(owed)
  );
  assign m_axis_tdata = (Sum + 1)'(sum) + (Sum + 1)'(owed);
endmodule
"""


def check(a_format: str, w_format: str, simd: int, cells: bool, rng, use_dsp: bool = False) -> None:
    elements = [get_format(name).element for name in (a_format, w_format)]
    a_parameters, w_parameters = (fixedpoint.element_parameters(element) for element in elements)
    linear = [fixedpoint.linear_table(p["exponent_bits"], p["mantissa_bits"]) for p in (a_parameters, w_parameters)]
    # Every pair of codes, each in some lane, then the extremes in all of them.
    pairs = np.stack(np.meshgrid(*(np.arange(len(table)) for table in linear), indexing="ij"), -1).reshape(-1, 2)
    count = max(-(-len(pairs) // simd) * simd, 512 * simd)
    pairs = rng.permutation(np.resize(pairs, (count, 2)), axis=0).reshape(-1, simd, 2)
    ends = [np.array([table.argmin(), table.argmax()]) for table in linear]
    extremes = np.stack([np.repeat(ends[0], 2), np.tile(ends[1], 2)], -1)
    codes = np.concatenate([np.repeat(extremes[:, None], simd, 1), pairs])
    values = [table[codes[..., i]].astype(object) for i, table in enumerate(linear)]
    wanted = (values[0] * values[1]).sum(-1)
    bits = [element.bits for element in elements]
    beats = pack_fields([(codes[..., i], bits[i]) for i in range(2)])
    parameters = {
        "AExpBits": a_parameters["exponent_bits"],
        "AManBits": a_parameters["mantissa_bits"],
        "WExpBits": w_parameters["exponent_bits"],
        "WManBits": w_parameters["mantissa_bits"],
        "Simd": simd,
        "UseDsp": int(use_dsp),
    }
    integers = not (parameters["AExpBits"] or parameters["WExpBits"])
    width = sum(element.linear_bits for element in elements) - (not integers) + (simd - 1).bit_length() + 1
    simulator = build_stream("mx_dot_stream", DOT_STREAM, parameters, ("MX_LUT6_2", "MX_DSP48E2") if cells else ())
    for stalls in ({}, {"stall_in": 0.3, "stall_out": 0.4}):
        result = simulator.run(beats, len(beats), **stalls)
        found = [int.from_bytes(beat.tobytes(), "little") % 2**width for beat in result.beats]
        assert found == [int(value) % 2**width for value in wanted]  # sums of e5m2 have 72 bits
        if not stalls:
            assert result.cycles == len(beats) + latencies.dot_latency(*elements, simd, use_dsp)


@pytest.mark.parametrize("cells", [False, True], ids=["logic", "cells"])
@pytest.mark.parametrize("name", [*MINIFLOATS, "mxint8"] if FULL else ["mxfp4_e2m1", "mxfp8_e4m3", "mxint8", "mxint3"])
def test_dot_product_is_exact(name, cells, rng):
    check(name, name, 8 if name.startswith("mxfp8") else 32, cells, rng)


@pytest.mark.parametrize("simd", [1, 2, 4, 16])
def test_dot_product_of_few_lanes(simd, rng):
    check("mxfp4_e2m1", "mxfp4_e2m1", simd, True, rng)
    check("mxint8", "mxint8", simd, True, rng)


@pytest.mark.parametrize(
    "a_format, w_format",
    [
        ("mxfp6_e2m3", "mxfp8_e4m3"),
        ("mxfp8_e5m2", "mxfp4_e2m1"),
        ("mxfp6_e3m2", "mxfp6_e2m3"),
        ("mxint8", "mxfp8_e4m3"),
    ],
)
def test_dot_product_of_two_formats(a_format, w_format, rng):
    check(a_format, w_format, 8, True, rng)


@pytest.mark.skipif(not FULL, reason="every pair of formats takes minutes; make test-full runs them")
@pytest.mark.parametrize("cells", [False, True], ids=["logic", "cells"])
@pytest.mark.parametrize("a_format", [*MINIFLOATS, "mxint8", "mxint3"])
@pytest.mark.parametrize("w_format", [*MINIFLOATS, "mxint8", "mxint3"])
def test_dot_product_of_every_pair(a_format, w_format, cells, rng):
    for simd in (1, 4, 8):
        check(a_format, w_format, simd, cells, rng)
