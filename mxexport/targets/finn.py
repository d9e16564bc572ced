"""QONNX within FINN's conditions: weights with one step per output channel, activations with one step.

Groups disappear by the wide fold: codes * 2**e of all groups of an output channel are integers of one finer step.
`check_finn` holds what FINN asks for; the tests in tests/finn run what it accepts through FINN+'s own steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass, ShapeInferencePass

from mxexport.errors import OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import add_constant, replace_output
from mxexport.model.opsets import lower_opset
from mxexport.model.uniform import Uniform, add_quant, check_reproduced, is_quantizer, read_activation
from mxexport.numbers.grids import grid_of
from mxexport.ops import qonnx_general
from mxexport.targets import finn_steps
from mxexport.targets._kernels import without_groups
from mxexport.targets._layers import constant_weight, open_gemm, store_constants, take_out_bias, weight_parts
from mxexport.targets._qcdq import explain, with_our_quantizers
from mxexport.targets._ranges import PRODUCTS
from mxexport.targets._requantizers import MOVERS, merge_requantizer
from mxexport.targets._trunc import replace_trunc
from mxexport.targets.conversion import Converted
from mxexport.targets.finn_check import HIGHEST_OPSET, LOWEST_OPSET, check_finn, nodes_without_units

IR_VERSION = 8
_HOW = f"""go on in FINN+ 1.6 with steps that round ties to even, as this file does, and join branches:
  from finn_steps import build_steps  # {finn_steps.__file__}
  DataflowBuildConfig(..., steps=build_steps(), standalone_thresholds=True)
or see resources and cycles at once: python finn_steps.py FILE build/"""


def convert(model: ir.Model, *, opset: int | None = None, batch: int = 1, max_weight_bits: int = 32) -> Converted:
    """A copy of `model` for FINN; notes tell how each weight was folded and how to go on. QuantizeLinear and
    DequantizeLinear are read as our quantizers first.

    opset: what to lower the model to; the model's own where it is lower. None: the highest that FINN+ 1.6 was seen to
        take, 21; FINN before it wants 17.
    batch: size given to an open first dimension (FINN wants every shape known).

    Raises:
        OptionError: an opset outside 13 to 21.
        UnsupportedError: layers that do not fit, all of them, each with the way out.
    """
    opset = _check_opset(opset)
    (work, left), notes = with_our_quantizers(model, batch), [("model", _HOW)]
    problems: list[tuple[str, str]] = []
    changes = (
        (replace_trunc, "FINN"),
        (_replace_activation,),
        (merge_requantizer,),
        (_replace_weight, max_weight_bits, notes),
    )
    for change, *options in changes:
        for node in list(work.graph):
            try:
                change(node, *options)
            except UnsupportedError as error:
                problems.append((node.name, str(error)))
    if problems:
        problems = explain(problems + nodes_without_units(work), left, work)
        raise UnsupportedError("finn: the model cannot be converted", problems)
    RemoveUnusedNodesPass()(work)
    work.functions.clear()
    store_constants(work, {"Add", "Mul"})
    lower_opset(work, opset)
    graph.attach_standard_functions(work)
    RemoveUnusedOpsetsPass()(work)
    if qonnx_general.DOMAIN in work.opset_imports:
        work.opset_imports[qonnx_general.DOMAIN] = 1
    work.ir_version = IR_VERSION
    ShapeInferencePass()(work)
    _align_constants(work)
    if problems := check_finn(work):
        raise UnsupportedError("finn: the model does not meet FINN's conditions", explain(problems, left, work))
    return Converted(work, notes)


def after_writing(path: Path) -> list[tuple[str, str]]:
    """What FINN+ expects of the file, where the environment variable MXEXPORT_FINN names the Python it is installed
    in."""
    python = os.environ.get("MXEXPORT_FINN")
    if not python:
        return []
    with tempfile.TemporaryDirectory(prefix="mxexport-finn-") as folder:
        try:
            found = run_finn(python, path, Path(folder))
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return [("FINN", f"MXEXPORT_FINN={python}: its steps could not be run: {error}")]
    if "error" in found:
        return [("FINN", f"its steps end in {found['error']}")]
    resources = ", ".join(f"{value:g} {name}" for name, value in found["resources"].items() if value)
    speed = found["performance"]["estimated_throughput_fps"]
    return [("FINN", f"expects {resources} and {speed:,.0f} frames a second on {finn_steps.DEFAULT_PART} (estimates)")]


def run_finn(python: str, path: Path, out: Path, *options: str, script: str = finn_steps.__file__) -> dict:
    """Run `finn_steps` on a file in FINN's environment, or `finn_plugin` on a folder of units; what it prints.

    Raises:
        OSError: no such program.
        ValueError: it printed no result.
        subprocess.TimeoutExpired: it took more than 20 minutes.
    """
    command = [python, script, str(path), str(out / "build"), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env=os.environ | {"FINN_BUILD_DIR": str(out)}
    )
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise ValueError((done.stderr.strip().splitlines() or ["nothing was printed"])[-1]) from None


def _check_opset(opset: int | None) -> int:
    if opset is None:
        return HIGHEST_OPSET
    if not isinstance(opset, int) or isinstance(opset, bool) or not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise OptionError(f"finn: opset is {opset!r}; expected a whole number from {LOWEST_OPSET} to {HIGHEST_OPSET}")
    return opset


def _align_constants(model: ir.Model) -> None:
    """Constants of Add and Mul on images get every dimension: [C, 1, 1] -> [1, C, 1, 1]. FINN absorbs no others into
    thresholds once it has turned the images to channels last."""
    for node in model.graph:
        if node.domain != "" or node.op_type not in ("Add", "Mul"):
            continue
        ranks = [0 if value.shape is None else len(value.shape) for value in node.inputs]
        for i, value in enumerate(node.inputs):
            array = constant_array(value)
            if array is not None and 0 < array.ndim < max(ranks) and max(ranks) > 2:
                shape = (1,) * (max(ranks) - array.ndim) + array.shape
                node.replace_input_with(i, add_constant(model.graph, f"{value.name}_aligned", array.reshape(shape)))
    RemoveUnusedNodesPass()(model)


def _replace_activation(node: ir.Node) -> None:
    if not is_quantizer(node) or constant_array(node.inputs[0]) is not None:
        return
    found = read_activation(node)
    _move_up(node)
    before = node.inputs[0].producer()
    if before is not None and before.domain == "" and before.op_type == "Relu" and found.signed:
        found = Uniform(found.scale, found.bits - 1, False, False)  # the same codes: none is negative
    made = add_quant(node, node.inputs[0], node.name, found.scale, found.bits, found.signed, found.narrow)
    replace_output(node.outputs[0], made)
    node.graph.remove(node, safe=True)


def _move_up(node: ir.Node) -> None:
    """MaxPool(x) -> Quant becomes Quant(x) -> MaxPool, likewise for what only moves values, and with a Relu in between.

    FINN joins a Relu with the Quant directly behind it, and pools integers only. With one step per tensor all orders
    give the same codes.
    """
    _move_relu_up(node.inputs[0].producer())
    while (mover := node.inputs[0].producer()) is not None and _is_plain(mover, MOVERS):
        _swap(mover, node)
        _move_relu_up(node.inputs[0].producer())


def _move_relu_up(node: ir.Node | None) -> None:
    if _is_plain(node, {"Relu"}) and _is_plain(mover := node.inputs[0].producer(), MOVERS):
        _swap(mover, node)


def _is_plain(node: ir.Node | None, op_types: set[str]) -> bool:
    """A standard node of these types with one output, which one node alone reads."""
    if node is None or node.domain != "" or node.op_type not in op_types or len(node.outputs) > 1:
        return False
    return not node.outputs[0].is_graph_output() and len(node.outputs[0].uses()) == 1


def _swap(mover: ir.Node, node: ir.Node) -> None:
    """node(mover(x)) -> mover(node(x)) under the name that the result had."""
    g = node.graph
    x, moved, out = mover.inputs[0], mover.outputs[0], node.outputs[0]
    g.remove(node)
    g.insert_before(mover, node)
    replace_output(out, moved)
    node.replace_input_with(0, x)
    mover.replace_input_with(0, out)
    out.name, out.shape, out.type = f"{moved.name}_codes", x.shape, x.type


def _replace_weight(node: ir.Node, most: int, notes: list) -> None:
    if node.domain != "" or node.op_type not in PRODUCTS:
        return
    name = node.name
    constant_weight(node, "FINN")
    if node.op_type == "Conv":
        take_out_bias(node)
    node = open_gemm(node) if node.op_type == "Gemm" else node
    steps, bits, how = _channel_steps(node)
    if bits > most:
        way_out = f"use an integer format, or elements and scales of a smaller range, or allow max_weight_bits={bits}"
        raise UnsupportedError(f"its weight needs {bits}-bit integers, more than max_weight_bits={most}; {way_out}")
    weight = constant_array(node.inputs[1])
    if node.op_type == "Conv" and (dense := without_groups(node, weight)) is not weight:
        notes.append((name, "its kernels hold zeros in place of groups, which FINN does not know"))
        weight = dense
    values = add_constant(node.graph, f"{name}_weight_values", weight)
    made = add_quant(node, values, f"{name}_weight", steps, bits, True, False)
    check_reproduced(made, weight, bits)
    node.replace_input_with(1, made)
    notes.append((name, f"weights are {bits}-bit integers, one step per output channel ({how})"))


def _channel_steps(node: ir.Node) -> tuple[np.ndarray, int, str]:
    """Steps that broadcast to the weight, bits of the integers, and what was done to have them."""
    weight = constant_array(node.inputs[1])
    channel = 0 if node.op_type == "Conv" else weight.ndim - 1
    others = tuple(i for i in range(weight.ndim) if i != channel)
    parts = weight_parts(node.inputs[1])
    if parts is not None:
        lowest = parts.steps.min(others, keepdims=True)
        if (parts.steps == lowest).all():
            return lowest.astype(np.float32), parts.grid.bits, "its own"
    grids = [grid_of(column) for column in np.moveaxis(weight, channel, 0)]
    steps = np.ldexp(np.float32(1), [grid.exponent for grid in grids]).astype(np.float32)
    shape = [-1 if i == channel else 1 for i in range(weight.ndim)]
    return steps.reshape(shape), max(grid.width for grid in grids), "wide fold"
