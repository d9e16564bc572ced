"""Products whose weights come through a port: equal to the reference while data and weights come as they like."""

from __future__ import annotations

import numpy as np
import pytest

from mxexport.fpga.library import rtl_sources
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.simulator import Feed
from mxexport.fpga.unit import Folding
from mxexport.fpga.units.fed_matmul import FedMatMul
from tests.test_hardware_units import arrays_of, golden, matmul, written

CASES = {  # source, format of the weight, rows, folding, bus
    "e2m1": (Blocks((4, 40), "mxfp4_e2m1", 32, 100, 102), "mxfp4_e2m1", 5, Folding(2, 8), 64),
    "int8 in pairs": (Blocks((6, 64), "mxint8", 32, 100, 102), "mxint8", 8, Folding(2, 16), 128),
    "e4m3, one fold": (Blocks((4, 32), "mxfp8_e4m3", 32, 100, 102), "mxfp8_e4m3", 3, Folding(4, 4), 32),
    "e2m3 in pairs": (Blocks((2, 96), "mxfp6_e2m3", 32, 100, 102), "mxfp6_e2m3", 7, Folding(4, 32), 256),
    "blocks at once": (Blocks((4, 128), "mxfp4_e2m1", 32, 100, 102), "mxfp4_e2m1", 6, Folding(2, 64), 64),
    "one vector": (Blocks((40,), "mxint8", 32, 100, 102), "mxint4", 9, Folding(2, 4), 128),
    "deep": (Blocks((2, 256), "mxfp4_e2m1", 32, 100, 102), "mxfp4_e2m1", 40, Folding(2, 8), 128),
}


def run(unit: FedMatMul, folding: Folding, arrays, loads: list[np.ndarray], stalls, directory, seed=1):
    """(results of the frames, the run); `loads` come one after the other."""
    simulator = verilator.build(unit.module, rtl_sources(), written(unit, folding, directory), quick=True)
    frames, (lanes_in, lanes_out) = len(arrays[0]), unit.lanes(folding)
    beats, last = unit.source.pack(*arrays, lanes_in)
    words = np.concatenate(loads)
    feeds = [Feed(beats, last, stalls[0]), Feed(words, len(loads[0]), stalls[1])]
    found = simulator.run_streams(
        feeds, [frames * unit.result.beats(lanes_out)], stall_out=stalls[2], seed=seed, timeout=20_000
    )
    assert not any(found.status["error_o"]) and found.outputs[0].surplus == 0
    return unit.result.unpack(found.outputs[0].beats, lanes_out), found


@pytest.mark.parametrize("tile", ["loaded", "vector", "few", "frame"])
@pytest.mark.parametrize("name", CASES)
def test_weights_that_come_give_the_same_words(name, tile, tmp_path):
    source, weight, rows, folding, bus = CASES[name]
    vectors = source.vectors
    tiles = {"loaded": 0, "vector": 1, "few": 2 - vectors % 2, "frame": vectors}
    unit = FedMatMul.of(matmul(source, weight, rows), bus, tiles[tile])
    frames = 3
    arrays = arrays_of(source, np.random.default_rng(1), frames)
    (expected,) = golden(unit, arrays)
    loads = [unit.load(folding)] * (unit.loads * frames or 1)
    for seed, stalls in enumerate([(0.0, 0.0, 0.0), (0.0, 0.6, 0.0), (0.3, 0.0, 0.5), (0.5, 0.2, 0.2)]):
        found, _ = run(unit, folding, arrays, loads, stalls, tmp_path, seed)
        np.testing.assert_array_equal(found, expected)


def test_another_load_replaces_the_weights_between_frames(tmp_path):
    source, weight, rows, folding, bus = CASES["e2m1"]
    first, second = (FedMatMul.of(matmul(source, weight, rows, seed), bus, 0) for seed in (0, 1))
    arrays = arrays_of(source, np.random.default_rng(1), 6)
    loads = [unit.load(folding) for unit in (first, second)]
    before, after = (golden(unit, arrays)[0] for unit in (first, second))
    for seed in range(4):
        found, _ = run(first, folding, arrays, loads, (0.2, 0.8, 0.3), tmp_path, seed)
        changed = [i for i in range(6) if not np.array_equal(found[i], before[i])]
        cut = changed[0] if changed else 6
        np.testing.assert_array_equal(found[:cut], before[:cut])
        np.testing.assert_array_equal(found[cut:], after[cut:])
        assert changed or seed, "no frame met the second load"
