"""MXQuantizeTokens: groups along the tokens equal those of Python integers column by column, for every format, rule and
executor; RTL counts what it clamps, ignores surplus lanes and is as late as its class claims."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import MXExportError, ShapeError
from mxexport.fpga.library import rtl_sources
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.streams.words import pack_lanes
from mxexport.fpga.tools import verilator
from mxexport.fpga.unit import Folding, Refused
from mxexport.fpga.units import QuantizeTokens
from mxexport.model import graph
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format, round_bias
from mxexport.quant import freeze_scales
from tests.test_fixedpoint import plain_mx_quantize
from tests.test_hardware_units import STALLS, build, quantize_tokens
from tests.test_ops import check_all_executors

TOKENS, GROUP = 11, 4


def hard_columns(width: int = 63) -> np.ndarray:
    """int64 [TOKENS, 8]: zeros; one alone; all ones and powers of two; the ends; ties; small beside large; noise."""
    rng, top = np.random.default_rng(0), 2 ** (width - 1)
    steps = np.arange(TOKENS)
    powers = np.int64(1) << steps * (width - 3) // TOKENS + 1
    columns = [
        np.zeros(TOKENS, np.int64),
        np.where(steps == 5, -1, 0),
        powers - 1,
        powers * (-1) ** steps,
        np.where(steps % 2, top - 1, -top + 1),
        (2 * steps + 1) << (width // 2),
        np.where(steps % GROUP, steps - 4, top // 3),
        rng.integers(-top + 1, top, TOKENS) >> rng.integers(0, width - 1, TOKENS),
    ]
    return np.stack(columns, axis=1)


def attributes_of(name: str, rule: str, codes: tuple[int, int], lsb_exp: int = -40) -> dict[str, int]:
    element = get_format(name).element
    found = {"group_size": GROUP, "width": 63, "lsb_exp": lsb_exp, "emax": element.emax}
    found |= fixedpoint.element_parameters(element) | {"round_bias": round_bias(element, rule)}
    return found | {"code_min": codes[0], "code_max": codes[1]}


@pytest.mark.parametrize("codes", [(0, 254), (105, 120)])
@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", MX_FORMATS)
def test_columns_equal_python_integers_everywhere(name, rule, codes):
    x = np.stack([hard_columns(), -hard_columns()[::-1]])
    attributes = attributes_of(name, rule, codes)
    found = check_all_executors("MXQuantizeTokens", [x], attributes)
    for frame, columns, scales in zip(x, *found, strict=True):
        for c, column in enumerate(frame.T):
            wanted = plain_mx_quantize(column.tolist(), -40, name, rule, *codes, GROUP)
            assert (columns[c].tolist(), scales[c].tolist()) == wanted[:2]


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 2, 3), (1, 1, 1, 1), (0, 5, 3)])
def test_heads_stay_apart_and_channels_come_first(shape):
    x = np.random.default_rng(1).integers(-(2**40), 2**40, shape)
    attributes = attributes_of("mxfp8_e4m3", "even", (0, 254))
    codes, scales = check_all_executors("MXQuantizeTokens", [x], attributes)
    turned = np.ascontiguousarray(x.transpose(0, *range(x.ndim - 1, 0, -1)))
    wanted = ops.MXQuantize.reference(turned, axis=-1, **attributes)
    np.testing.assert_array_equal(codes, wanted[0])
    np.testing.assert_array_equal(scales, wanted[1])


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 2, 3, 4, 5)])
def test_what_is_no_sequence_of_tokens_is_refused(shape):
    with pytest.raises(ShapeError, match=r"expected \[N, T, C\] or \[N, T, H, C\]"):
        ops.MXQuantizeTokens.reference(np.zeros(shape, np.int64), **attributes_of("mxint8", "floor", (0, 254)))


# --- hardware -------------------------------------------------------------------------------------------------


def simulated(unit: QuantizeTokens, folding: Folding, x: np.ndarray, directory) -> list:
    """Runs under stalls, with anything in surplus lanes."""
    lanes, out = unit.lanes(folding)
    beats, last = unit.source.pack(x, lanes)
    junk = pack_lanes(np.random.default_rng(5).integers(-(2**12), 2**12, (len(last), lanes)), unit.source.width)
    kept = unit.source.pack(np.full_like(x, -1), lanes)[0]
    simulator, count = build(unit, folding, directory), len(x) * unit.result.beats(out)
    given = beats & kept | junk & ~kept
    return [simulator.run(given, count, last=last, stall_in=a, stall_out=b, seed=i) for i, (a, b) in enumerate(STALLS)]


@pytest.mark.parametrize(
    "name, rule, shift, shape, folding",
    [
        ("mxint8", "floor", 6, (TOKENS, 8), Folding(4, 1)),
        ("mxint8", "rceil", 9, (TOKENS, 8), Folding(2, 2)),
        ("mxfp8_e4m3", "even", 2, (TOKENS, 2, 4), Folding(4, 4)),
        ("mxfp8_e5m2", "ceil", -20, (TOKENS, 2, 3), Folding(4, 2)),  # a surplus lane in the middle of a token
        ("mxfp4_e2m1", "floor", 300, (TOKENS, 5), Folding(1, 4)),  # below every code of the data
        ("mxfp6_e2m3", "even", -300, (TOKENS, 7), Folding(4, 8)),  # above every code of the data
    ],
)
def test_blocks_outside_of_the_range_are_clamped_and_counted(name, rule, shift, shape, folding, tmp_path):
    width = 20
    low = min(max(127 - 8 + shift, 0), 250)
    unit = quantize_tokens(Wide(shape, width, -8), name, GROUP, rule)
    unit = dataclasses.replace(
        unit, quantizer=dataclasses.replace(unit.quantizer, code_min=low, code_max=min(low + 3, 254))
    )
    columns = int(np.prod(shape[1:]))
    x = np.stack([hard_columns(width), -hard_columns(width)[::-1]])[..., :columns].reshape(2, *shape)
    turned = x.transpose(0, *range(x.ndim - 1, 0, -1))
    codes, scales, clamped = fixedpoint.mx_quantize(turned, -8, unit.quantizer, -1, GROUP)
    assert clamped > 0
    for run in simulated(unit, folding, x, tmp_path):
        found = unit.result.unpack(run.beats, unit.lanes(folding)[1])
        np.testing.assert_array_equal(found[0], codes)
        np.testing.assert_array_equal(found[1], scales)
        assert run.clamped == [clamped] and not run.error and run.surplus == 0


@pytest.mark.parametrize(
    "shape, group_size, name, rule, folding",
    [
        ((40, 6), 32, "mxint8", "floor", Folding(1, 1)),
        ((40, 6), 32, "mxint8", "even", Folding(4, 2)),
        ((7, 3, 5), 4, "mxfp8_e4m3", "ceil", Folding(4, 2)),
        ((9, 2, 5), 4, "mxfp8_e5m2", "floor", Folding(4, 1)),  # the last token is alone in its block
        ((3, 4), 32, "mxfp4_e2m1", "floor", Folding(8, 2)),
        ((1, 3), 4, "mxint8", "floor", Folding(1, 1)),
    ],
)
def test_the_first_vector_is_as_late_as_claimed(shape, group_size, name, rule, folding, tmp_path):
    unit = quantize_tokens(Wide(shape, 16, -8), name, group_size, rule)
    lanes, out = unit.lanes(folding)
    beats, last = unit.source.pack(np.ones((1, *shape), np.int64), lanes)
    run = build(unit, folding, tmp_path).run(beats, unit.result.beats(out), last=last)
    timing, first = unit.timing(folding), unit.result.beats(out) // unit.result.vectors
    assert (timing.needs == unit.source.vectors - 1).all()
    assert run.out_cycles[first - 1] - run.in_cycles[-1] == timing.latency
    assert run.out_cycles[-1] - run.out_cycles[first - 1] == timing.cadence * (unit.result.vectors - 1)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_misplaced_last_is_flagged(shift, tmp_path):
    unit, folding = quantize_tokens(Wide((5, 3), 16, -8), "mxint8", 4), Folding(2, 1)
    beats, last = unit.source.pack(np.ones((2, 5, 3), np.int64), 1)
    run = build(unit, folding, tmp_path).run(beats, 2 * unit.result.beats(2), last=np.roll(last, shift))
    assert run.error


@pytest.mark.parametrize(
    "top, parameters, words",
    [
        ("mx_quantize_tokens", {"OutLanes": 3}, "OutLanes = 3"),
        ("mx_quantize_tokens", {"MaxCode": 9}, "MaxCode = 9"),
        ("mx_quantize_tokens", {"CodeMin": 9, "CodeMax": 8}, "CodeMin = 9, CodeMax = 8"),
        ("mx_token_codes", {"Tokens": 0}, "Tokens = 0"),
        ("mx_token_walk", {"Words": 0}, "Words = 0"),
        ("mx_column_scales", {"Lanes": 0}, "Lanes = 0"),
        ("mx_encode_lane", {"Binades": -1}, "Binades = -1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(top, parameters, words):
    with pytest.raises(MXExportError, match=words):
        verilator.build(top, rtl_sources(), parameters)


# --- from a graph ---------------------------------------------------------------------------------------------


def quantizer_node(directory, spec: mx.QuantSpec) -> ir.Node:
    """That of the activations of an exported layer."""
    model = mx.quantize_model(nn.Linear(40, 8), "mxint8", spec)
    model(torch.ones(1, 40))
    freeze_scales(model)
    mx.export(model, (torch.ones(1, 40),), directory / "m.onnx")
    nodes = graph.load(directory / "m.onnx").graph
    return next(n for n in nodes if n.op_type == "MXFloatQuant" and n.inputs[0].producer() is None)


def test_a_quantizer_of_a_graph_says_how_tokens_are_quantized(tmp_path):
    node = quantizer_node(tmp_path, mx.QuantSpec("mxfp8_e4m3", scale_rule="even"))
    unit = QuantizeTokens.of(Wide((50, 2, 6), 20, -8), node)
    q, element = unit.quantizer, get_format("mxfp8_e4m3").element
    assert (unit.format, unit.group_size, unit.result.shape) == ("mxfp8_e4m3", 32, (6, 2, 50))
    assert (q.max_code, q.emax, q.round_bias) == (element.max_code, element.emax, round_bias(element, "even"))
    assert QuantizeTokens.of(Wide((5, 6), 20, -8), node).group_size == 8  # few tokens are not padded to 32
    with pytest.raises(Refused, match=r"shape \(50,\); expected \(T, C\)"):
        QuantizeTokens.of(Wide((50,), 20, -8), node)


def test_a_constant_scale_is_refused(tmp_path):
    node = quantizer_node(tmp_path, mx.QuantSpec("float_e4m3", source="static", scaling_per_output="tensor"))
    with pytest.raises(Refused, match="not found by MXScale; quantize with an MX format"):
        QuantizeTokens.of(Wide((50, 6), 20, -8), node)
