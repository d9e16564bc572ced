"""Integers on Versal parts: three products in a DSP slice, chosen by the part, exact, and counted by the estimate."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError
from mxexport.fpga import options
from mxexport.fpga.areas import devices
from mxexport.fpga.scheduling import schedule
from tests.areas import TABLE, measured


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = mx.quantize_model(nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)), "mxint8", "mxint8")
    path = tmp_path_factory.mktemp("threes") / "model.onnx"
    mx.export(model, (torch.zeros(1, 64),), path)
    return path, (np.random.default_rng(0).integers(-128, 128, (50, 64)) / 128).astype(np.float32)


@pytest.fixture(scope="module")
def versal(exported):
    path, x = exported
    foldings = {"0": (4, 32, 1, 1, 0, 1), "2": (2, 8, 1, 1, 0, 1)}
    return mx.compile(path, path.parent / "versal", calibration=x, part="xcvc1902", folding=foldings)


def test_the_rtl_equals_the_dataflow_graph_under_stalls(versal, exported):
    x = exported[1]
    wanted = versal.run_dataflow(x).raw
    for stalls in ({}, {"stall_in": 0.3, "stall_out": 0.3, "seed": 7}):
        np.testing.assert_array_equal(versal.simulate(x, **stalls).raw, wanted)
    slices = [row["dsp"] for name, row in versal.estimate().items() if name != "total"]
    assert sorted(n for n in slices if n) == [2 * 3, 4 * 11]


def test_versal_parts_get_threes_where_these_are_fewer(exported):
    """By themselves, and no other part does."""
    path, x = exported
    found = {}
    for part in ("xcv80", "xczu7ev"):
        design = mx.compile(path, path.parent / part, calibration=x, part=part, target_fps=3e6, resources="dsp")
        chosen = [design.foldings[p.name] for p in design.network.products()]
        found[part] = sum(row["dsp"] for row in design.estimate().values()), [f.threes for f in chosen], design
    (fewer, threes, design), (more, none, _) = found["xcv80"], found["xczu7ev"]
    assert 1 in threes and not any(none) and fewer < more
    again = design.path.parent / "again"
    foldings = design.path / "folding.yaml"
    repeated = mx.compile(path, again, calibration=x, part="xcv80", folding=foldings)
    for p in design.network.products():
        assert repeated.foldings[p.name] == design.foldings[p.name]


def test_packages_for_versal_name_its_slices(versal):
    written = [p for p in (versal.path / "xilinx").glob("*.tcl") if "MX_DSP58" in p.read_text()]
    assert written and not any("MX_DSP48E2" in p.read_text() for p in written)


def test_threes_on_another_part_are_refused(exported):
    path, x = exported
    with pytest.raises(OptionError, match="those of xczu7ev make two: leave `threes` out"):
        mx.compile(path, path.parent / "no", calibration=x, part="xczu7ev", folding={"0": (4, 32, 1, 1, 0, 1)})


@pytest.mark.parametrize("part, family", [("xcvc1902", "Versal"), ("xcv80", "Versal"), ("xczu7ev", "UltraScale+")])
def test_kinds_of_a_part(part, family):
    slices = "threes" if family == "Versal" else "dsp"
    assert devices.family(part) == family
    assert options.kinds("auto", part) == (slices, "lut")
    assert options.kinds("lut", part) == schedule.LUTS


@pytest.mark.parametrize("name", [name for name in measured() if name.endswith("in threes")])
def test_netlists_have_as_many_slices_as_the_estimate(name):
    """What Yosys counts is in the table, which make test-full holds to the RTL."""
    unit, folding = measured()[name]
    kept = json.loads(TABLE.read_text())[name]
    assert kept["dsp"] == unit.parts(folding)["threes"].dsp == folding.pe * math.ceil(folding.simd / 3)
