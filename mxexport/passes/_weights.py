"""Quantized weights as passes see them: a quantizer of ours whose input and parameters are all constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import graph
from mxexport.ops import DOMAIN, OPERATORS
from mxexport.passes._editing import Editor, constant
from mxexport.passes.rewriting import label


@dataclass(frozen=True)
class Weight:
    """`parameters`: contracted scale, then the zero point where there is one."""

    node: ir.Node
    values: np.ndarray
    parameters: list[np.ndarray]
    attributes: dict

    @property
    def axis(self) -> int:
        return self.attributes["axis"] % self.values.ndim

    def quantized(self) -> np.ndarray:
        return OPERATORS[self.node.op_type].reference(self.values, *self.parameters, **self.attributes)[0]


def weight_of(value: ir.Value | None) -> Weight | None:
    """The quantized weight behind `value`, or None."""
    node = None if value is None else value.producer()
    if not graph.is_ours(node, graph.QUANTIZERS):
        return None
    arrays = [constant(v) for v in node.inputs if v is not None]
    if any(a is None for a in arrays):
        return None
    return Weight(node, arrays[0], arrays[1:], graph.attributes(node))


def replace_weight(
    editor: Editor, weight: Weight, values: np.ndarray, parameters: list[np.ndarray], suffix: str, **attributes
) -> ir.Value:
    """The output of a new quantizer with these arrays, standing before the old one; users are not touched.

    The node keeps its name; the tensor, which has other values, gets one with `suffix`.
    """
    old = weight.node
    names = [v.name for v in old.inputs if v is not None]
    inputs = [editor.constant(n, a) for n, a in zip(names, (values, *parameters), strict=True)]
    made = editor.node(
        old.op_type, inputs, weight.attributes | attributes, name=label(old),
        output=f"{old.outputs[0].name}_{suffix}", like=old.outputs[0],
        shape=values.shape, domain=DOMAIN, before=old,
    )  # fmt: skip
    copy_description(old, made.producer())
    return made


def copy_description(old: ir.Node, new: ir.Node) -> None:
    """Format name and text of a quantizer; the text names the axis."""
    new.metadata_props.update(old.metadata_props)
    if old.doc_string:
        before, after = (f"along axis {n.attributes['axis'].value}:" for n in (old, new))
        new.doc_string = old.doc_string.replace(before, after)
