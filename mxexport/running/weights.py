"""What a graph computes of its initializers alone, the quantized weights above all, apart from the rest."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from mxexport.model.checks import subgraphs
from mxexport.model.graph import BODY_DOMAINS
from mxexport.model.rewriting import RANDOM

_DRAWN = RANDOM | {"Dropout"}


def constant_results(graph: onnx.GraphProto) -> list[str]:
    """Tensors that come from initializers through quantizers of ours or of QONNX, and that other nodes, subgraphs or
    the graph's outputs read. What may be fed, is drawn, or has subgraphs is no constant."""
    constant = {t.name for t in graph.initializer} - {v.name for v in graph.input} | {""}
    quantized, read = set(), dict.fromkeys(value.name for value in graph.output)
    for node in graph.node:
        if _is_constant(node, constant):
            constant.update(node.output)
            if node.domain in BODY_DOMAINS or not quantized.isdisjoint(node.input):
                quantized.update(node.output)
        else:
            read |= dict.fromkeys(tensors_read(node))
    return [name for name in read if name in quantized]


def _is_constant(node: onnx.NodeProto, constant: set[str]) -> bool:
    drawn = node.domain == "" and node.op_type in _DRAWN
    return not drawn and not any(subgraphs(node)) and constant.issuperset(node.input)


def tensors_read(node: onnx.NodeProto) -> set[str]:
    """Names of all tensors a node reads, those that its subgraphs take from outside included."""
    graphs = list(subgraphs(node))
    inner = {name for g in graphs for n in g.node for name in tensors_read(n)} | {
        o.name for g in graphs for o in g.output
    }
    return {name for name in node.input if name} | inner


def prune(graph: onnx.GraphProto, given: Collection[str] = ()) -> None:
    """Leave out what the outputs do not need where the tensors `given` are there: nodes, and initializers that are no
    inputs. A quantized weight costs no run of the whole network."""
    needed = {value.name for value in graph.output}.difference(given)
    for i in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[i].output):
            del graph.node[i]
        else:
            needed.update(tensors_read(graph.node[i]).difference(given))
    needed |= {value.name for value in graph.input} | {value.name for value in graph.output}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]
