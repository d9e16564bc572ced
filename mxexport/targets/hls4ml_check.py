"""What hls4ml 1.3 reads without a word and computes otherwise, or fails at with a message from deep inside."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from mxexport.model.constants import constant_array
from mxexport.model.uniform import Uniform
from mxexport.numbers.grids import Grid
from mxexport.targets._ranges import grids

_VECTORS = "flatten what stands before it, or write a linear layer over tokens as a Conv1d of kernel 1"


def refused(model: ir.Model) -> list[tuple[str, str]]:
    """(node, why and the way out) for every node of a converted graph, shapes inferred."""
    known = grids(model)
    found = [(node.name, rule(node)) for node in model.graph for rule in _RULES.get(node.op_type, ())]
    found += [(node.name, _padding(node, known)) for node in model.graph if node.op_type == "MaxPool"]
    return [(name, why) for name, why in found if why]


def quantizer_refusal(found: Uniform) -> str | None:
    """Why hls4ml has no type of these integers; None where it has one."""
    if found.signed and found.bits == 1:
        return "it is a signed quantizer of 1 bit (-1 and 1), expected 2 bits or more; fixed point has no such type"
    if found.narrow and not found.signed:
        return "it is unsigned and narrow, expected the whole range (narrow=0): hls4ml has no such type"
    return None


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else value.shape.rank()


def _attribute(node: ir.Node, name: str, default):
    return node.attributes[name].value if name in node.attributes else default


def _product_of_vectors(node: ir.Node) -> str | None:
    if (rank := _rank(node.inputs[0])) in (None, 2):
        return None
    return f"its input has {rank} dimensions, expected 2: hls4ml's linear layers take vectors; {_VECTORS}"


def _windows(node: ir.Node) -> str | None:
    if (rank := _rank(node.inputs[0])) not in (None, 3, 4):
        return f"its input has {rank} dimensions, expected 3 or 4: hls4ml slides over one or two; use Conv1d or Conv2d"
    if (pad := _attribute(node, "auto_pad", "NOTSET")) not in ("", "NOTSET"):
        return f"auto_pad is {pad}, expected explicit pads; write them out"
    return None


def _max_pool(node: ir.Node) -> str | None:
    if len(node.outputs) > 1 and node.outputs[1].uses():
        return "the places of its maxima are read, expected the maxima alone; end the model before it"
    if _attribute(node, "ceil_mode", 0):
        return "ceil_mode is 1, expected 0: hls4ml leaves the last window out; pad or crop the image"
    if set(_attribute(node, "dilations", [1])) != {1}:
        return f"dilations are {_attribute(node, 'dilations', [])}, expected 1; pool without"
    return None


def _padding(node: ir.Node, known: dict[ir.Value, Grid]) -> str | None:
    """The pad value has the highest bit set: the least of signed numbers."""
    pads, grid = _attribute(node, "pads", []), known.get(node.inputs[0])
    if not any(pads) or grid is None or grid.signed:
        return None
    found = f"pads are {list(pads)} around unsigned values, expected none or signed values"
    return f"{found}: hls4ml pads unsigned ones with half of their range; use a signed quantizer before it"


def _sum_of_equals(node: ir.Node) -> str | None:
    a, b = node.inputs
    if constant_array(a) is not None or constant_array(b) is not None or a.shape is None or b.shape is None:
        return None
    if a.shape.dims[1:] != b.shape.dims[1:]:
        return f"it adds shapes {a.shape} and {b.shape}, expected equal ones: hls4ml does not repeat values"
    return None


def _product_of_two(node: ir.Node) -> str | None:
    if any(constant_array(value) is not None for value in node.inputs):
        return None
    return "it multiplies two values found at run time, expected a constant; end the model before it"


def _constant_of_shared_image(node: ir.Node) -> str | None:
    """qonnx moves a transposition past it, and whoever else reads the image gets the sum."""
    for value in node.inputs:
        shared = len(value.uses()) + value.is_graph_output() > 1 and constant_array(value) is None
        if shared and _rank(value) not in (None, 2) and any(constant_array(v) is not None for v in node.inputs):
            return "others read the image it changes by a constant, expected no other reader; put it before the fork"
    return None


def _same_batch(node: ir.Node) -> str | None:
    """Samples go through one by one."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    moved = _attribute(node, "perm", [0])[0] != 0
    if moved or (before is not None and after is not None and before.dims[:1] != after.dims[:1]):
        return f"it moves the batch ({before} -> {after}), expected the first dimension as it was; reshape each sample"
    return None


_RULES: dict[str, tuple[Callable[[ir.Node], str | None], ...]] = {
    "MatMul": (_product_of_vectors,),
    "Conv": (_windows,),
    "MaxPool": (_windows, _max_pool),
    "Add": (_sum_of_equals, _constant_of_shared_image),
    "Mul": (_product_of_two, _constant_of_shared_image),
    "Reshape": (_same_batch,),
    "Flatten": (_same_batch,),
    "Transpose": (_same_batch,),
}
