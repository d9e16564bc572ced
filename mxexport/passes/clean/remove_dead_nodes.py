from __future__ import annotations

import onnx_ir as ir

from mxexport.model.outcome import Outcome


def remove_dead_nodes(model: ir.Model) -> Outcome:
    """node, initializer, function -> nothing  when no graph output depends on it and it is no graph input."""
    outcome = Outcome()
    _clean_graph(model.graph, outcome)
    used = {node.op_identifier() for node in _reachable_nodes(model)}
    for key in [key for key in model.functions if key not in used]:
        del model.functions[key]
        outcome.changed.append(f"{key[0]}.{key[1]}: a function nobody calls")
    return outcome


def _clean_graph(graph: ir.Graph, outcome: Outcome) -> None:
    for node in reversed(graph):
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            for attribute in node.attributes.values():
                for inner in _graphs_of(attribute):
                    _clean_graph(inner, outcome)
            continue
        _release(node)
        graph.remove(node, safe=True)
        outcome.changed.append(f"{node.name}: {node.op_type} nobody uses")
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]
            outcome.changed.append(f"{name}: an initializer nobody uses")


def _release(node: ir.Node) -> None:
    """Graphs inside a node that goes no longer use tensors from outside."""
    for attribute in node.attributes.values():
        for graph in _graphs_of(attribute):
            for inner in graph.all_nodes():
                for i in range(len(inner.inputs)):
                    inner.replace_input_with(i, None)


def _graphs_of(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _reachable_nodes(model: ir.Model):
    """Nodes of the graph and, through their calls, of functions."""
    waiting, visited = [model.graph], set()
    while waiting:
        for node in waiting.pop().all_nodes():
            yield node
            key = node.op_identifier()
            if key in model.functions and key not in visited:
                visited.add(key)
                waiting.append(model.functions[key])
