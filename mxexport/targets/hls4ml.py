"""QONNX that hls4ml 1.3 takes: one power-of-two step per tensor, MatMul and Conv with constants, nothing else.

Groups disappear in one of two exact ways. Wide fold: codes * 2**e of all groups are integers of one finer step, a
single wider `Quant`. Groups: one MatMul of narrow codes for each group, the others masked with zeros, each times its
powers of two, and the sum of them.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedOpsetsPass, ShapeInferencePass

from mxexport.errors import OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import replace_output
from mxexport.model.names import Names
from mxexport.model.rewriting import SHAPE_OPERATORS
from mxexport.model.uniform import add_constant_on_grid, add_quant, is_quantizer, read_activation
from mxexport.numbers.grids import grid_of
from mxexport.ops import qonnx_general
from mxexport.passes.clean.infer_shapes import infer_shapes
from mxexport.targets._kernels import without_dilations, without_groups
from mxexport.targets._layers import Parts, check_finite, constant_weight, open_gemm, store_constants, weight_parts
from mxexport.targets._qcdq import explain, with_our_quantizers
from mxexport.targets._ranges import FLOAT32_BITS, PRODUCTS, grids
from mxexport.targets._trunc import is_trunc, replace_trunc
from mxexport.targets.conversion import Converted
from mxexport.targets.hls4ml_check import quantizer_refusal, refused
from mxexport.targets.hls4ml_project import IMAGE_OPERATORS, check_channels_last
from mxexport.targets.hls4ml_shapes import declare_outputs, declare_types, simplify

FOLDS = ("auto", "wide", "groups")
_EXACT = {
    "MatMul", "Gemm", "Conv", "Mul", "Add", "Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Identity",
    "Dropout", "Constant",
}  # fmt: skip
_BESIDE = graph.SCALES | graph.DEQUANTIZERS | graph.STORED_SCALES | graph.ZERO_POINTS
_QUANT = (qonnx_general.DOMAIN, "Quant")


def convert(
    model: ir.Model,
    *,
    batch: int | None = 1,
    fold: str = "auto",
    max_weight_bits: int = 24,
    max_bias_bits: int = 40,
    round_bias: bool = False,
    input_type: tuple[int, int] | None = None,
) -> Converted:
    """A copy of `model` for hls4ml; notes tell how each weight was folded and how wide each product is. QuantizeLinear
    and DequantizeLinear are read as our quantizers first.

    batch: size given to an open first dimension; None leaves it open.
    fold: `wide`, `groups` (MatMul only), or `auto`: wide up to `max_weight_bits`, else groups.
    round_bias: round biases to the step of the product they are added to, as hardware does; otherwise they are kept.
    input_type: (bits, fraction bits) of graph inputs that reach a product without a quantizer.

    Raises:
        UnsupportedError: layers that cannot be carried exactly, all of them, each with the way out.
        OptionError: an unknown `fold`, or a `batch` or `input_type` that cannot be.
    """
    if fold not in FOLDS:
        raise OptionError(f"hls4ml: fold is {fold!r}; expected one of {', '.join(FOLDS)}")
    (work, left), notes = with_our_quantizers(model, batch), []
    if input_type is not None:
        _quantize_inputs(work, input_type, notes)
    infer_shapes(work)
    problems = [p for node in list(work.graph) if (p := _attempt(simplify, node))]
    problems += [p for node in list(work.graph) if (p := _attempt(replace_trunc, node, "hls4ml"))]
    problems += _replace_activations(work)
    limits = (fold, max_weight_bits)
    problems += [p for node in list(work.graph) if (p := _attempt(_replace_weight, node, limits, notes))]
    bias = (max_bias_bits, round_bias)
    known = grids(work)
    problems += [p for node in list(work.graph) if (p := _attempt(_replace_bias, node, known, bias, notes))]
    store_constants(work, {"Mul"})
    problems += _unknown_operators(work, bool(problems))
    problems += _products_of_anything(work, {name for name, _ in problems})
    if not problems:
        infer_shapes(work)
        problems = refused(work) or declare_outputs(work) or declare_types(work)
    if problems:
        raise UnsupportedError("hls4ml: the model cannot be converted exactly", explain(problems, left, work))
    notes += _widths(work)
    _finish(work)
    if batch is not None and any(node.op_type in IMAGE_OPERATORS for node in work.graph):
        check_channels_last(ir.to_proto(work), "hls4ml")
    changes = "round_bias moves biases to the step of their product" if round_bias else ""
    return Converted(work, notes, changes=changes, input_step=input_type and 2.0 ** -input_type[1])


def _attempt(change, node: ir.Node, *rest) -> tuple[str, str] | None:
    try:
        change(node, *rest)
    except UnsupportedError as error:
        return node.name, str(error)
    return None


# --- inputs and activations -----------------------------------------------------------------------------------


def _quantize_inputs(model: ir.Model, input_type: tuple[int, int], notes: list) -> None:
    """Declare graph inputs fixed point: `Quant` in front of every consumer that is not a quantizer already."""
    bits, fraction = input_type
    if not 1 < bits <= FLOAT32_BITS:
        raise OptionError(f"hls4ml: input_type has {bits} bits; expected 2 to {FLOAT32_BITS}")
    for value in model.graph.inputs:
        users = [node for node, _ in value.uses() if not is_quantizer(node) and node.op_type != "Shape"]
        if not users:
            continue
        first = next(node for node in model.graph if node in users)
        scale = np.ldexp(np.float32(1), -fraction)
        quantized = add_quant(first, value, f"{value.name}_type", scale, bits, True, False)
        for node in users:
            for i, given in enumerate(node.inputs):
                if given is value:
                    node.replace_input_with(i, quantized)
        notes.append((value.name, f"rounded to {bits} bits, {fraction} of them behind the point, as asked"))


def _replace_activations(model: ir.Model) -> list[tuple[str, str]]:
    problems = []
    for node in list(model.graph):
        if not is_quantizer(node) or constant_array(node.inputs[0]) is not None:
            continue
        try:
            found = read_activation(node)
        except UnsupportedError as error:
            problems.append((node.name, str(error)))
            continue
        if found.grid is None:
            why = f"its scale {found.scale} is not a power of two, fixed point cannot hold it; use a static MX integer"
            problems.append((node.name, f"{why} format such as mxint8"))
            continue
        if why := quantizer_refusal(found):
            problems.append((node.name, why))
            continue
        made = add_quant(node, node.inputs[0], node.name, found.scale, found.bits, found.signed, found.narrow)
        replace_output(node.outputs[0], made)
        model.graph.remove(node, safe=True)
    return problems


# --- weights --------------------------------------------------------------------------------------------------


def _replace_weight(node: ir.Node, limits: tuple[str, int], notes: list) -> None:
    if node.domain != "" or node.op_type not in PRODUCTS:
        return
    name, weight = node.name, constant_weight(node, "hls4ml")
    node = open_gemm(node) if node.op_type == "Gemm" else node
    if node.op_type == "Conv":
        weight = _spread(node, weight, notes)
    else:
        weight = constant_array(node.inputs[1])
    grid, (fold, most) = grid_of(weight), limits
    parts = weight_parts(node.inputs[1]) if node.op_type == "MatMul" and weight.ndim == 2 else None
    grouped = parts is not None and _can_split(parts) and parts.grid.bits < grid.bits
    if fold == "wide" or (fold == "auto" and grid.bits <= most) or not grouped:
        if grid.bits > most:
            other = "fold='groups'" if grouped else "in a linear layer, powers of two as scales: groups then stay apart"
            found = f"its weight needs {grid.bits}-bit integers, more than max_weight_bits={most}"
            raise UnsupportedError(f"{found}; allow max_weight_bits={grid.bits}, or use {other}")
        node.replace_input_with(1, add_constant_on_grid(node, weight, f"{name}_weight", grid))
        notes.append((name, f"weights are {grid.bits}-bit integers times 2**{grid.exponent} (wide fold)"))
        return
    count = _split_groups(node, parts)
    notes.append((name, f"weights are {parts.grid.bits}-bit codes, {count} products summed (groups)"))


def _spread(node: ir.Node, weight: np.ndarray, notes: list) -> np.ndarray:
    """The kernel as hls4ml takes it, which knows neither groups (but depthwise ones) nor dilations."""
    spread = without_dilations(node, without_groups(node, weight))
    if spread.size > weight.size:
        why = "hls4ml takes no groups and dilations"
        notes.append((node.name, f"kernel {weight.shape} filled up with zeros to {spread.shape}: {why}"))
    return spread


def _can_split(parts: Parts) -> bool:
    """Groups run along the axis summed over, and their steps are powers of two."""
    return bool((parts.group == parts.group[:, :1]).all() and (np.frexp(parts.steps)[0] == 0.5).all())


def _split_groups(node: ir.Node, parts: Parts) -> int:
    """MatMul(x, W) -> sum of MatMul(x, codes of some groups, zeros elsewhere) * their powers of two.

    Groups whose exponents agree share a product: hls4ml fails where it adds two products with equal factors.
    """
    total = None
    exponents, which = np.unique(np.frexp(parts.steps)[1] - 1, axis=0, return_inverse=True)
    for i, row in enumerate(exponents):
        name = f"{node.name}_part{i}"
        codes = np.where((which.reshape(-1) == i)[:, None], parts.codes, 0).astype(np.float32)
        steps = np.ldexp(np.float32(1), row).astype(np.float32)
        weight = add_constant_on_grid(node, codes, f"{name}_codes", parts.grid)
        scale = add_constant_on_grid(node, steps, f"{name}_steps", grid_of(steps))
        term = _insert(node, "MatMul", [node.inputs[0], weight], f"{name}_product")
        term = _insert(node, "Mul", [term, scale], f"{name}_scaled")
        total = term if total is None else _insert(node, "Add", [total, term], f"{name}_sum")
    replace_output(node.outputs[0], total)
    node.graph.remove(node, safe=True)
    return len(exponents)


def _insert(before: ir.Node, op_type: str, inputs: list[ir.Value], name: str) -> ir.Value:
    node = ir.node(op_type, inputs, name=name)
    out = node.outputs[0]
    out.name, out.shape, out.type = name, before.outputs[0].shape, before.outputs[0].type
    before.graph.insert_before(before, node)
    return out


# --- biases ---------------------------------------------------------------------------------------------------


def _replace_bias(node: ir.Node, known: dict, limits: tuple[int, bool], notes: list) -> None:
    """Constants of Add and the bias of Conv get a `Quant` that holds them."""
    at = {"Add": (0, 1), "Conv": (2,)}.get(node.op_type, ()) if node.domain == "" else ()
    most, rounded = limits
    for i in at:
        bias = constant_array(node.inputs[i]) if i < len(node.inputs) else None
        if bias is None:
            continue
        check_finite(bias, "bias")
        step = _step_of_sum(node, i, known)
        if rounded and step is not None:
            on_step = (np.rint(np.ldexp(bias.astype(np.float64), -step)) * 2.0**step).astype(np.float32)
            if (on_step != bias).any():
                most_off = np.abs(on_step - bias).max()
                notes.append((node.name, f"bias rounded to multiples of 2**{step}, by {most_off:.2g} at most"))
            bias = on_step
        grid = grid_of(bias)
        if grid.bits > most:
            found = f"its bias needs {grid.bits}-bit integers, more than max_bias_bits={most}"
            way_out = "round_bias=True rounds it to the step of the product" if not rounded else "raise max_bias_bits"
            raise UnsupportedError(f"{found}; {way_out}")
        node.replace_input_with(i, add_constant_on_grid(node, bias, f"{node.name}_constant", grid))


def _step_of_sum(node: ir.Node, bias_at: int, known: dict) -> int | None:
    """Exponent of the step of what the bias is added to."""
    if node.op_type == "Conv":
        x, weight = known.get(node.inputs[0]), constant_array(node.inputs[1])
        return None if x is None else x.exponent + grid_of(weight).exponent
    other = known.get(node.inputs[1 - bias_at])
    return None if other is None else other.exponent


# --- the whole ------------------------------------------------------------------------------------------------


def _unknown_operators(model: ir.Model, refused: bool) -> list[tuple[str, str]]:
    """`refused`: some nodes were; theirs are the quantizers, weights and shapes still in the graph."""
    return [
        (node.name, f"hls4ml does not compute {node.op_type} exactly, or not at all; end the model before it")
        for node in model.graph
        if not (_is_known(node) or (refused and _is_beside(node)))
    ]


def _is_known(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == _QUANT or (node.domain == "" and node.op_type in _EXACT)


def _is_beside(node: ir.Node) -> bool:
    if node.domain == "":
        return node.op_type in SHAPE_OPERATORS
    return is_quantizer(node) or is_trunc(node) or graph.is_ours(node, _BESIDE)


def _products_of_anything(model: ir.Model, refused: set[str]) -> list[tuple[str, str]]:
    """Products whose input has no known type, unless a node of `refused` is what makes it."""
    known = grids(model)
    return [
        (
            node.name,
            "its input has no fixed-point type: quantize it (mxint8, static), or give input_type=(bits, fraction bits) "
            "where it is an input of the model",
        )
        for node in model.graph
        if node.domain == ""
        and node.op_type in PRODUCTS
        and node.inputs[0] not in known
        and not refused.intersection(_makers(node.inputs[0]))
    ]


def _makers(value: ir.Value) -> set[str]:
    """Names of the nodes between a value and the quantizers, products or inputs it comes from, these included."""
    names, waiting = set(), [value]
    while waiting:
        maker = waiting.pop().producer()
        if maker is None or maker.name in names:
            continue
        names.add(maker.name)
        if not (is_quantizer(maker) or maker.op_type in PRODUCTS):
            waiting += [v for v in maker.inputs if v is not None]
    return names


def _widths(model: ir.Model) -> list[tuple[str, str]]:
    known, notes = grids(model), []
    for node in model.graph:
        if node.domain != "" or node.op_type not in {"MatMul", "Conv", "Add"} or node.outputs[0] not in known:
            continue
        bits = known[node.outputs[0]].bits
        if bits > FLOAT32_BITS + 1:
            notes.append((node.name, f"sums may need {bits} bits: hls4ml is exact, float32 executors may round"))
    return notes


def _finish(model: ir.Model) -> None:
    LiftConstantsToInitializersPass()(model)
    model.functions.clear()
    _name_for_cpp(model)
    graph.attach_standard_functions(model)
    RemoveUnusedOpsetsPass()(model)
    ShapeInferencePass()(model)


def _name_for_cpp(model: ir.Model) -> None:
    """hls4ml makes C++ names of node and tensor names."""
    reserved = {"input"}
    names = Names(reserved)
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for item in (*values, *(v for node in model.graph for v in node.outputs)):
        if not item.is_graph_output():
            item.name = names.unique(_identifier(item.name))
    names = Names(reserved)
    for node in model.graph:
        node.name = names.unique(_identifier(node.name))


def _identifier(name: str) -> str:
    stem = re.sub(r"\W", "_", name, flags=re.ASCII)
    return stem if stem[:1].isalpha() else f"n{stem}"
