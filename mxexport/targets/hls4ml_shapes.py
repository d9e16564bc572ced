"""What hls4ml takes in another form than ONNX writes it: convolutions in groups, constants of images, a value that is
read by quantizers and others at once. All of it changes no value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.model.constants import constant_array
from mxexport.model.editing import add_constant, replace_output
from mxexport.model.uniform import add_quant
from mxexport.numbers.grids import Grid
from mxexport.ops import qonnx_general
from mxexport.targets._ranges import grids

_NOTHING = {"Identity", "Dropout"}


def simplify(node: ir.Node) -> None:
    """Identity(x) -> x;  x + x -> x * 2;  x + c, x * c: the constant c as one sample of x has it.

    Raises:
        UnsupportedError: a constant that is not the same for every sample.
    """
    if node.domain != "":
        return
    if node.op_type in _NOTHING and not any(value.is_graph_output() for value in node.outputs):
        replace_output(node.outputs[0], node.inputs[0]) if node.inputs[0].producer() else _pass_on(node)
        node.graph.remove(node, safe=True)
    elif node.op_type in {"Add", "Mul"}:
        _simplify_sum(node)


def _pass_on(node: ir.Node) -> None:
    node.outputs[0].replace_all_uses_with(node.inputs[0])


def _simplify_sum(node: ir.Node) -> None:
    if node.op_type == "Add" and node.inputs[0] is node.inputs[1]:
        node.op_type = "Mul"
        node.replace_input_with(1, add_constant(node.graph, f"{node.name}_twice", np.float32(2)))
        return
    for i, value in enumerate(node.inputs):
        array, shape = constant_array(value), node.outputs[0].shape
        if array is not None and array.ndim and shape is not None and shape.rank() > 1:
            laid_out = _of_sample(array, [d if isinstance(d, int) else 1 for d in shape.dims[1:]])
            node.replace_input_with(i, add_constant(node.graph, f"{node.name}_value", laid_out))


def _of_sample(array: np.ndarray, dims: list[int]) -> np.ndarray:
    """[C] of vectors; [1, C, H, W] of images, all of it: hls4ml repeats nothing along channels, and drops sizes 1."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim == len(dims) + 1 and (array == array[:1]).all():
        array = array[:1]
    elif array.ndim > len(dims):
        found = (
            f"its constant has shape {array.shape}, expected {dims} or what extends to it: the same for every sample"
        )
        raise UnsupportedError(f"{found}; make it an input of the model")
    if len(dims) > 1 and 1 in dims:
        found = (
            f"its constant extends to one sample of shape {dims}, expected no dimension of size 1, which hls4ml drops"
        )
        raise UnsupportedError(f"{found}; flatten the image before it")
    full = np.ascontiguousarray(np.broadcast_to(array, (1, *dims)))
    return full if len(dims) > 1 else full[0]


def declare_types(model: ir.Model) -> list[tuple[str, str]]:
    """y -> several readers   ->   Quant(y) that holds every value of y -> several readers; the same of one of two
    addends that hls4ml would add first and scale afterwards, and of a convolution times or plus a constant.

    hls4ml merges a quantizer, a factor or an addend with the layer before it unless that layer has a type already, and
    whoever else reads that layer gets what was rounded; and it takes the constant of an image for one of channels. The
    new quantizer, which changes nothing, is that type.

    Gives (node, why) for those whose values nobody knows.
    """
    known, problems = grids(model), []
    nodes = list(model.graph)
    for node, following in zip(nodes, nodes[1:], strict=False):
        value = node.outputs[0]
        if _is_quant(node) or constant_array(value) is not None or not any(needs(value) for needs in _NEEDING):
            continue
        if value not in known:
            found = f"{len(value.uses())} nodes read it and it has no fixed-point type"
            problems.append((node.name, f"{found}; quantize its input, or give input_type=(bits, fraction bits)"))
            continue
        grid = known[value]
        scale = np.ldexp(np.float32(1), grid.exponent)
        made = add_quant(following, value, f"{node.name}_type", scale, grid.bits, grid.signed, False)
        quant = made.producer()
        replace_output(value, made)
        quant.replace_input_with(0, value)
    return problems


def declare_outputs(model: ir.Model) -> list[tuple[str, str]]:
    """y, an output that nodes read, too   ->   Quant(y), an output alone: qonnx finds no way for images read so.

    Gives (node, why) for those whose values nobody knows, and outputs that no node makes, or one makes twice.
    """
    known, problems, g = grids(model), [], model.graph
    for i, value in enumerate(g.outputs):
        node = value.producer()
        if node is None or list(g.outputs).index(value) != i:
            problems.append((value.name, "it is an output twice, or an input, too; expected an output by its own node"))
        elif value.uses() and value not in known:
            why = "it is an output that nodes read, and has no fixed-point type; quantize its input"
            problems.append((node.name, f"{why}, or give input_type=(bits, fraction bits)"))
        elif value.uses():
            _repeat_output(g, i, known[value])
    return problems


def _repeat_output(g: ir.Graph, index: int, grid: Grid) -> None:
    """One bit more than needed: a quantizer of the type it is given would be removed."""
    value, last = g.outputs[index], g[-1]
    scale = np.ldexp(np.float32(1), grid.exponent)
    made = add_quant(last, value, f"{value.producer().name}_output", scale, grid.bits + 1, grid.signed, False)
    quant = made.producer()
    g.remove(quant)
    g.append(quant)
    g.outputs[index] = made
    name, value.name = value.name, f"{value.name}_inside"
    made.name = name


def _is_quant(node: ir.Node | None) -> bool:
    return node is not None and (node.domain, node.op_type) == (qonnx_general.DOMAIN, "Quant")


def _is_fork(value: ir.Value) -> bool:
    """Read more than once, behind a layer that hls4ml merges others with."""
    apart = value.producer().op_type == "MaxPool" or _factor(value) is None and value.producer().op_type == "Add"
    return len(value.uses()) + value.is_graph_output() > 1 and not apart


def _is_scaled_first(value: ir.Value) -> bool:
    """The first of two addends that both end in an equal factor, a constant's sum being a factor of one."""
    factor = _factor(value)
    for user, at in value.uses():
        other = user.inputs[1 - at] if user.domain == "" and user.op_type == "Add" and at == 0 else None
        if factor is not None and other is not None and (theirs := _factor(other)) is not None:
            return bool((factor == theirs).all()) if np.shape(factor) == np.shape(theirs) else True
    return False


def _is_image_before_constant(value: ir.Value) -> bool:
    return value.producer().op_type == "Conv" and any(_factor(user.outputs[0]) is not None for user, _ in value.uses())


def _is_depthwise(value: ir.Value) -> bool:
    """A depthwise convolution in front of a quantizer: with a type of its own it was compared, merged it was not."""
    node = value.producer()
    group = node.attributes["group"].value if "group" in node.attributes else 1
    return node.op_type == "Conv" and group > 1 and any(_is_quant(user) for user, _ in value.uses())


_NEEDING = (_is_fork, _is_scaled_first, _is_image_before_constant, _is_depthwise)


def _factor(value: ir.Value) -> np.ndarray | None:
    """What hls4ml multiplies by in the layer that makes the value; None for layers of other kinds."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in ("Add", "Mul"):
        return None
    for constant in map(constant_array, node.inputs):
        if constant is not None:
            return constant if node.op_type == "Mul" else np.float32(1)
    return None
