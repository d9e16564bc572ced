"""QONNX's `Trunc`, which drops the low bits of an average: taken where it drops nothing, else refused."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.model.constants import constant_array
from mxexport.model.editing import replace_output
from mxexport.model.uniform import Uniform, is_quantizer, read_activation
from mxexport.ops import qonnx_general

_MOVES = {"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout"}


def is_trunc(node: ir.Node | None) -> bool:
    return node is not None and node.domain == qonnx_general.DOMAIN and node.op_type == "Trunc"


def replace_trunc(node: ir.Node, tool: str) -> None:
    """Trunc(Quant(x)) becomes Quant(x) when both have one scale and every integer of the first fits the second.

    Raises:
        UnsupportedError: low bits would be dropped, or it cannot be told that none are.
    """
    if not is_trunc(node):
        return
    why = _what_it_drops(node)
    if why:
        way_out = "end the model before the pooling it belongs to, or pool with MaxPool"
        raise UnsupportedError(f"it is a Trunc that {why}; {tool} takes one only where it drops nothing; {way_out}")
    replace_output(node.outputs[0], node.inputs[0])
    node.graph.remove(node, safe=True)


def _what_it_drops(node: ir.Node) -> str | None:
    """None where the output is the input, bit for bit."""
    arrays = [constant_array(v) for v in node.inputs[1:]]
    if len(arrays) not in (4, 5) or any(a is None or a.size != 1 for a in arrays):
        return "has other than constant single numbers as scales, zero point and bit widths"
    scale, zero, bits, *out_scale, out_bits = (a.reshape(-1)[0] for a in arrays)  # version 1 has no output scale
    out_scale = out_scale[0] if out_scale else scale * 2 ** (bits - out_bits)
    if out_scale != scale or zero != 0:
        mode = node.attributes["rounding_mode"].value if "rounding_mode" in node.attributes else "FLOOR"
        return f"turns {bits:g}-bit integers times {scale:g} into {out_bits:g}-bit ones times {out_scale:g} ({mode})"
    before = _quantizer_before(node)
    if before is None or before.scale != scale:
        return f"rounds to multiples of {scale:g} what is not quantized to them before"
    if out_bits not in range(1, 65):
        return f"has {out_bits:g} output bits"
    if node.inputs[0].is_graph_output() and node.outputs[0].is_graph_output():
        return "makes one output of the model from another"
    a = {"signed": 1, "narrow": 0} | {name: attribute.value for name, attribute in node.attributes.items()}
    after = Uniform(before.scale, int(out_bits), bool(a["signed"]), bool(a["narrow"]))
    if before.lowest < after.lowest or before.highest > after.highest:
        return f"clips {before.lowest}..{before.highest} to {after.lowest}..{after.highest}"
    return None


def _quantizer_before(node: ir.Node) -> Uniform | None:
    maker = node.inputs[0].producer()
    while maker is not None and maker.domain == "" and maker.op_type in _MOVES:
        maker = maker.inputs[0].producer()
    try:
        return read_activation(maker) if maker is not None and is_quantizer(maker) else None
    except UnsupportedError:
        return None
