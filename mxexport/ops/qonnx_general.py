"""Quantizers without groups: the standard QONNX operators `Quant`, `FloatQuant` and `BipolarQuant`.

They keep QONNX's own domain and are executed by qonnx itself. What is added here is what makes a file with them run
everywhere else: schemas with shape inference, and function bodies in standard ONNX operators. Needs no torch.

An operator has one body per file. Where its nodes round alike the body rounds that way; where they do not, it picks
by the node's own `rounding_mode`, which takes comparing strings (opset 19).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import defs

from mxexport.errors import UnsupportedError
from mxexport.ops import _body

DOMAIN = "qonnx.custom_op.general"
VERSION = 2  # as Brevitas writes it; QONNX resolves these operators to the same classes as version 1

_INPUTS = {
    "Quant": ("x", "scale", "zero_point", "bit_width"),
    "FloatQuant": ("x", "scale", "exponent_bit_width", "mantissa_bit_width", "exponent_bias", "max_val"),
    "BipolarQuant": ("x", "scale"),
}
ATTRIBUTES = {
    "Quant": {"signed": "i", "narrow": "i", "rounding_mode": "s"},
    "FloatQuant": {
        "has_inf": "i", "has_nan": "i", "has_subnormal": "i", "saturation": "i", "rounding_mode": "s",
    },
    "BipolarQuant": {},
}  # fmt: skip
OPERATORS = tuple(_INPUTS)
FORMER_DOMAINS = ("onnx.brevitas", "finn.custom_op.general")
"""What the domain was called in files of former years."""
LOWEST_OPSET = 13
"""The bodies use operators as they are since then."""

# --- rounding -------------------------------------------------------------------------------------------------

_ROUND = {
    "ROUND": lambda b, v: b.Round(v),
    "CEIL": lambda b, v: b.Ceil(v),
    "FLOOR": lambda b, v: b.Floor(v),
    "UP": lambda b, v: b.Mul(b.Sign(v), b.Ceil(b.Abs(v))),
    "DOWN": lambda b, v: b.Mul(b.Sign(v), b.Floor(b.Abs(v))),
    "HALF_UP": lambda b, v: b.Mul(b.Sign(v), b.Floor(b.Add(b.Abs(v), b.const(0.5)))),
    "HALF_DOWN": lambda b, v: b.Mul(b.Sign(v), b.Ceil(b.Sub(b.Abs(v), b.const(0.5)))),
}
_SAME = {"HALF_EVEN": "ROUND"}
_MIRRORED = {"CEIL": "FLOOR", "FLOOR": "CEIL"}
"""What a mode does to the magnitude of a negative number, where that is something else."""


def rounding_mode(given: str | bytes, node: str) -> str:
    """The rounding mode of a quantizer by the one name we have for it; QONNX takes any case.

    Raises:
        UnsupportedError: a mode that qonnx has not, naming `node`.
    """
    given = given.decode(errors="replace") if isinstance(given, bytes) else given
    mode = _SAME.get(given.upper(), given.upper())
    if mode not in _ROUND:
        expected = ", ".join([*_ROUND, *_SAME])
        found = f"node {node!r}: rounding mode {given!r}, expected one of {expected} in any case"
        raise UnsupportedError(f"{found}; export the quantizer with one that qonnx has")
    return mode


def rounding_mode_of(node: ir.Node) -> str:
    """The same of a node; qonnx rounds half to even where none is given. Raises UnsupportedError."""
    given = node.attributes.get("rounding_mode")
    return rounding_mode("ROUND" if given is None else given.value, node.name or node.op_type)


# --- schemas --------------------------------------------------------------------------------------------------


def _infer(ctx) -> None:
    """The output has the type and shape of the first input, where they are known."""
    found = ctx.get_input_type(0)
    if found is not None:
        ctx.set_output_type(0, found)


def _schema(op_type: str) -> defs.OpSchema:
    kinds = {"i": defs.OpSchema.AttrType.INT, "s": defs.OpSchema.AttrType.STRING}
    schema = defs.OpSchema(
        op_type,
        DOMAIN,
        1,
        f"{op_type} of the QONNX standard.",
        inputs=[defs.OpSchema.FormalParameter(name, "tensor(float)", "") for name in _INPUTS[op_type]],
        outputs=[defs.OpSchema.FormalParameter("y", "tensor(float)", "")],
        attributes=[
            defs.OpSchema.Attribute(name, kinds[kind], "", required=False) for name, kind in ATTRIBUTES[op_type].items()
        ],
    )
    schema.set_type_and_shape_inference_function(_infer)
    return schema


for _op_type in OPERATORS:
    if not defs.has(_op_type, DOMAIN):
        defs.register_schema(_schema(_op_type))


# --- function bodies ------------------------------------------------------------------------------------------


def functions_for(nodes: Iterable[onnx.NodeProto], opset: int) -> list[onnx.FunctionProto]:
    """Function bodies of the operators of this domain that `nodes` use, for a model of `opset`.

    Raises:
        UnsupportedError: a rounding mode nobody knows, or nodes of one operator that round differently below opset 19.
    """
    used: dict[str, dict[str, str]] = {}
    for node in nodes:
        if node.domain == DOMAIN and node.op_type in _INPUTS:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            given = attributes.get("rounding_mode", b"ROUND")
            rounding_mode(given, node.name or node.op_type)
            used.setdefault(node.op_type, {})[given.decode()] = node.name
    functions = []
    for op_type, spellings in used.items():
        modes = {spelling: rounding_mode(spelling, name) for spelling, name in spellings.items()}
        if len(set(modes.values())) > 1 and opset < 19:
            raise UnsupportedError(
                f"{op_type} nodes that round differently need opset 19 or higher; this is opset {opset}",
                [(name, f"rounding mode {spelling}") for spelling, name in spellings.items()],
            )
        functions.append(_function(op_type, modes, opset))
    return functions


def _function(op_type: str, modes: dict[str, str], opset: int) -> onnx.FunctionProto:
    b = _body.Body(_INPUTS[op_type])
    y = {"Quant": _quant, "FloatQuant": _float_quant, "BipolarQuant": _bipolar_quant}[op_type](b, modes)
    types = {"i": ir.AttributeType.INT, "s": ir.AttributeType.STRING}
    declared = [ir.Attr(name, types[kind], None) for name, kind in ATTRIBUTES[op_type].items()]
    proto = ir.serde.serialize_function(b.function(DOMAIN, op_type, {"y": y}, declared))
    proto.opset_import[0].version = opset
    return proto


def _choose(b, make, modes: dict[str, str]):
    """`make(mode)` for the mode of the node. `modes`: how the nodes spell it -> the mode."""
    kinds = list(dict.fromkeys(modes.values()))
    made = [make(mode) for mode in kinds]
    if len(made) == 1:
        return made[0]
    wanted = b.op(
        "Constant", (), {"value_string": ir.RefAttr("value_string", "rounding_mode", ir.AttributeType.STRING)}
    )
    # In one tensor, because onnx's evaluator compares no strings of different types, and a longer one has another type.
    known = b.op("Constant", (), {"value_strings": list(modes)})
    together = b.Concat(b.Unsqueeze(wanted, b.int([0])), known, axis=0)
    equal = b.Equal(b.Gather(together, b.int([0])), b.Gather(together, b.int(range(1, len(modes) + 1))))
    chosen = b.Mul(b.Cast(equal, to=ir.DataType.INT64), b.int([kinds.index(mode) for mode in modes.values()]))
    index = b.ReduceMax(chosen, keepdims=0)
    # Gather, not Where: Where adds its two sides in onnxruntime, which loses the sign of zero.
    return b.Gather(b.Concat(*[b.Unsqueeze(r, b.int([0])) for r in made], axis=0), index, axis=0)


def _quant(b, modes):
    """(round(clip(x / scale + zero_point)) - zero_point) * scale. NaN stays, and -0 where a negative rounds to it.

    One signed bit is bipolar, as in qonnx: 1 where x / scale + zero_point >= 0, else (NaN, too) -1.
    """
    one, nothing = b.const(1), b.const(0)
    scale, zero = b.inputs["scale"], b.inputs["zero_point"]
    signed, narrow = (b.Cast(b.attr(name), to=ir.DataType.FLOAT) for name in ("signed", "narrow"))
    codes = _body.pow2(b, b.Cast(b.inputs["bit_width"], to=ir.DataType.INT64))
    half = b.Mul(codes, b.const(0.5))
    is_signed = b.Greater(signed, nothing)
    low = b.Where(is_signed, b.Sub(narrow, half), nothing)
    high = b.Where(is_signed, b.Sub(half, one), b.Sub(b.Sub(codes, one), narrow))
    v = b.Div(b.inputs["x"], scale)
    # -0 + zero_point is +0, but onnxruntime drops the addition when it knows that zero_point is 0.
    v = b.Add(b.Where(b.Equal(v, nothing), nothing, v), zero)
    clipped = b.Max(b.Min(v, high), low)
    bipolar = b.Where(b.GreaterOrEqual(v, nothing), one, b.const(-1))
    clipped = b.Where(b.And(is_signed, b.Equal(half, one)), bipolar, clipped)
    return b.Mul(b.Sub(_choose(b, lambda mode: _ROUND[mode](b, clipped), modes), zero), scale)


def _float_quant(b, modes):
    """round(x / scale) * scale on a minifloat's grid, saturating at max_val, subnormals kept; an Inf becomes NaN."""
    x, zero, scale = b.inputs["x"], b.const(0), b.inputs["scale"]
    mantissa, bias = (b.Cast(b.inputs[n], to=ir.DataType.INT64) for n in ("mantissa_bit_width", "exponent_bias"))
    negative = b.Or(b.Less(x, zero), b.Less(b.Reciprocal(x), zero))
    v = b.Div(b.Abs(x), scale)
    largest = b.inputs["max_val"]
    saturated = b.Where(b.Less(v, largest), v, largest)
    exponent = _body.floor_log2(b, b.Max(saturated, _body.pow2(b, b.Sub(b.int(1), bias))))
    step = _body.pow2(b, b.Sub(exponent, mantissa))
    steps = b.Div(saturated, step)
    rounded = b.Mul(_choose(b, lambda mode: _round_magnitude(b, steps, negative, mode), modes), step)
    signed_scale = b.Where(negative, b.Neg(scale), scale)
    return b.Mul(b.Where(b.Or(b.IsNaN(v), b.IsInf(v)), b.const(np.nan), rounded), signed_scale)


def _round_magnitude(b, v, negative, mode: str):
    rounded = _ROUND[mode](b, v)
    return b.Where(negative, _ROUND[_MIRRORED[mode]](b, v), rounded) if mode in _MIRRORED else rounded


def _bipolar_quant(b, modes):
    """scale where x >= 0, else -scale."""
    positive = b.GreaterOrEqual(b.inputs["x"], b.const(0))
    return b.Mul(b.Where(positive, b.const(1), b.const(-1)), b.inputs["scale"])
