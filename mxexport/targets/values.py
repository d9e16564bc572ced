"""Constants as codes and scales: what nodes of ours quantize."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport.errors import FormatError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array, evaluate_node
from mxexport.numbers import groups, numerics
from mxexport.numbers.bits import equal_bits
from mxexport.ops import OPERATORS, GroupwiseQuant, MXFloatDequant, MXFloatQuant


@dataclass(frozen=True)
class ConstantCodes:
    """A constant tensor quantized by a node of ours: value = (elements - zero_point) * scale, bit for bit.

    `elements` float32 of the tensor's shape (whole numbers for integer elements); `scale` and `zero_point` float32,
    contracted; `value` float32, what the node computes. `exact` is False where no elements give back those bits.
    """

    elements: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    axis: int
    group_size: int
    value: np.ndarray
    exact: bool

    def transposed(self) -> ConstantCodes:
        """The same for the transposed matrix: its groups run along the other axis."""
        parts = {name: getattr(self, name) for name in ("elements", "scale", "zero_point", "value")}
        swapped = {name: None if part is None else np.ascontiguousarray(part.T) for name, part in parts.items()}
        return replace(self, **swapped, axis=1 - self.axis)


def constant_codes(node: ir.Node) -> ConstantCodes | None:
    """The codes of a weight, from any operator of ours that quantizes or dequantizes with a `scale` input.

    None where an input is computed at run time. Elements are found from the value and the scale, so operators that
    keep packed codes need no case of their own.
    """
    results = evaluate_node(node)
    if results is None:
        return None
    a, ports = graph.attributes(node), list(OPERATORS[node.op_type].inputs)
    given = dict(zip(ports, map(constant_array, node.inputs), strict=False))
    value, scale, zero = results[0], given["scale"], given.get("zero_point")
    axis = groups.normalize_axis(a["axis"], value.ndim)
    size = graph.group_size(node)
    s = groups.expand(scale, axis, size, value.shape[axis])
    z = np.float32(0) if zero is None else groups.expand(zero, axis, size, value.shape[axis])
    with np.errstate(all="ignore"):
        elements = np.where(value == 0, value, numerics.without_overflow(value) / s)
        if "exponent_bits" in a:
            elements = numerics.round_to_float(elements, **_rounding(node, a))
        else:
            elements = np.rint(elements + z)
        elements = np.where(np.isnan(s), z, elements).astype(np.float32)
        exact = bool(equal_bits(np.float32(elements - z) * s, value).all())
    return ConstantCodes(elements, scale, zero, axis, size, value, exact)


def _rounding(node: ir.Node, a: dict) -> dict:
    """The arguments of `numerics.round_to_float` that a node's attributes describe."""
    if node.op_type == MXFloatDequant.op_type():
        a = MXFloatQuant.attributes_of(MXFloatDequant.element_of(a))
    names = ("exponent_bits", "mantissa_bits", "exponent_bias", "max_val", "signed", "signed_zero")
    return {name: a[name] for name in names}


def element_of(node: ir.Node):
    """The element format of a quantizing or dequantizing node of ours, None where no format has its attributes."""
    a = graph.attributes(node)
    try:
        if node.op_type == MXFloatDequant.op_type():
            return MXFloatDequant.element_of(a)
        if "exponent_bits" in a:
            return MXFloatQuant.element_of({"signed": 1, "signed_zero": 1} | a)
        return GroupwiseQuant.element_of({"signed": 1} | a, False)
    except (FormatError, KeyError):
        return None


def format_name(node: ir.Node) -> str | None:
    """The format a node's metadata names, else the one its attributes describe."""
    if graph.FORMAT_KEY in node.metadata_props:
        return node.metadata_props[graph.FORMAT_KEY]
    try:
        return graph.quantizer_format(node).name
    except (FormatError, UnsupportedError, KeyError):
        return None
