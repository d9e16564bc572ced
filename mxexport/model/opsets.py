"""The opset of a graph: which ones are taken, and bringing a graph to another."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import onnx
import onnx_ir as ir
from onnx import defs
from onnxscript import version_converter

from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.model.rewriting import is_qonnx_quantizer
from mxexport.ops import DOMAIN, qonnx_general
from mxexport.ops._body import LOWEST_OPSET

LOWEST = 7
"""The oldest opset that onnxruntime has kernels for."""
_CONVERTER = 18
"""onnxscript's converter knows what changed from here on; what changed before, only onnx's own does."""
_AGAIN = "bring the file to opset {} with another tool first, or end the model before it"


def check_opset(model: ir.Model) -> None:
    """Raise UnsupportedError for an opset that ONNX does not have, or that is older than `LOWEST`."""
    opset, highest = model.opset_imports.get(""), defs.onnx_opset_version()
    if opset is None:
        raise UnsupportedError("the model does not say which opset of ONNX it uses; expected an opset import")
    if not LOWEST <= opset <= highest:
        way_out = "; bring the file to 18 with onnx.version_converter first" if 0 < opset < LOWEST else ""
        raise UnsupportedError(f"opset {opset}: expected {LOWEST} to {highest}{way_out}")


def opset_for_bodies(nodes: Iterable[ir.Node | onnx.NodeProto]) -> int:
    """The lowest opset at which the function bodies of the operators among `nodes` mean what they should."""
    lowest = 0
    for node in nodes:
        if node.domain == DOMAIN:
            return LOWEST_OPSET
        if is_qonnx_quantizer(node):
            lowest = qonnx_general.LOWEST_OPSET
    return lowest


def raise_opset(model: ir.Model, opset: int) -> None:
    """Bring `model` to a later `opset`, operators that changed on the way included; functions of its own are inlined.
    One older than `LOWEST` stays: `check_opset` refuses it.

    Raises:
        UnsupportedError: a node that no converter can bring there.
    """
    current = model.opset_imports[""]
    if current >= opset or current < LOWEST:
        return
    graph.drop_functions(model)
    for target in sorted({min(max(current, _CONVERTER), opset), opset} - {current}):
        _convert(model, target)


def _convert(model: ir.Model, target: int) -> None:
    current, logger = model.opset_imports[""], logging.getLogger("onnxscript.version_converter")
    reason, level = "", logger.level
    logger.setLevel(logging.CRITICAL)  # it warns of what it does, and of what it could not do
    try:
        version_converter.convert_version(model, target, fallback=current < _CONVERTER)
    except Exception as error:  # the converters raise their own types
        reason = f": {(str(error).splitlines() or [''])[0]}"
    finally:
        logger.setLevel(level)
    if reason or model.opset_imports[""] != target:
        found = f"the model cannot be brought from opset {current} to {target}{reason}"
        raise UnsupportedError(f"{found}; export it at opset {target} or later")


def lower_opset(model: ir.Model, opset: int) -> None:
    """Declare `opset` for the standard operators, where each node means the same there.

    A node does where its operator has not changed between the two opsets, or where it has the inputs and attributes
    that the older operator knows (later versions then only added types).

    Raises:
        UnsupportedError: nodes that the older opset cannot say, all of them.
    """
    current = model.opset_imports[""]
    if current <= opset:
        return
    problems = [
        (node.name, why)
        for node in model.graph.all_nodes()
        if node.domain == "" and (why := _obstacle(node, current, opset))
    ]
    if problems:
        raise UnsupportedError(f"opset {current} cannot be lowered to {opset}", problems)
    model.opset_imports[""] = opset


def _obstacle(node: ir.Node, current: int, opset: int) -> str | None:
    if not defs.has(node.op_type, opset, ""):
        return f"{node.op_type} does not exist in opset {opset}; export it in older operators"
    new, old = (defs.get_schema(node.op_type, version, "") for version in (current, opset))
    if new.since_version == old.since_version:
        return None
    extra = sorted(set(node.attributes) - set(old.attributes))
    if extra:
        return f"{node.op_type} has no attribute {', '.join(extra)} in opset {opset}; {_AGAIN.format(opset)}"
    given = len([v for v in node.inputs if v is not None])
    if not old.min_input <= given <= old.max_input:
        expected = f"expected {old.min_input} to {old.max_input} in opset {opset}"
        return f"{node.op_type} has {given} inputs, {expected}; {_AGAIN.format(opset)}"
    return None
