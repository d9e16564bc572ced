"""The area model against Yosys, budgets, and what devices hold."""

from __future__ import annotations

import dataclasses
import json
import statistics

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import MXExportError, OptionError
from mxexport.fpga import library
from mxexport.fpga.areas import devices
from mxexport.fpga.areas.area import Area, each, fitted, glue
from mxexport.fpga.folding import estimate
from mxexport.fpga.scheduling import copies
from tests.areas import TABLE, cells, measured
from tests.test_hardware_units import CASES

KEPT = json.loads(TABLE.read_text())
FEW = 24
"""Cells that no relative error is seen in: a unit of fewer counts as so many."""


def claims() -> dict[str, Area]:
    """What the model says of every row of the table."""
    units = {name: copies.area(*copies.one(*case)) for name, case in measured().items()}
    return units | {name: glue(*cell) for name, cell in cells().items()}


def test_estimates_are_within_a_tenth_of_yosys_in_the_middle_and_a_fifth_at_worst():
    found = claims()
    for kind in ("lut", "ff"):
        off = {n: abs(getattr(a, kind) - KEPT[n][kind]) / max(KEPT[n][kind], FEW) for n, a in found.items()}
        assert statistics.median(off.values()) <= 0.1
        assert {n: round(x, 2) for n, x in off.items() if x > 0.2} == {}


def test_estimates_of_dsp_slices_and_memories_are_exact():
    wrong = {
        f"{name}: {kind}": (getattr(area, kind), KEPT[name][kind])
        for name, area in claims().items()
        for kind in ("dsp", "bram36", "uram")
        if getattr(area, kind) != KEPT[name][kind]
    }
    assert wrong == {}


def test_what_was_never_fitted_is_an_error():
    with pytest.raises(MXExportError, match="no area is known for mx_new; run python -m benchmarks.estimates"):
        fitted("mx_new", {"unit": each(1)})
    with pytest.raises(MXExportError, match="no area is known for wings of mx_relu"):
        fitted("mx_relu", {"unit": each(1), "wings": each(2)})


def test_every_folding_of_every_unit_has_an_area_that_grows_with_it():
    for name, (unit, _) in CASES.items():
        areas = [copies.area(unit, f) for f in unit.foldings()]
        wires = unit.parts(unit.foldings()[0]) == {}
        assert all(np.isfinite(dataclasses.astuple(a)).all() and (a.lut > 0 or wires) for a in areas), name
        counters = 8  # which whole vectors need none of
        assert 1.2 * areas[-1].lut + 100 * areas[-1].dsp + counters >= areas[0].lut, name


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
        "Beats": 8,
        "Slot": 16,
        "Inputs": 1,
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
    rates, luts, designs = [], [], []
    for i, lut in enumerate((2_500, 6_000, 40_000)):
        design = mx.compile(exported, tmp_path / str(i), calibration=X, budget={"lut": lut})
        rates.append(design.report["frames_per_second"])
        luts.append(design.estimate()["total"]["lut"])
        assert luts[-1] <= lut
        designs.append(design)
    assert rates == sorted(rates) and rates[0] < rates[-1]
    simulated = designs[1]  # the largest takes a minute to build
    np.testing.assert_array_equal(simulated.simulate(X[:5]).raw, simulated.run_dataflow(X[:5]).raw)


def test_the_next_step_of_a_budgeted_design_would_pass_it(exported, tmp_path):
    budget = {"lut": 6_000}
    report = mx.compile(exported, tmp_path / "d", calibration=X, budget=budget).report
    step = report["next_step"]
    faster = mx.compile(
        exported, tmp_path / "e", calibration=X, target_fps=step["layer_frames_per_second"], clock_mhz=200
    )
    counted = estimate.whole(faster.network, faster.foldings)
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
    assert max(design.report["utilization_percent"].values()) <= 20
    with pytest.raises(OptionError, match="what xc7k70t holds is not known; name numbers, or one of xc7z020"):
        mx.compile(exported, tmp_path / "e", calibration=X, part="xc7k70t", budget=0.5)
    with pytest.raises(OptionError, match="target_fps needs .* lut of"):
        mx.compile(exported, tmp_path / "e", calibration=X, target_fps=50_000_000, budget={"lut": 3000})


def test_a_design_larger_than_its_part_is_a_warning(exported, tmp_path):
    fastest = {"0": (64, 32), "2": (32, 32), "4": (16, 32)}
    with pytest.warns(UserWarning, match="xc7z020 is too small by the estimate: .*% of its dsp"):
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
