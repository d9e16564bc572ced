"""Under which name the units of a node stand together in the dataflow graph and the report."""

from __future__ import annotations

import onnx_ir as ir

from mxexport.model.names import Names
from mxexport.model.rewriting import constant
from mxexport.model.uniform import is_quantizer

_BEHIND = {"Relu", "Add", "Mul", "BatchNormalization", "Flatten", "Reshape", "Identity"}
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def layer_names(g: ir.Graph) -> dict[ir.Node, str]:
    """Node -> layer. A product is a layer under its own name; quantizers belong to the first product that reads them,
    what stands alone behind a product (a ReLU, its bias) to that product. All others are called by their own name."""
    names, found = Names(), {}
    for node in g:
        if node.op_type in PRODUCTS:
            found[node] = names.unique(node.name or "layer")  # files of others may leave it out
    for node in g:
        if node in found:
            continue
        product = _product_behind(node) if is_quantizer(node) else _product_before(node)
        found[node] = found[product] if product is not None else names.unique(node.name or node.op_type.lower())
    return found


def _product_behind(node: ir.Node) -> ir.Node | None:
    seen, todo = set(), [node]
    while todo:
        for user in dict.fromkeys(todo.pop(0).outputs[0].consumers()):
            if user.op_type in PRODUCTS:
                return user
            if user not in seen:
                seen.add(user)
                todo.append(user)
    return None


def _product_before(node: ir.Node) -> ir.Node | None:
    """The product that alone leads to `node`, past its bias and what only changes shapes."""
    while (
        node.op_type in ("Relu", "Add", "Mul", "BatchNormalization", "Flatten", "Reshape", "Identity") and node.inputs
    ):
        streams = [v for v in node.inputs if v is not None and constant(v) is None and v.producer() is not None]
        if len(streams) != 1 or len(streams[0].uses()) != 1:
            return None
        node = streams[0].producer()
        if node.op_type in PRODUCTS:
            return node
    return None
