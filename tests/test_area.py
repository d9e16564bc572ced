"""The coarse area model against Yosys, budgets, and what devices hold."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError
from mxexport.fpga import devices, library, schedule
from mxexport.fpga.area import Area, glue
from tests.areas import synthesized
from tests.test_hardware_units import CASES, folding_of

FULL = bool(os.environ.get("MXEXPORT_FULL"))
"""make test-full: every case of every unit; else a few that Yosys maps in seconds."""
FACTOR, SLACK = 2.5, 120
"""LUTs and flip-flops: within this factor, or so many cells where there are few. DSP slices: within a factor of 2."""
QUICK = ["quantize-mxint8-short", "dequantize-mxfp8_e4m3-short", "window-mxint8-short", "matmul-mxfp4_e2m1-short",
         "matmul-mxint8-short", "add", "max_pool-3x3", "affine-image", "slice", "arg_max"]  # fmt: skip


@pytest.mark.parametrize("name", CASES if FULL else QUICK)
def test_the_estimate_is_within_its_factor_of_yosys(name):
    unit, foldings = CASES[name]
    lanes = foldings[-1]
    folding = folding_of(lanes)
    found = synthesized(unit, folding)
    claimed = unit.area(folding)
    for counted, estimate in ((found.total_lut, claimed.lut), (found.ff, claimed.ff)):
        near = abs(counted - estimate) <= SLACK
        assert near or counted / FACTOR <= estimate <= counted * FACTOR, (found, claimed)
    assert abs(found.dsp - claimed.dsp) <= max(found.dsp, 2 * folding.simd), (found, claimed)
    assert abs(found.bram36 + found.bram18 / 2 - claimed.bram36) <= 1 + found.bram36


def test_every_folding_of_every_unit_has_an_area_that_grows_with_it():
    for name, (unit, _) in CASES.items():
        areas = [unit.area(f) for f in unit.foldings()]
        assert all(np.isfinite(dataclasses.astuple(a)).all() and a.lut > 0 for a in areas), name
        assert 1.2 * areas[-1].lut + 100 * areas[-1].dsp >= areas[0].lut, name


def test_cells_between_units_have_an_area():
    cells = [p.stem for p in (library.library_dir() / "common" / "rtl").glob("*.sv")]
    placed = {"mx_fifo", "mx_fork", "mx_skid", "mx_lanes", "mx_ingress", "mx_egress"}
    assert placed <= set(cells)
    parameters = {
        "Depth": 64,
        "Width": 8,
        "Outputs": 2,
        "InLanes": 4,
        "OutLanes": 1,
        "ElemWidth": 8,
        "Lanes": 2,
        "K": 8,
    }
    assert all(glue(cell, parameters).lut > 0 for cell in placed)


# --- budgets ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "m.onnx"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    mx.export(mx.quantize_model(model, "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 64),), path)
    return path


X = np.random.default_rng(0).integers(-128, 128, (40, 64)).astype(np.float32) / 128


def test_a_larger_budget_gives_a_faster_design_that_stays_within_it(exported, tmp_path):
    rates, luts = [], []
    for i, lut in enumerate((2_500, 6_000, 40_000)):
        design = mx.compile(exported, tmp_path / str(i), calibration=X, budget={"lut": lut})
        rates.append(design.report["frames_per_second"])
        luts.append(sum(r["lut"] for n, r in design.estimate().items() if n in design._placed.units.values()))
        assert luts[-1] <= lut
    assert rates == sorted(rates) and rates[0] < rates[-1]
    np.testing.assert_array_equal(design.simulate(X[:5]).raw, design.run_dataflow(X[:5]).raw)


def test_the_next_step_of_a_budgeted_design_would_pass_it(exported, tmp_path):
    budget = {"lut": 6_000}
    report = mx.compile(exported, tmp_path / "d", calibration=X, budget=budget).report
    step = report["next_step"]
    faster = mx.compile(
        exported, tmp_path / "e", calibration=X, target_fps=step["layer_frames_per_second"], clock_mhz=200
    )
    counted = schedule.area_of(faster.network, faster.foldings)
    assert counted.lut > budget["lut"] and step["more"]["lut"] > 0


@pytest.mark.parametrize(
    "budget, message",
    [
        ({"lut": 10}, "the smallest design needs .* lut of 10"),
        ({"luts": 1000}, "unknown luts; expected some of lut, ff, dsp, bram36, uram"),
        ({"lut": -1}, "lut is -1; expected a number"),
        (1.5, "expected a positive number of shares of the part up to 1"),
        ("much", "expected a positive number"),
    ],
)
def test_budgets_that_cannot_be_are_refused(exported, tmp_path, budget, message):
    with pytest.raises(OptionError, match=message):
        mx.compile(exported, tmp_path / "d", calibration=X, budget=budget)
    assert not (tmp_path / "d").exists()


def test_a_share_of_a_part(exported, tmp_path):
    design = mx.compile(exported, tmp_path / "d", calibration=X, part="xc7z020clg400-1", budget=0.2)
    assert max(design.report["utilization_percent"].values()) <= 22  # the cells between units come on top
    with pytest.raises(OptionError, match="what xc7k70t holds is not known; name numbers, or one of xc7z020"):
        mx.compile(exported, tmp_path / "e", calibration=X, part="xc7k70t", budget=0.5)
    with pytest.raises(OptionError, match="target_fps needs .* lut of"):
        mx.compile(exported, tmp_path / "e", calibration=X, target_fps=50_000_000, budget={"lut": 3000})


def test_a_design_larger_than_its_part_is_a_warning(exported, tmp_path):
    fastest = {"0": (64, 32), "2": (32, 32), "4": (16, 32)}
    with pytest.warns(UserWarning, match="xc7z020 is too small by the coarse estimate: .*% of its dsp"):
        mx.compile(exported, tmp_path / "d", calibration=X, part="xc7z020", folding=fastest)


def test_devices_say_what_they_hold_and_where_it_is_written():
    asked = "xc7z020 xczu3eg xczu7ev xczu9eg xczu28dr xck26 xcu50 xcu200 xcu250 xcu280 xcu55c xcvc1902 xcv80 xc7a100t"
    table = devices.known_resources()
    assert set(asked.split()) <= set(table)
    for held, source in table.values():
        assert min(held.lut, held.ff, held.dsp, held.bram36) > 0 and source.startswith("DS")
        assert held.ff == 2 * held.lut  # of every family since the 7 series
    assert devices.device_of("xczu7ev-ffvc1156-2-e") == "xczu7ev" and devices.resources("xc7k70t") is None
    assert (Area(1, 2) + Area(3)).table()["lut"] == 4
