"""Quantized weights as passes see them: a quantizer of ours whose input and parameters are all constants, or packed
codes. Packed weights are unpacked to be rewritten, and packed again when the pass is done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import Editor
from mxexport.model.rewriting import constant, is_constant, label
from mxexport.numbers.bits import equal_bits
from mxexport.ops import DOMAIN, OPERATORS, GroupwiseQuant, MXFloatDequant, MXFloatQuant
from mxexport.passes.fold.fold_weights import pack

MAKERS = graph.QUANTIZERS | graph.DEQUANTIZERS


@dataclass(frozen=True)
class Weight:
    """`op_type` and `attributes` are those of the quantizer, for packed codes of one that gives the same values.

    Arrays are read when they are asked for; those of packed codes only while `node` is in the graph.
    """

    node: ir.Node
    op_type: str
    attributes: dict
    shape: tuple[int, ...]
    inputs: tuple[ir.Value, ...]

    @property
    def axis(self) -> int:
        return self.attributes["axis"] % len(self.shape)

    @property
    def packed(self) -> bool:
        return self.node.op_type in graph.DEQUANTIZERS

    @cached_property
    def values(self) -> np.ndarray:
        return constant_array(self.node.outputs[0]) if self.packed else constant(self.inputs[0])

    @cached_property
    def parameters(self) -> list[np.ndarray]:
        """Contracted scale, then the zero point where there is one."""
        return [constant_array(v) for v in self.inputs[1:]]

    def quantized(self) -> np.ndarray:
        return self.values if self.packed else self.requantized(self.values, self.parameters)

    def requantized(self, values: np.ndarray, parameters: list[np.ndarray]) -> np.ndarray:
        return OPERATORS[self.op_type].reference(values, *parameters, **self.attributes)[0]

    def why_not_rewritten(self) -> str | None:
        """Codes beyond those a quantizer makes (Inf, NaN) cannot go through one."""
        if self.packed and not equal_bits(self.requantized(self.values, self.parameters), self.values).all():
            return f"`{label(self.node)}` holds codes that no quantizer makes"
        if self.packed and np.isinf(self.values).any():
            return f"`{label(self.node)}` holds values beyond float32, from which its codes cannot be found again"
        return None


def weight_of(value: ir.Value | None) -> Weight | None:
    """The quantized weight behind `value`, or None."""
    node = None if value is None else value.producer()
    if not graph.is_ours(node, MAKERS):
        return None
    if node.op_type in graph.DEQUANTIZERS:
        known = constant(node.inputs[0]) is not None and all(map(_is_stored, node.inputs[1:]))
        return _packed(node) if known else None
    if any(v is not None and not is_constant(v) for v in node.inputs):
        return None
    return Weight(node, node.op_type, graph.attributes(node), tuple(node.inputs[0].const_value.shape), _inputs(node))


def _inputs(node: ir.Node) -> tuple[ir.Value, ...]:
    return tuple(v for v in node.inputs if v is not None)


def _is_stored(value: ir.Value | None) -> bool:
    """A constant, or one byte per group of a constant."""
    producer = None if value is None else value.producer()
    stored = graph.is_ours(producer, graph.STORED_SCALES) and all(map(is_constant, producer.inputs))
    return value is None or stored or is_constant(value)


def _packed(node: ir.Node) -> Weight:
    a = graph.attributes(node)
    if node.op_type == "MXFloatDequant":
        op, described = MXFloatQuant, MXFloatQuant.attributes_of(MXFloatDequant.element_of(a))
    else:
        op, described = GroupwiseQuant, {"bit_width": a["bit_width"], "signed": a["signed"], "narrow": 0}
    described |= {"axis": a["axis"], "group_size": graph.group_size(node)}
    return Weight(node, op.op_type(), described, tuple(a["shape"]), _inputs(node))


def replace_weight(
    editor: Editor, weight: Weight, values: np.ndarray, parameters: list[np.ndarray], suffix: str, **attributes
) -> ir.Value:
    """The output of a new quantizer with these arrays, standing before the old one; users are not touched.

    The node keeps its name; the tensor, which has other values, gets one with `suffix`.
    """
    old = weight.node
    names, name = [v.name for v in old.inputs if v is not None], label(old)
    if weight.packed:
        names[0], name = names[0].removesuffix("_codes"), f"{name.removesuffix('_dequant')}_quant"
    inputs = [editor.constant(n, a) for n, a in zip(names, (values, *parameters), strict=True)]
    made = editor.node(
        weight.op_type, inputs, weight.attributes | attributes, name=name,
        output=f"{old.outputs[0].name}_{suffix}", like=old.outputs[0],
        shape=values.shape, domain=DOMAIN, before=old,
    )  # fmt: skip
    copy_description(old, made.producer())
    if weight.packed:
        editor.later(pack, (made.producer(), _tensor_scale(old)))
    return made


def _tensor_scale(node: ir.Node) -> np.ndarray | None:
    """The upper level of an NVFP4 scale."""
    producer = node.inputs[1].producer()
    return constant(producer.inputs[1]) if graph.is_ours(producer, {"NVFP4ScaleDequant"}) else None


def copy_description(old: ir.Node, new: ir.Node) -> None:
    """Format name and text of a quantizer; the text names the axis."""
    new.metadata_props.update(old.metadata_props)
    if old.doc_string:
        before, after = (f"along axis {n.attributes['axis'].value}:" for n in (old, new))
        new.doc_string = old.doc_string.replace(before, after)
