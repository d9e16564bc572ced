"""Whole networks: the RTL equals the dataflow graph on every word, the dataflow graph the QONNX graph and torch, and
cycles and latency are as reported."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch

from mxexport.errors import OptionError
from mxexport.fpga import open_design
from tests import hardware_networks as networks
from tests.helpers import FULL

pytestmark = pytest.mark.filterwarnings("ignore:.*depthwise layer")
FORMATS = [("mxint8", "mxint8"), ("mxfp6_e2m3", "mxfp8_e4m3"), ("mxfp4_e2m1", "mxint8"), ("mxfp6_e3m2", "mxfp6_e2m3"),
           ("mxint4", "mxfp4_e2m1"), ("mxfp8_e4m3", "mxint8")]  # fmt: skip
RANDOM = 200 if FULL else 2
"""make test-full: at least 200."""
_FRAMES = 12
_SLOW = () if FULL else ("residual", "large", "parts", "classes", "activations")
"""What the other networks hold as well, and random_networks, test_activations and test_compile_ends."""


@pytest.fixture(
    scope="module", params=[p for p in enumerate(networks.NETWORKS) if p[1] not in _SLOW], ids=lambda p: p[1]
)
def built(request, tmp_path_factory):
    number, name = request.param
    make, frame = networks.NETWORKS[name]
    torch.manual_seed(number)
    formats = (None, None) if name == "quantized residual" else FORMATS[number % len(FORMATS)]
    formats = ("mxint8", None) if name == "quantized residual" else formats
    return networks.compiled(make(), frame, formats, tmp_path_factory.mktemp("network"))


def test_rtl_equals_the_dataflow_graph_and_the_outputs_are_those_of_torch(built):
    design, quantized, x = built
    expected = design.run_dataflow(x)
    with torch.no_grad():
        wanted = quantized(torch.from_numpy(x)).numpy()
    assert expected.values.shape == wanted.shape
    # Sums in float32 and in exact integers differ by rounding; a code turned by it moves an output by a code's worth.
    scale = np.abs(wanted).max()
    assert np.median(np.abs(expected.values - wanted)) <= 1e-6 * scale
    assert np.abs(expected.values - wanted).max() <= 0.05 * scale
    for stalls in ({}, {"stall_in": 0.4}, {"stall_out": 0.5}, {"stall_in": 0.3, "stall_out": 0.3, "seed": 7}):
        np.testing.assert_array_equal(design.simulate(x[:_FRAMES], **stalls).raw, expected.raw[:_FRAMES])


def test_clock_enables_do_not_ripple_from_unit_to_unit(built):
    """What a unit waits for comes from a register: a FIFO, a skid, or a unit that lets no tready through."""
    design = built[0]
    placed = design._placed
    units = {cell: instance for instance, cell in placed.units.items()}
    reader_of = {link.name: cell for cell in placed.cells for link in cell.sources}
    instances = {i.name: i for i in design.network.instances}
    for cell in placed.cells:
        if cell.name not in units:
            continue
        for link in cell.sinks:
            behind = reader_of.get(link.name)
            if behind is None or behind.module in ("mx_skid", "mx_fifo", "mx_egress"):
                continue
            while behind.module == "mx_fork":  # its readers have FIFOs
                behind = reader_of[behind.sinks[0].name]
            if behind.module in ("mx_fifo", "mx_egress"):
                continue
            instance = instances[units[behind.name]]
            assert not instance.unit.through(design.foldings[instance.name]), (cell.name, behind.name)


def test_cycles_and_latency_are_as_reported(built):
    design, _, x = built
    one, many = (design.simulate(x[:n]).cycles for n in (1, _FRAMES))
    cycles, latency = (design.report[key] for key in ("cycles_per_frame", "latency_cycles"))
    assert abs((many - one) / (_FRAMES - 1) - cycles) <= 0.01 * cycles + 2
    assert abs(one - latency) <= 0.02 * latency + 10  # small frames: registers between units show


def test_the_file_says_everything(built):
    """A design opened from its folder emits the same top level; the graph is standard ONNX with bodies."""
    design, _, x = built
    onnx.checker.check_model(design.files()["dataflow"], full_check=True)
    again = open_design(design.path)
    assert again.network.streams == design.network.streams
    np.testing.assert_array_equal(again.simulate(x[:2]).raw, design.run_dataflow(x[:2]).raw)
    assert design.compare_stages(x).flip_rate <= 1e-3


_QUICK = [("digits", 1, 0), ("separable", 2, 2)]
_ALL = [(name, pixels, n) for name in networks.FAST for pixels in (1, 2, 4) for n in (0, 2, 5)]


@pytest.mark.parametrize("name, pixels, formats", _ALL if FULL else _QUICK)
def test_pixels_a_cycle(name, pixels, formats, tmp_path):
    """One pixel of the input a cycle, or several: equal words, and cycles and latency as reported."""
    make, frame = networks.FAST[name]
    torch.manual_seed(0)
    cycles = math.prod(frame[1:]) // pixels
    design, _, x = networks.compiled(make(), frame, FORMATS[formats], tmp_path, target_fps=200e6 / cycles)
    raw = design.run_dataflow(x[:_FRAMES]).raw
    assert design.report["cycles_per_frame"] <= cycles
    one, many = design.simulate(x[:1]), design.simulate(x[:_FRAMES])
    np.testing.assert_array_equal(many.raw, raw)
    np.testing.assert_array_equal(design.simulate(x[:_FRAMES], stall_in=0.3, stall_out=0.3, seed=5).raw, raw)
    assert abs((many.cycles - one.cycles) / (_FRAMES - 1) - cycles) <= 0.01 * cycles
    assert abs(one.cycles - design.report["latency_cycles"]) <= 0.02 * one.cycles + 2
    assert sum(many.clamped.values()) >= 0 and not any(many.stalls.values())


def test_a_folding_by_hand_that_no_bus_fits_is_refused(tmp_path):
    torch.manual_seed(0)
    model, formats = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1)), ("mxint8", "mxint8")
    networks.compiled(model, (1, 4, 4), formats, tmp_path, folding={"0": (4, 1)})
    with pytest.raises(OptionError, match="folding of 0: pe=4, simd=1, pixels=2 makes a bus outside that is no power"):
        networks.compiled(model, (1, 4, 4), formats, tmp_path, folding={"0": (4, 1, 1, 2)})
    with pytest.raises(OptionError, match="expected pe of 1, 2, 4, simd of 1; or pe=4, simd=1, pixels=2; or"):
        networks.compiled(model, (1, 4, 4), formats, tmp_path, folding={"0": (4, 1, 1, 3)})


@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_networks(seed, tmp_path):
    torch.manual_seed(seed)
    model = networks.Random(seed)
    design, _, x = networks.compiled(model, model.frame, FORMATS[seed % len(FORMATS)], tmp_path, seed)
    raw = design.simulate(x[:6], stall_in=0.3 * (seed % 2), stall_out=0.3 * (seed % 3 == 1), seed=seed + 1).raw
    np.testing.assert_array_equal(raw, design.run_dataflow(x[:6]).raw)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "rounded_up", "padding_counts"),
    [
        (3, 2, 1, True, True), (3, 2, 1, True, False), (3, 2, 0, True, True), (2, 2, 0, True, False),
        (3, 3, 1, False, False), ((3, 2), (2, 1), (1, 0), True, False), (3, 1, 1, True, True),
    ],
)  # fmt: skip
def test_averages_of_windows_that_reach_beyond_the_image(kernel, stride, pads, rounded_up, padding_counts, tmp_path):
    pool = torch.nn.AvgPool2d(kernel, stride, pads, rounded_up, padding_counts)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), pool, torch.nn.Conv2d(4, 4, 1))
    torch.manual_seed(0)
    design, quantized, x = networks.compiled(model, (3, 8, 7), ("mxint8", "mxint8"), tmp_path)
    with torch.no_grad():
        wanted = quantized(torch.from_numpy(x)).numpy()
    expected = design.run_dataflow(x)
    off = np.abs(expected.values - wanted) / np.abs(wanted).max()
    assert off.shape == wanted.shape and np.median(off) <= 1e-6 and off.max() <= 0.05
    np.testing.assert_array_equal(design.simulate(x[:2], stall_out=0.3).raw, expected.raw[:2])
