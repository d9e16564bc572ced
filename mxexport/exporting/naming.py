"""Names from the module path, no local paths, and the format in words on every quantizer."""

from __future__ import annotations

import json

import onnx_ir as ir

from mxexport.errors import OptionError
from mxexport.model import graph
from mxexport.model.names import Names
from mxexport.model.rewriting import constant
from mxexport.ops import DOMAIN, OPERATORS, qonnx_general


def names_in_use(g: ir.Graph) -> Names:
    return Names({value.name for value in (*g.inputs, *g.outputs, *g.initializers.values())})


def check_names(names: list[str] | None, which: str) -> None:
    """Raise OptionError unless `names` (an argument called `which`) is a list of distinct names."""
    if names is None:
        return
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise OptionError(f"{which}={names!r}: expected a list of names")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise OptionError(f"{which}: {', '.join(twice)} stands there more than once")


def check_given_names(g: ir.Graph, input_names: list[str] | None, output_names: list[str] | None) -> None:
    """Raise OptionError where names given for inputs and outputs are too many or taken."""
    for names, values, which in ((input_names, g.inputs, "input_names"), (output_names, g.outputs, "output_names")):
        if len(names or ()) > len(values):
            raise OptionError(f"{which}: {len(names)} names, the graph has {len(values)} {which[:-6]}s")
    taken = [value.name for value in (*g.inputs, *g.outputs, *g.initializers.values())]
    for name in {*(input_names or ()), *(output_names or ())}:
        if taken.count(name) > 1:
            raise OptionError(f"the name {name!r} is given to an input or output, and another tensor has it already")


def name_everything(model: ir.Model) -> None:
    """Name nodes and values, strip torch's metadata, annotate quantizers."""
    g = model.graph
    names = names_in_use(g)
    formal = {name for op in OPERATORS.values() for name in (*op.inputs, *op.outputs)}
    for value in list(g.initializers.values()):
        if value.name in formal:  # inlining a body would confuse the two
            value.name = names.unique(f"{value.name}_")
    node_names = Names()
    for node in sorted(g, key=lambda node: not _is_operator_of_ours(node)):  # a quantizer before what finds its scale
        node.name = node_names.unique(_node_name(node))
    for node in g:
        for i, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = names.unique(node.name if i == 0 else f"{node.name}.{i}")
            value.metadata_props.clear()
        node.metadata_props.clear()
        node.doc_string = None
    for item in (model, g, *g.inputs, *g.initializers.values()):
        item.metadata_props.clear()
    for node in g:
        if graph.is_ours(node, graph.QUANTIZERS):
            _annotate(node)


def _module_path(node: ir.Node) -> str:
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    # A list of strings written by torch; JSON reads it once the quotes are double.
    names = json.loads(scopes.replace("'", '"')) if scopes else []
    path = names[-2] if len(names) > 1 else ""
    return "" if path.startswith("_empty_nn_module_stack") else path  # torch's own mark for "no module"


def _node_name(node: ir.Node) -> str:
    """`fc1.weight_quant`, `fc1.input_scale`, `fc1`: what a reader of the PyTorch module would call it."""
    path = _module_path(node)
    if _is_operator_of_ours(node):
        if constant(node.inputs[0]) is not None:
            return f"{node.inputs[0].name}_quant"
        suffix = {"GroupwiseZeroPoint": "zero_point"}.get(node.op_type, "scale")
        suffix = "quant" if node.op_type in {*graph.QUANTIZERS, *qonnx_general.OPERATORS} else suffix
        if path.endswith("_quant"):  # a quantizer that is a module: `fc1.output_quant`
            return f"{path.removesuffix('quant')}{suffix}"
        return ".".join(filter(None, (path, f"input_{suffix}")))
    return path or node.op_type.lower()


def _is_operator_of_ours(node: ir.Node) -> bool:
    return node.domain in (DOMAIN, qonnx_general.DOMAIN)


def _annotate(node: ir.Node) -> None:
    fmt = graph.quantizer_format(node)
    axis = node.attributes["axis"].value
    node.metadata_props[graph.FORMAT_KEY] = fmt.name
    node.doc_string = f"{fmt.name} along axis {axis}: {fmt.describe()}."
