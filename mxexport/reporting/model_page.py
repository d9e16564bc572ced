"""The page of an ONNX file: what it holds, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.rewriting import is_op, label
from mxexport.reporting.charts import Bars, Box, Flow
from mxexport.reporting.findings import findings
from mxexport.reporting.histograms import weight_histograms
from mxexport.reporting.layers import LayerReport, describe_layers, describe_packed
from mxexport.reporting.page import Drawing, Facts, Findings, Histograms, Page, Section, Table
from mxexport.reporting.products import PRODUCTS, Product, products

_DRAWN, _CHARTED = 150, 60
"""Nodes that are drawn, weights that get charts: more would make a page that nobody reads."""


def model_page(model: ir.Model, title: str, extra: Iterable[Section] = (), layers: Sequence[LayerReport] = ()) -> Page:
    """`layers`: reports made when float weights were still there; else those that the file gives. `extra`: sections
    that stand in front of the tables."""
    layers = list(layers) or describe_layers(model) + describe_packed(model)
    found = list(products(model))
    worth = Findings("Worth knowing", findings(model, layers, found))
    sections = [_facts(model, layers, found), worth, *extra, _products(found, layers), _quantizers(layers)]
    if charts := _charts(model):
        note = "Elements in units of their scale, and shared scales; a bar says its count when pointed at."
        sections.append(Histograms("Codes of the weights", charts, note))
    sections.append(_drawing(model))
    return Page(title, f"ONNX, opset {model.opset_imports.get('')}, {len(model.graph)} nodes", sections)


def _facts(model: ir.Model, layers: Sequence[LayerReport], found: Sequence[Product]) -> Facts:
    macs = [p.macs for p in found]
    pairs = {
        "products": len(found),
        "multiply-accumulates a frame": sum(macs) if None not in macs else None,
        "bytes of weights, packed": sum(layer.bytes for layer in layers if layer.bytes is not None),
        "nodes": len(model.graph),
        "inputs": ", ".join(f"{v.name} {_shape(v)}" for v in model.graph.inputs),
        "outputs": ", ".join(f"{v.name} {_shape(v)}" for v in model.graph.outputs),
    }
    return Facts("At a glance", pairs)


def _products(found: Sequence[Product], layers: Sequence[LayerReport]) -> Table:
    by_name = {layer.name: layer for layer in layers}
    rows = []
    for p in found:
        own = by_name.get(p.weight.quantizer.name) if p.weight.quantizer is not None else None
        figures = (own.bytes, own.sqnr_db, own.saturated_percent, round(own.padding_percent, 2)) if own else (None,) * 4
        shape = _shape(p.node.outputs[0])
        rows.append((p.name, p.node.op_type, p.weight.format, p.activation.format, shape, p.macs, *figures))
    columns = ("layer", "operator", "weight", "activation", "output", "MACs", "bytes", "SQNR dB", "clipped %")
    note = "SQNR and clipping compare a quantized weight with the float weight; a dash: the file holds codes only."
    return Table("Layers", (*columns, "padding %"), rows, note)


def _quantizers(layers: Sequence[LayerReport]) -> Table:
    columns = ("quantizer", "format", "axis", "shape", "groups", "scale shape", "padding %")
    rows = [
        (q.name, q.format, q.axis, _dims(q.shape), q.groups, _dims(q.scale_shape), round(q.padding_percent, 2))
        for q in layers
    ]
    return Table("Quantizers", columns, rows, "Scales are stored contracted: one for each group.")


def _charts(model: ir.Model) -> dict[str, Bars]:
    found = {}
    for node in [n for n in model.graph if graph.is_quantized_constant(n)][:_CHARTED]:
        for kind, bars in weight_histograms(node).items():
            found[f"{label(node)}: {kind}, {graph.quantizer_format(node).name}"] = bars
    return found


def _drawing(model: ir.Model) -> Drawing:
    """The nodes that compute on activations; those of weights are part of their readers."""
    nodes = _of_activations(model)
    note = "Blue: products; orange: quantizers. What only makes weights is left out."
    if len(nodes) > _DRAWN:
        note += f" The first {_DRAWN} of {len(nodes)} nodes are drawn."
        nodes = nodes[:_DRAWN]
    boxes = [Box((str(v.name), f"input, {_shape(v)}"), ()) for v in model.graph.inputs]
    index = {id(v): i for i, v in enumerate(model.graph.inputs)}
    for node in nodes:
        sources = tuple(dict.fromkeys(index[id(v)] for v in node.inputs if id(v) in index))
        index |= {id(v): len(boxes) for v in node.outputs}
        boxes.append(Box((label(node), _words(node)), sources, _accent(node)))
    return Drawing("The graph", Flow(tuple(boxes), {}), note)


def _of_activations(model: ir.Model) -> list[ir.Node]:
    """Nodes that read an input of the graph, or what such nodes make."""
    known, found = {id(v) for v in model.graph.inputs if not v.is_initializer()}, []
    for node in model.graph:
        if any(id(v) in known for v in node.inputs):
            known |= {id(v) for v in node.outputs}
            found.append(node)
    return found


def _words(node: ir.Node) -> str:
    words = [node.op_type]
    if graph.is_ours(node, graph.QUANTIZERS):
        words.append(graph.quantizer_format(node).name)
    words += [_shape(v) for v in node.outputs[:1] if v.shape is not None]
    return ", ".join(words)


def _accent(node: ir.Node) -> int:
    if is_op(node, *PRODUCTS):
        return 1
    return 2 if graph.is_ours(node, graph.QUANTIZERS | graph.SCALES) else 0


def _shape(value: ir.Value) -> str:
    return "?" if value.shape is None else _dims(list(value.shape))


def _dims(sizes: Sequence) -> str:
    return " x ".join(map(str, sizes)) or "scalar"
