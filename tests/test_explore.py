"""Products in DSP slices or LUTs, and the designs that no other beats."""

from __future__ import annotations

import dataclasses
import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport import cluster
from mxexport.cli import app
from mxexport.errors import OptionError
from mxexport.fpga.areas import devices
from tests.helpers import every, lint

X = np.random.default_rng(0).integers(-128, 128, (40, 64)).astype(np.float32) / 128


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    for name in ("mxint8", "mxfp6_e2m3", "mxfp8_e4m3"):
        mx.export(mx.quantize_model(model, name, name), (torch.zeros(1, 64),), folder / f"{name}.onnx")
    return folder


@pytest.mark.parametrize("name", every(2, ["mxfp6_e2m3", "mxint8"]))
def test_products_in_luts_are_exact_and_need_no_slices(models, tmp_path, name):
    design = mx.compile(models / f"{name}.onnx", tmp_path / "d", calibration=X, resources="lut")
    assert design.report["estimate"]["dsp"] == 0
    assert all(layer["luts"] == 1 for layer in design.report["layers"])
    np.testing.assert_array_equal(design.simulate(X).raw, design.run_dataflow(X).raw)
    assert lint(design) == "" and lint(design, cells=True) == ""
    again = mx.compile(models / f"{name}.onnx", tmp_path / "e", calibration=X, folding=tmp_path / "d" / "folding.yaml")
    assert again.foldings == design.foldings


def test_luts_take_over_where_a_budget_has_few_slices(models, tmp_path):
    model, budget = models / "mxint8.onnx", {"dsp": 3, "lut": 9_000}
    auto = mx.compile(model, tmp_path / "a", calibration=X, budget=budget)
    slices = mx.compile(model, tmp_path / "b", calibration=X, budget=budget, resources="dsp")
    assert auto.report["estimate"]["dsp"] <= 3 and slices.report["estimate"]["dsp"] <= 3
    assert auto.report["frames_per_second"] > 4 * slices.report["frames_per_second"]
    with pytest.raises(OptionError, match="resources is 'luts'; expected one of auto, dsp, lut"):
        mx.compile(model, tmp_path / "c", calibration=X, resources="luts")


def test_no_design_of_the_front_beats_another(models, tmp_path):
    design = mx.compile(models / "mxint8.onnx", tmp_path / "d", calibration=X)
    points = design.explore()
    rates = [p.frames_per_second for p in points]
    assert rates == sorted(rates) and len(points) > 10
    assert {p.resources for p in points} == {"dsp", "lut"}
    held = devices.resources(design.report["part"])
    for p in points:
        assert not p.area.beyond(held)
        for q in points:
            as_fast, fits = q.cycles_per_frame <= p.cycles_per_frame, not q.area.beyond(p.area)
            assert q is p or not (as_fast and fits) or (q.cycles_per_frame, q.area) == (p.cycles_per_frame, p.area)
    told = json.loads((tmp_path / "d" / "explore.json").read_text())
    assert [row["frames_per_second"] for row in told] == rates
    # What it says of a design is what compiling it says.
    row = told[len(told) // 2]
    again = mx.compile(models / "mxint8.onnx", tmp_path / "e", calibration=X, folding=row["folding"])
    assert again.report["cycles_per_frame"] <= row["cycles_per_frame"]
    chosen = {layer: dataclasses.astuple(f) for layer, f in points[len(points) // 2].foldings.items()}
    assert {layer["name"]: (layer["pe"], layer["simd"]) for layer in again.report["layers"]} == {
        name: f[:2] for name, f in chosen.items()
    }


@pytest.mark.skipif(not os.environ.get("MXEXPORT_FULL"), reason="processes take their time; MXEXPORT_FULL=1 runs it")
def test_other_processes_find_the_same_designs_and_areas(models, tmp_path):
    design = mx.compile(models / "mxfp6_e2m3.onnx", tmp_path / "d", calibration=X)
    with cluster.connected(2) as runner:
        assert design.explore(cluster=runner) == design.explore()
        assert design.synthesize(cluster=runner) == design.synthesize()


def test_formats_are_drawn_beside_each_other(models, tmp_path):
    for name in ("mxint8", "mxfp8_e4m3"):
        mx.compile(models / f"{name}.onnx", tmp_path / name, calibration=X)
    np.save(tmp_path / "x.npy", X)
    arguments = ["compile", str(models / "mxfp6_e2m3.onnx"), str(tmp_path / "e2m3"), "--calibration"]
    arguments += [str(tmp_path / "x.npy"), "--explore"]
    for name in ("mxint8", "mxfp8_e4m3"):
        arguments += ["--against", str(tmp_path / name)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "designs that no other beats" in result.output
    drawing = ElementTree.parse(tmp_path / "e2m3" / "explore.svg").getroot()
    texts = [t.text for t in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"e2m3", "mxint8", "mxfp8_e4m3", "frames per second (estimate)"} <= set(texts)
    circles = list(drawing.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) > 30 and all(0 < float(c.get("cx")) < 640 and 0 < float(c.get("cy")) < 430 for c in circles)
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert len(told["explore"]) > 10


def test_synth_says_clocks_and_the_longest_path(tmp_path):
    torch.manual_seed(0)
    model = mx.quantize_model(nn.Sequential(nn.Linear(8, 4)), "mxint4", "mxint4")
    mx.export(model, (torch.zeros(1, 8),), tmp_path / "m.onnx")
    mx.compile(tmp_path / "m.onnx", tmp_path / "d", calibration=X[:, :8])
    shown = CliRunner().invoke(app, ["synth", str(tmp_path / "d")])
    assert shown.exit_code == 0 and "MHz" in shown.output and "longest path, in" in shown.output
    assert "300 ps a connection; UltraScale+ -2" in shown.output
    told = json.loads(CliRunner().invoke(app, ["synth", str(tmp_path / "d"), "--json"]).stdout)
    units = {name: row for name, row in told.items() if name != "total"}
    assert told["total"]["fmax_mhz"] == min(row["fmax_mhz"] for row in units.values()) >= 300
    assert all(" ns, " in row["longest_path"] for row in units.values())
