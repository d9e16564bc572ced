from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from mxexport.model.outcome import Outcome


def deduplicate_initializers(model: ir.Model) -> Outcome:
    """f(w), g(copy of w) -> f(w), g(w)  when both initializers have equal type, shape and bytes.

    Graph inputs and outputs stay, and what one node reads beside its equal: qonnx renames the first of two places only.
    Only tensors whose type, shape and size agree are hashed at all.
    """
    outcome = Outcome()
    for graph in model.graphs():
        groups: dict[tuple, list[ir.Value]] = {}
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            groups.setdefault((tensor.dtype, tuple(tensor.shape)), []).append(value)
        for alike in groups.values():
            if len(alike) > 1:
                _merge(graph, alike, outcome)
    return outcome


def _merge(graph: ir.Graph, alike: list[ir.Value], outcome: Outcome) -> None:
    first: dict[bytes, ir.Value] = {}
    for value in alike:
        kept = first.setdefault(_digest(value.const_value), value)
        if kept is not value and set(kept.consumers()).isdisjoint(value.consumers()):
            value.replace_all_uses_with(kept)
            del graph.initializers[value.name]
            outcome.changed.append(f"{value.name}: the same as {kept.name}")


def _digest(tensor: ir.TensorProtocol) -> bytes:
    if tensor.dtype == ir.DataType.STRING:
        return hashlib.sha256(repr(list(tensor.string_data())).encode()).digest()
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(array.reshape(-1).view(np.uint8)).digest()
