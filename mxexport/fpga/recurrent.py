"""LSTMs and GRUs of a file, so that they are refused by one word in place of one on every gate of every step.

An unrolled RNN is a chain of products and activations, which have units. Gates multiply streams with streams, and no
unit does that. Layers are told by the names that `export` gives: the quantizers of a hidden state are
`<layer>.hidden_l<k>_quant`, the nodes of the layer `<layer>` and `<layer>_<i>`.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.model.uniform import is_quantizer

_HIDDEN_STATE = re.compile(r"(?:(.+)\.)?hidden_l\d+(?:_reverse)?_quant(?:_\d+)?")
_GATED = (
    "an LSTM or GRU, whose gates multiply streams with streams, and no hardware unit does; use nn.RNN, which compiles "
    "unrolled, or let the network end before this layer"
)


def refuse_gated_layers(g: ir.Graph) -> None:
    """Raise UnsupportedError that names every LSTM and GRU of the graph, where there is one."""
    found = (_HIDDEN_STATE.fullmatch(node.name or "") for node in g if is_quantizer(node))
    layers = dict.fromkeys(match[1] or "" for match in found if match)
    gates = [node for node in g if node.op_type == "Sigmoid"]
    gated = [layer for layer in layers if any(_is_of(node, layer) for node in gates)]
    if gated:
        problems = [(f"layer {layer!r}" if layer else "the model itself", _GATED) for layer in gated]
        raise UnsupportedError("compile: some layers cannot be lowered to hardware", problems)


def _is_of(node: ir.Node, layer: str) -> bool:
    """Nodes of a layer that is the model itself are called by their operators."""
    name = re.escape(layer or node.op_type.lower())
    return re.fullmatch(rf"{name}(_\d+)?", node.name or "") is not None
