"""A Mul by constants behind a MatMul or Conv with a quantized weight, and the weight that could take the factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.model.editing import Editor, aligned, constant_operand, sole_user
from mxexport.model.rewriting import is_op, label
from mxexport.passes.fold._weights import Weight, replace_weight, weight_of


@dataclass(frozen=True)
class Site:
    """`factor` has the rank of the weight and one value per output channel (or one in all)."""

    multiply: ir.Node
    product: ir.Node
    weight: Weight
    factor: np.ndarray


def sites(editor: Editor) -> Iterator[Site]:
    """Every place where the factor maps to the weight's output channels; declines of the others are recorded."""
    for multiply in editor.nodes():
        if multiply.graph is None or not is_op(multiply, "Mul") or constant_operand(multiply) is None:
            continue
        y, c = constant_operand(multiply)
        product = y.producer()
        if not is_op(product, "MatMul", "Conv") or (weight := weight_of(product.inputs[1])) is None:
            continue
        site = _site(multiply, product, weight, c)
        if isinstance(site, str):
            editor.declined(multiply, f"not absorbed by the weight of `{label(product)}`: {site}")
        else:
            yield site


def _site(multiply: ir.Node, product: ir.Node, weight: Weight, c: np.ndarray) -> Site | str:
    if sole_user(product.outputs[0]) is not multiply:
        return "its result without the factor is used, too"
    if sole_user(weight.node.outputs[0]) is not product:
        return f"the weight `{label(weight.node)}` is used elsewhere, too"
    if product.op_type == "Conv" and len(product.inputs) > 2 and product.inputs[2] is not None:
        return "it holds its bias; run extract_conv_bias first"
    rank = len(product.outputs[0].shape) if product.outputs[0].shape is not None else None
    if rank is None or c.ndim > rank:
        return "the shape of its result is not known, or the factor is wider"
    channel = 1 if product.op_type == "Conv" else rank - 1
    c = aligned(c, rank)
    if any(n > 1 and i != channel for i, n in enumerate(c.shape)):
        return "the factor is not one value per output channel"
    if not (c > 0).all():
        return "the factor has values that are not positive, which would change codes"
    output = 0 if product.op_type == "Conv" else len(weight.shape) - 1
    if c.size > 1 and weight.axis == output:
        return "groups run along the output channels, so a scale is shared between them"
    if c.size > 1 and c.size != weight.shape[output]:
        return "the factor is not one value per output channel"
    if reason := weight.why_not_rewritten():
        return reason
    shape = [1] * len(weight.shape)
    shape[output] = c.size
    return Site(multiply, product, weight, c.reshape(shape))


def absorb(editor: Editor, site: Site, values: np.ndarray, scale: np.ndarray) -> None:
    """Put `values` and `scale` into the weight and take the Mul out."""
    weight, product = site.weight, site.product
    made = replace_weight(editor, weight, values, [scale, *weight.parameters[1:]], suffix="scaled")
    product.replace_input_with(1, made)
    editor.take_over(site.multiply.outputs[0], product.outputs[0])
    editor.changed(f"Mul `{label(site.multiply)}` absorbed by the scale of `{label(weight.node)}`")
    editor.drop(weight.node)
    editor.drop(site.multiply)
