"""MX layers inside of FINN: what `mxexport convert DESIGN --to finn` wrote, as layers that FINN builds with.

    from finn_plugin import build_steps
    DataflowBuildConfig(steps=build_steps("units/"), standalone_thresholds=True, ...)

`build_steps` registers `MxLayer` (what it computes: the unit's own dataflow graph in onnxruntime, in integers) and
`MxLayer_rtl` (its SystemVerilog behind FINN's streams) while FINN runs; no file of FINN changes. This file needs FINN,
qonnx, numpy, onnxruntime and the files beside it; torch and the rest of mxexport are not imported. By itself it goes as
far as the estimate reports and prints one JSON object, as finn_steps.py does:

    python finn_plugin.py units/ build/ [--model mixed.onnx] [--part xczu3eg-sbva484-1-e] [--fps 2000] [--check x.npz]
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":  # a script's own directory comes first, and here it has a finn.py
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import finn.custom_op.fpgadataflow as layers
import finn.custom_op.fpgadataflow.rtl as rtl_layers
import numpy as np
import onnxruntime
from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
from finn.custom_op.fpgadataflow.rtlbackend import RTLBackend
from finn.util.basic import get_dsp_block
from finn.util.exception import FINNUserError
from qonnx.core.datatype import DataType
from qonnx.custom_op.registry import add_op_to_domain


def _beside(name: str):
    spec = importlib.util.spec_from_file_location(f"{__name__}_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


finn_steps, finn_wrapper = _beside("finn_steps"), _beside("finn_wrapper")

DOMAIN = "finn.custom_op.fpgadataflow"
_MACROS = {"DSP48E1": ["MX_DSP48E1"], "DSP48E2": ["MX_LUT6_2", "MX_DSP48E2"], "DSP58": ["MX_DSP58"]}
"""Macros of the cells that a family has by name, by its kind of DSP slice; without them the same as plain logic."""
_roots: list[Path] = []


def build_steps(*folders: str | Path) -> list:
    """FINN's estimate-only steps for graphs with MX layers, whose units lie in `folders`; they are registered."""
    register(*folders)
    return finn_steps.build_steps()


def register(*folders: str | Path) -> None:
    """Make MX layers known to FINN. Units are read from these folders, and from nowhere else."""
    for folder in folders:
        root = Path(folder).resolve()
        if not (root / "units").is_dir():
            raise FINNUserError(f"{folder} holds no units; write them: mxexport convert DESIGN -o FOLDER --to finn")
        if root not in _roots:
            _roots.append(root)
    layers.custom_op["MxLayer"] = MxLayer
    rtl_layers.register_custom_op(MxLayer_rtl)
    add_op_to_domain(DOMAIN, MxLayer)
    add_op_to_domain(f"{DOMAIN}.rtl", MxLayer_rtl)


# --- units on disk -------------------------------------------------------------------------------------------------

_AREA = ("lut", "dsp", "bram36", "uram")
_COUNT, _NAME = (int, lambda n: n > 0), (str, re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*").fullmatch)
_IDENTIFIER = (str, re.compile(r"[A-Za-z]\w*", re.ASCII).fullmatch)
_END = {
    "bits": (int, lambda n: 2 <= n <= 63),
    "nonnegative": (bool, lambda _: True),
    "lanes": _COUNT,
    "beats": _COUNT,
    "name": (str, bool),
}


def _folder(name: str) -> Path:
    """Of a unit. A name is no path: whoever wrote the graph reaches nothing outside of the folders registered."""
    if not _NAME[1](name):
        raise FINNUserError(f"an MxLayer names unit {name!r}; expected letters, digits and underscores")
    found = [path for root in _roots if (path := root / "units" / name).is_dir()]
    if not found or not any(found[0].resolve().is_relative_to(root) for root in _roots):
        where = ", ".join(map(str, _roots)) or "none"
        raise FINNUserError(f"unit {name!r} lies in no registered folder ({where}); register(FOLDER) it first")
    return found[0]


@functools.cache
def _read(folder: Path) -> dict:
    """unit.json, as far as it is used here. Raises FINNUserError where it is not what mxexport writes."""
    try:
        unit = json.loads((folder / "unit.json").read_text())
        odd = [value for value, kind, fits in _expected(unit) if not isinstance(value, kind) or not fits(value)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FINNUserError(f"{folder}: unit.json describes no unit ({error!r}); convert the design again") from error
    if odd:
        raise FINNUserError(f"{folder}: unit.json says {odd[0]!r}, which mxexport does not; convert the design again")
    return unit


def _expected(unit: dict) -> list[tuple]:
    """What a unit says, the type that has, and what else is true of it."""
    ends = [*unit["inputs"], *unit["outputs"]]
    found = [(end[key], *rule) for end in ends for key, rule in _END.items()]
    found += [(n, *_COUNT) for end in ends for n in end["shape"]]
    found += [(unit[key], *_COUNT) for key in ("pe", "simd", "cycles")]
    found += [(unit[key], str, bool) for key in ("name", "layer")]
    found += [(name, *_NAME) for kind in ("library", "rtl", "memories") for name in unit[kind]]
    found += [(name, *_IDENTIFIER) for name in (unit["top"], *unit["status"])]
    found += [(unit["estimate"][kind], (int, float), lambda n: n >= 0) for kind in _AREA]
    return found + [(n, *_COUNT) for n in unit["counts"].values()]


@functools.cache
def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


# --- layers of FINN ------------------------------------------------------------------------------------------------


class MxLayer(HWCustomOp):
    """A unit: shapes, streams and numbers come from its folder, values from its dataflow graph.

    Values of tensors are whole numbers. Layers of this kind hand them to each other as int64; what another reads is
    float32, so they must be exact there; at the end of the network they are rounded once, as the network's are.
    """

    def get_nodeattr_types(self):
        """`unit`: name of its folder; PE and SIMD are those of its slowest product, and say what was emitted."""
        own = {
            "unit": ("s", True, ""),
            "PE": ("i", True, 1),
            "SIMD": ("i", True, 1),
            "inputDataTypes": ("strings", True, []),
        }
        return super().get_nodeattr_types() | own

    @property
    def _path(self) -> Path:
        return _folder(self.get_nodeattr("unit"))

    @property
    def _unit(self) -> dict:
        """What unit.json says. Raises FINNUserError where the node was folded otherwise than the unit is."""
        unit = _read(self._path)
        asked, there = (self.get_nodeattr("PE"), self.get_nodeattr("SIMD")), (unit["pe"], unit["simd"])
        if asked != there:
            node, layer = self.onnx_node.name, unit["layer"]
            raise FINNUserError(
                f"{node} asks for PE={asked[0]}, SIMD={asked[1]}, but its unit was emitted with PE={there[0]}, "
                f"SIMD={there[1]}; set the folding of layer {layer!r} in folding.yaml, compile and convert again"
            )
        return unit

    # Shapes and streams.

    def get_normal_input_shape(self, ind=0):
        """A frame, channels last."""
        return [1, *self._unit["inputs"][ind]["shape"]]

    def get_normal_output_shape(self, ind=0):
        """A frame, channels last."""
        return [1, *self._unit["outputs"][ind]["shape"]]

    def get_folded_input_shape(self, ind=0):
        """The same by beats: the last dimension travels side by side."""
        return _folded(self._unit["inputs"][ind])

    def get_folded_output_shape(self, ind=0):
        """The same by beats: the last dimension travels side by side."""
        return _folded(self._unit["outputs"][ind])

    def get_input_datatype(self, ind=0):
        """What FINN feeds: a unit takes any integers."""
        return DataType[self.get_nodeattr("inputDataTypes")[ind]]

    def get_output_datatype(self, ind=0):
        """What the unit gives."""
        return _datatype(self._unit["outputs"][ind])

    def get_instream_width(self, ind=0):
        """Bits of a beat, before it is filled up to whole bytes."""
        return self._unit["inputs"][ind]["lanes"] * self.get_input_datatype(ind).bitwidth()

    def get_outstream_width(self, ind=0):
        """Bits of a beat, before it is filled up to whole bytes."""
        return self._unit["outputs"][ind]["lanes"] * self.get_output_datatype(ind).bitwidth()

    def infer_node_datatype(self, model):
        """Take over what feeds it. Floats stay unread: FINN has a scale in front that it may still move away."""
        types = self.get_nodeattr("inputDataTypes")
        for i, name in enumerate(self.onnx_node.input):
            if (given := model.get_tensor_datatype(name)).is_integer():
                types[i] = given.name
        self.set_nodeattr("inputDataTypes", types)
        for i, name in enumerate(self.onnx_node.output):
            model.set_tensor_datatype(name, self.get_output_datatype(i))

    def verify_node(self):
        """Nothing that the folder does not vouch for."""
        return []

    # Numbers.

    def get_exp_cycles(self):
        """Of a frame."""
        return self._unit["cycles"]

    def get_op_and_param_counts(self):
        """Multiplications and weights, by their formats."""
        return dict(self._unit["counts"])

    def lut_estimation(self, fpgapart):
        """By mxexport's area model."""
        return round(self._unit["estimate"]["lut"])

    def dsp_estimation(self, fpgapart):
        """By mxexport's area model."""
        return round(self._unit["estimate"]["dsp"])

    def bram_estimation(self, fpgapart):
        """By mxexport's area model, in halves of block RAMs."""
        return round(2 * self._unit["estimate"]["bram36"])

    def uram_estimation(self, fpgapart):
        """By mxexport's area model."""
        return round(self._unit["estimate"]["uram"])

    # Values.

    def execute_node(self, context, graph):
        """What the RTL computes, word by word."""
        node, unit = self.onnx_node, self._unit
        fed = {
            end["name"]: self._whole(name, context[name], end)
            for name, end in zip(node.input, unit["inputs"], strict=True)
        }
        given = self._computed(fed)
        for name, values in zip(node.output, given, strict=True):
            context[name] = values if _stays(graph, name) else self._float32(name, values, _leaves(graph, name))

    def _computed(self, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs, int64, from inputs by their names in the unit."""
        names = [end["name"] for end in self._unit["outputs"]]
        return _session(self._path / "dataflow.onnx").run(names, fed)

    def _whole(self, name: str, values: np.ndarray, end: dict) -> np.ndarray:
        """int64 within what the unit holds; beyond it the end, as its wrapper does."""
        whole = np.rint(values)
        if not (np.isfinite(whole).all() and np.array_equal(whole, values)):
            odd = values[~(whole == values)].flat[0]
            raise FINNUserError(f"{self.onnx_node.name} takes whole numbers; {name} holds {odd}")
        least, most = finn_wrapper.limits(end)
        if values.dtype.kind == "f":  # the ends need not be floats
            whole = np.where(np.abs(whole) < 2.0**62, whole, np.copysign(2.0**62, whole)).astype(np.int64)
        return np.clip(whole.astype(np.int64), least, most).reshape(1, *end["shape"])

    def _float32(self, name: str, values: np.ndarray, rounded: bool) -> np.ndarray:
        found = values.astype(np.float32)
        if not rounded and (inexact := found.astype(np.int64) != values).any():
            what = f"{name} holds {values[inexact].flat[0]}, which float32 does not, and FINN computes in float32"
            raise FINNUserError(f"{self.onnx_node.name}: {what}; use formats with fewer bits in this layer")
        return found


def _folded(end: dict) -> list[int]:
    *vectors, channels = end["shape"]
    side = max(end["lanes"] // channels, 1)
    if side > 1:
        return [1, *vectors[:-1], vectors[-1] // side, end["lanes"]]
    return [1, *vectors, channels // end["lanes"], end["lanes"]]


def _datatype(end: dict):
    return DataType[f"{'UINT' if end['nonnegative'] else 'INT'}{finn_wrapper.out_bits(end)}"]


def _readers(graph, name: str) -> list:
    return [node for node in graph.node if name in node.input]


def _stays(graph, name: str) -> bool:
    """Whether MX layers alone read a tensor."""
    readers = _readers(graph, name)
    return bool(readers) and all(node.op_type.removesuffix("_rtl") == "MxLayer" for node in readers)


def _leaves(graph, name: str) -> bool:
    """Whether a tensor leaves the graph at once, or as a multiple: no other layer computes with it."""
    scales = ("Mul", "ElementwiseMul", "ElementwiseMul_hls", "ElementwiseMul_rtl")
    readers = _readers(graph, name)
    return all(node.op_type in scales and all(_leaves(graph, out) for out in node.output) for node in readers)


class MxLayer_rtl(MxLayer, RTLBackend):
    """The same as SystemVerilog behind FINN's streams."""

    def get_nodeattr_types(self):
        """`macros`: of the cells that the part has by name."""
        return (
            RTLBackend.get_nodeattr_types(self) | MxLayer.get_nodeattr_types(self) | {"macros": ("strings", False, [])}
        )

    def execute_node(self, context, graph):
        """In FINN's RTL simulation where that is asked for (`exec_mode`), else as `MxLayer`."""
        MxLayer.execute_node(self, context, graph)

    def _computed(self, fed):
        """Packed here: FINN's `RTLBackend` packs by way of float32."""
        if self.get_nodeattr("exec_mode") != "rtlsim":
            return super()._computed(fed)
        unit, streams = self._unit, {"inputs": {}, "outputs": {}}
        for i, end in enumerate(unit["inputs"]):
            bits = self.get_input_datatype(i).bitwidth()
            streams["inputs"][f"in{i}"] = finn_wrapper.packed(fed[end["name"]].ravel(), end["lanes"], bits)
        for i in range(len(unit["outputs"])):
            streams["outputs"][f"out{i}"] = []
        sim = self.get_rtlsim()
        self.reset_rtlsim(sim)
        self.rtlsim_multi_io(sim, streams)
        self.close_rtlsim(sim)
        found = []
        for i, end in enumerate(unit["outputs"]):
            words, kind = streams["outputs"][f"out{i}"], self.get_output_datatype(i)
            values = finn_wrapper.unpacked(words, end["lanes"], kind.bitwidth(), kind.signed())
            found.append(np.array(values, np.int64).reshape(1, *end["shape"]))
        return found

    def generate_hdl(self, model, fpgapart, clk):
        """Write the wrapper, the unit's module with the place of its ROMs, and the ROMs."""
        unit, name, source = self._unit, self.get_verilog_top_module_name(), self._path
        target = Path(self.get_nodeattr("code_gen_dir_ipgen"))
        types = [self._fed(model, i, tensor) for i, tensor in enumerate(self.onnx_node.input)]
        for memory in (source / "mem").iterdir():  # deep ROMs have files for their pieces beside their own
            shutil.copy(memory, target / memory.name)
        for file in unit["rtl"]:
            text = (source / "rtl" / file).read_text()
            for memory in unit["memories"]:
                text = text.replace(f'"{memory}"', f'"{(target / memory).resolve().as_posix()}"')
            (target / file).write_text(text)
        (target / f"{name}.v").write_text(finn_wrapper.wrapper(name, unit, types))
        self.set_nodeattr("gen_top_module", name)
        self.set_nodeattr("macros", _MACROS.get(get_dsp_block(fpgapart), []))
        for kind in ("ipgen_path", "ip_path"):
            self.set_nodeattr(kind, str(target))

    def _fed(self, model, ind: int, tensor: str) -> tuple[int, bool]:
        """Bits of what comes in, and whether it is signed."""
        given = model.get_tensor_datatype(tensor)
        if not re.fullmatch("U?INT[0-9]+|BINARY", given.name):
            what = f"{tensor} is {given.name}, and a unit takes integers"
            raise FINNUserError(f"{self.onnx_node.name}: {what}; scale what comes before so that its step is 1")
        return given.bitwidth(), given.signed()

    def get_rtl_file_list(self, abspath=False):
        """The library, the unit and its wrapper, in compile order."""
        unit, target = self._unit, Path(self.get_nodeattr("code_gen_dir_ipgen")).resolve()
        library = [self._path.parent.parent / "rtl" / file for file in unit["library"]]
        files = library + [target / file for file in (*unit["rtl"], f"{self.get_nodeattr('gen_top_module')}.v")]
        return [str(file) if abspath else file.name for file in files]

    def code_generation_ipi(self):
        """Tcl that brings it into a block design."""
        found = [f"add_files -norecurse {file}" for file in self.get_rtl_file_list(abspath=True)]
        if macros := " ".join(self.get_nodeattr("macros")):
            defined = f"[concat [get_property verilog_define [current_fileset]] {{{macros}}}]"
            found.append(f"set_property verilog_define {defined} [current_fileset]")
        name = self.get_nodeattr("gen_top_module")
        return [*found, f"create_bd_cell -type module -reference {name} {self.onnx_node.name}"]


def main() -> int:
    """The command; exit code 1 where a step failed or values differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--model", help="a graph with units of the folder, if not its finn.onnx")
    parser.add_argument("--part", default=finn_steps.DEFAULT_PART)
    parser.add_argument("--fps", type=int, default=2000)
    parser.add_argument("--check", help="a .npz file with x [N, ...], as the graph takes it, and y [N, ...]")
    given = parser.parse_args()
    register(given.folder)
    arrays = None if given.check is None else dict(np.load(given.check))
    path = given.model or str(Path(given.folder) / "finn.onnx")
    found = finn_steps.run_steps(path, given.out, given.part, given.fps, arrays)
    print(json.dumps(found))
    return finn_steps.exit_code(found)


if __name__ == "__main__":
    sys.exit(main())
