"""Designs as units inside of FINN+: every step to the reports with the design's values, and HDL with its words."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mxexport as mx
from mxexport.model import graph
from mxexport.running import execution
from mxexport.targets import finn, finn_steps, finn_units
from mxexport.targets.finn_splice import splice
from tests.finn import matrix, unit_networks, unit_simulation
from tests.finn.unit_networks import CASES, Case
from tests.helpers import FULL

SHOWN = CASES if FULL else [CASES[0], CASES[2], CASES[-1]]

PYTHON = os.environ.get("MXEXPORT_FINN", "")
pytestmark = pytest.mark.skipif(
    not Path(PYTHON).is_file(), reason="FINN+ is not installed: make test-finn builds its environment from PyPI"
)


class Units:
    """A case as far as FINN's reports and its HDL, made once."""

    def __init__(self, case: Case, folder: Path):
        self.folder, self.units = folder, folder / "units"
        self.design = unit_networks.design(case, folder)
        self.given, self.values = unit_networks.frames(self.design)
        mx.convert(self.design.path, self.units, to="finn")
        self.steps = run_steps(self.units, folder, self.given, self.values)

    def unit(self, node: int) -> dict:
        """unit.json of a node."""
        (name,) = (a.s.decode() for a in self.graph.node[node].attribute if a.name == "unit")
        return json.loads((self.units / "units" / name / "unit.json").read_text())

    @property
    def graph(self):
        import onnx

        return onnx.load(self.units / "finn.onnx").graph

    def report(self, name: str) -> dict:
        return json.loads((self.folder / "build" / "report" / f"{name}.json").read_text())

    def hdl(self) -> dict[str, dict]:
        """Node -> its HDL and words; written by FINN's side once."""
        out = self.folder / "hdl"
        return unit_simulation.generated(out) if out.exists() else generated(self.folder, self.units, self.given)


def run_steps(units: Path, folder: Path, given: dict, values: np.ndarray, *options: str) -> dict:
    """What `finn_plugin` prints. Values are compared where there is one input."""
    if len(given) == 1:
        (x,) = given.values()
        np.savez(folder / "samples.npz", x=x.astype(np.float32), y=values)
        options = ("--check", str(folder / "samples.npz"), *options)
    return finn.run_finn(PYTHON, units, folder, *options, script=str(finn_units.PLUGIN))


def generated(folder: Path, units: Path, given: dict) -> dict[str, dict]:
    """What `generate_units` makes of the graph behind the steps in `folder`, for frames of its inputs."""
    np.savez(folder / "given.npz", **given)
    script, model = Path(__file__).with_name("generate_units.py"), folder / "build" / finn_steps.LAST_MODEL
    in_finn(folder, script, finn_units.PLUGIN, units, model, folder / "hdl", finn_steps.DEFAULT_PART,
            folder / "given.npz")  # fmt: skip
    return unit_simulation.generated(folder / "hdl")


def in_finn(folder: Path, *command) -> str:
    done = subprocess.run([PYTHON, *map(str, command)], capture_output=True, text=True, cwd=folder,
                          env=os.environ | {"FINN_BUILD_DIR": str(folder)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    made: dict[Case, Units] = {}

    def found(case: Case) -> Units:
        if case not in made:
            made[case] = Units(case, tmp_path_factory.mktemp("units"))
        return made[case]

    return found


@pytest.mark.parametrize("case", SHOWN, ids=str)
def test_every_step_is_reached_with_the_values_of_the_design(case, units):
    found = units(case)
    assert "error" not in found.steps, found.steps
    assert len(found.steps["steps"]) == matrix.STEPS and found.steps["outside"] == []
    compared = len(found.given) == 1  # HDL of two inputs compares its words
    for step in found.steps["steps"].values():
        assert step == ({"differing": 0, "values": found.values.size, "largest": 0.0} if compared else None)
    assert [found.unit(i)["name"] for i in range(len(case.units))] == list(case.units)


@pytest.mark.parametrize("case", SHOWN, ids=str)
def test_reports_hold_the_numbers_of_the_units(case, units):
    found = units(case)
    resources, cycles = found.report("estimate_layer_resources"), found.report("estimate_layer_cycles")
    counts, folding = found.report("op_and_param_counts"), found.report("auto_folding_config")
    for i in range(len(case.units)):
        unit, node = found.unit(i), f"MxLayer_rtl_{i}"
        area = unit["estimate"]
        expected = {"LUT": round(area["lut"]), "DSP": round(area["dsp"]), "BRAM_18K": round(2 * area["bram36"])}
        assert resources[node] == expected | {"BRAM_efficiency": 1, "URAM": 0, "URAM_efficiency": 1}
        assert cycles[node] == unit["cycles"] and counts[node] == unit["counts"]
        assert folding[node] == {"PE": unit["pe"], "SIMD": unit["simd"]}
    slowest = max(found.unit(i)["cycles"] for i in range(len(case.units)))
    assert found.steps["performance"]["max_cycles"] == max(slowest, *cycles.values())
    total = found.design.estimate()["total"]["lut"]
    assert 0.7 * total < sum(resources[f"MxLayer_rtl_{i}"]["LUT"] for i in range(len(case.units))) < 1.2 * total


@pytest.mark.parametrize("case", SHOWN, ids=str)
def test_generated_hdl_gives_every_word_of_the_golden_model(case, units):
    found = units(case)
    hdl = found.hdl()
    assert list(hdl) == [f"MxLayer_rtl_{i}" for i in range(len(case.units))]
    for i, (name, made) in enumerate(hdl.items()):
        unit_simulation.lint(name, made["files"])
        assert len(made["words"]["out"][0]) == unit_networks.FRAMES * found.unit(i)["outputs"][0]["beats"]
        for stall, seed in ((0.0, 1), (0.4, 2)):
            ran = unit_simulation.simulate({name: made}, found.folder / "hdl", stall, seed)
            assert ran.words == made["words"]["out"][0] and ran.surplus == 0
        assert made["tcl"][-1] == f"create_bd_cell -type module -reference {name} {name}"


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=str)
def test_units_one_behind_the_other_are_the_network(case, units):
    """In one design: no module of one stands for that of another."""
    found = units(case)
    ran = unit_simulation.simulate(found.hdl(), found.folder / "hdl", 0.4, 3)
    assert ran.words == found.hdl()[f"MxLayer_rtl_{len(case.units) - 1}"]["words"]["out"][0] and ran.surplus == 0


@pytest.mark.parametrize("images", [False, True], ids=["vectors", "images"])
def test_between_layers_of_finn(images, tmp_path):
    made, units = unit_networks.mixed(images, tmp_path), tmp_path / "units"
    mx.convert(made.design.path, units, to="finn")
    model = splice([made.front, units, made.back], tmp_path / "mixed.onnx")

    def run(file: Path, x: np.ndarray) -> np.ndarray:
        model = graph.load(file)  # without onnxruntime's optimizers, which add in another order
        (feed,) = (value.name for value in execution.graph_inputs(model))
        return np.concatenate([next(iter(execution.execute(model, {feed: s[None]}).values())) for s in x])

    expected = run(made.back, made.design.run_dataflow(run(made.front, made.x)).values)
    steps = run_steps(units, tmp_path, {"x": made.x}, expected, "--model", str(model))
    assert "error" not in steps, steps
    assert len(steps["steps"]) == matrix.STEPS and steps["outside"] == ["Transpose"] * images
    assert {tuple(step.items()) for step in steps["steps"].values()} == {
        (("differing", 0), ("values", expected.size), ("largest", 0.0))
    }
    kinds = [unit["operator"] for unit in steps["units"].values()]
    assert kinds.count("MxLayer_rtl") == 2 and kinds.count("MVAU_rtl") == (3 if images else 2)
    first, last = kinds.index("MxLayer_rtl"), len(kinds) - kinds[::-1].index("MxLayer_rtl")
    assert kinds[first - 1] == kinds[last] == "Thresholding_rtl" or images  # no scale is left between them
    assert not {"ElementwiseMul_hls", "Shuffle_hls"} & set(kinds[:last])
    hdl = generated(tmp_path, units, {"x": np.moveaxis(made.x, 1, -1)})  # FINN leaves the first Transpose outside
    ran = unit_simulation.simulate(hdl, tmp_path / "hdl", 0.4, 1)
    assert ran.words == list(hdl.values())[-1]["words"]["out"][0] and ran.surplus == 0
    assert stitched(tmp_path, units) == ["MxLayer_rtl_0", "MxLayer_rtl_1"]


def stitched(folder: Path, units: Path) -> list[str]:
    """FINN puts converters and FIFOs between layers and generates all HDL and HLS; the MX layers that follow each other
    with a FIFO between them, and no converter."""
    script = f"""
import sys
sys.path.append({str(finn_units.PLUGIN.parent)!r})
import finn_plugin
finn_plugin.register({str(units)!r})
from pathlib import Path
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.general import GiveUniqueNodeNames
from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
from finn.transformation.fpgadataflow.prepare_ip import PrepareIP
from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
model, part = ModelWrapper("build/{finn_steps.LAST_MODEL}"), {finn_steps.DEFAULT_PART!r}
for step in (InsertDWC(), InsertFIFO(create_shallow_fifos=True), SpecializeLayers(part), GiveUniqueNodeNames(),
             PrepareIP(part, 5.0)):
    model = model.transform(step)
for node, fifo, behind in zip(model.graph.node, model.graph.node[1:], model.graph.node[2:]):
    if (node.op_type, fifo.op_type, behind.op_type) == ("MxLayer_rtl", "StreamingFIFO_rtl", "MxLayer_rtl"):
        for layer in (node, behind):
            assert (Path(getCustomOp(layer).get_nodeattr("code_gen_dir_ipgen")) / (layer.name + ".v")).is_file()
            print("LAYER", layer.name)
"""
    return [line.split()[1] for line in in_finn(folder, "-c", script).splitlines() if line.startswith("LAYER")]


def test_what_a_unit_refuses_inside_finn(units):
    """Another folding, floats, foreign folders: one clear sentence each."""
    found = units(CASES[0])
    script = f"""
import json, sys
sys.path.append({str(finn_units.PLUGIN.parent)!r})
import finn_plugin, numpy as np
from finn.util.exception import FINNUserError
from finn.core.onnx_exec import execute_onnx
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.datatype import DataType
from qonnx.custom_op.registry import getCustomOp
from finn.transformation.general import ApplyConfig
def told(function):
    try:
        function()
    except FINNUserError as error:
        print(json.dumps(str(error)))
    else:
        print(json.dumps(None))
model = ModelWrapper({str(found.units / "finn.onnx")!r})
told(lambda: finn_plugin.register("nowhere"))
finn_plugin.register()
layer = getCustomOp(model.graph.node[0])
told(layer.get_exp_cycles)
finn_plugin.register({str(found.units)!r})
model.set_tensor_datatype("input", DataType["FLOAT32"])
told(lambda: execute_onnx(model, {{"input": np.full((1, 70), 0.5, np.float32)}}))
told(lambda: execute_onnx(model, {{"input": np.full((1, 70), np.nan, np.float32)}}))
layer.set_nodeattr("inputDataTypes", ["INT7"])
from finn_plugin import MxLayer_rtl
told(lambda: MxLayer_rtl._fed(layer, model, 0, "input"))
changed = model.transform(ApplyConfig({{"Defaults": {{}}, model.graph.node[0].name: {{"PE": 8}}}}))
told(lambda: getCustomOp(changed.graph.node[0]).infer_node_datatype(changed))
layer.set_nodeattr("unit", "../../elsewhere")
told(layer.get_exp_cycles)
"""
    lines = in_finn(found.folder, "-c", script).splitlines()
    said = [json.loads(line) for line in lines if line.startswith('"') or line == "null"]
    own = found.unit(0)
    expected = ["nowhere holds no units", "lies in no registered folder (none)", "takes whole numbers; input holds 0.5",
                "takes whole numbers; input holds nan", "input is FLOAT32, and a unit takes integers",
                f"asks for PE=8, SIMD={own['simd']}, but its unit was emitted with PE={own['pe']}, SIMD={own['simd']}; "
                "set the folding of layer '0' in",
                "names unit '../../elsewhere'; expected letters"]  # fmt: skip
    assert len(said) == len(expected)
    for text, part in zip(said, expected, strict=True):
        assert part in text
