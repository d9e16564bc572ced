"""Builds ONNX function bodies from standard operators, and the fragments several bodies share.

Bodies use operators as they are since opset 18, so one text serves every opset we offer. They need no bit views
(BitCast comes with opset 26): where an exponent is wanted, Log only proposes and exact comparisons with powers of two
correct it. NaN is kept out of anything that could drop it and put back at the end.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

LOWEST_OPSET = 18
_POW2_MIN = -149  # the smallest float32 subnormal


class Body(Tape):
    """`b.Add(x, y)` appends an Add node; `b.attr("axis")` is the value of the function's own attribute."""

    def __init__(self, inputs: tuple[str, ...]):
        super().__init__()
        self.inputs = {name: ir.Value(name=name) for name in inputs}
        self._constants: dict[object, ir.Value] = {}

    def __getattr__(self, op_type: str):
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.op(op_type, inputs, attributes)

    def const(self, value, dtype=np.float32) -> ir.Value:
        """A constant tensor, made once."""
        array = np.asarray(value, dtype)
        key = (array.tobytes(), array.shape, array.dtype.str)
        if key not in self._constants:
            self._constants[key] = self.op("Constant", (), {"value": ir.tensor(array)})
        return self._constants[key]

    def int(self, value) -> ir.Value:
        return self.const(value, np.int64)

    def attr(self, name: str, kind: str = "i") -> ir.Value:
        """Scalar value of the function attribute `name` (`i`: int64, `f`: float32)."""
        if name not in self._constants:
            field, of_type = {
                "i": ("value_int", ir.AttributeType.INT),
                "f": ("value_float", ir.AttributeType.FLOAT),
            }[kind]
            self._constants[name] = self.op("Constant", (), {field: ir.RefAttr(field, name, of_type)})
        return self._constants[name]

    def function(self, domain: str, name: str, outputs: dict[str, ir.Value], attributes: list[ir.Attr]) -> ir.Function:
        for output, value in outputs.items():
            value.name = output
        graph = ir.Graph(
            list(self.inputs.values()), list(outputs.values()), nodes=self.nodes, opset_imports={"": LOWEST_OPSET}
        )
        return ir.Function(domain, name, graph=graph, attributes=attributes)


# --- groups ---------------------------------------------------------------------------------------------------


def axis_from_front(b: Body, x: ir.Value) -> ir.Value:
    """The `axis` attribute, counted from the front, as a tensor of one element."""
    rank = b.Size(b.Shape(x))
    return b.Reshape(b.Mod(b.Add(b.attr("axis"), rank), rank), b.int([1]))


def axis_length(b: Body, x: ir.Value) -> ir.Value:
    return b.Gather(b.Shape(x), b.attr("axis"))


def expand(b: Body, contracted: ir.Value, x: ir.Value) -> ir.Value:
    """One entry per group -> one per element of `x` along `axis`."""
    positions = b.Range(b.int(0), axis_length(b, x), b.int(1))
    axis = ir.RefAttr("axis", "axis", ir.AttributeType.INT)
    return b.Gather(contracted, b.Div(positions, b.attr("group_size")), axis=axis)


def split_groups(b: Body, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(..., K, ...) -> zero-padded (..., n, G, ...), and the axis of G as a tensor of one element."""
    axis, size = axis_from_front(b, x), b.Reshape(b.attr("group_size"), b.int([1]))
    inner = b.Add(axis, b.int([1]))
    length = b.Gather(b.Shape(x), axis)
    count = b.Div(b.Add(length, b.Sub(size, b.int([1]))), size)
    pads = b.Concat(b.int([0]), b.Sub(b.Mul(count, size), length), axis=0)
    padded = b.Pad(x, pads, None, axis)
    shape = b.Shape(x)
    before, after = b.Slice(shape, b.int([0]), axis), b.Slice(shape, inner, b.int([2**31 - 1]))
    return b.Reshape(padded, b.Concat(before, count, size, after, axis=0), allowzero=1), inner


# --- float32 --------------------------------------------------------------------------------------------------


def pow2(b: Body, exponent: ir.Value) -> ir.Value:
    """Exact float32 2**exponent for int64 exponents -149 .. 127."""
    table = b.const(np.ldexp(np.float32(1), np.arange(_POW2_MIN, 128)).astype(np.float32))
    return b.Gather(table, b.Sub(exponent, b.int(_POW2_MIN)))


def floor_log2(b: Body, x: ir.Value) -> ir.Value:
    """Exact int64 floor(log2(x)) for finite float32 x >= 2**-126."""
    estimate = b.Floor(b.Mul(b.Log(x), b.const(1 / np.log(2))))
    guess = b.Cast(b.Clip(estimate, b.const(-126), b.const(127)), to=ir.DataType.INT64)
    power = pow2(b, guess)
    too_high = b.Cast(b.Greater(power, x), to=ir.DataType.INT64)
    too_low = b.Cast(b.GreaterOrEqual(b.Mul(x, b.const(0.5)), power), to=ir.DataType.INT64)
    return b.Add(b.Sub(guess, too_high), too_low)


def divide(b: Body, x: ir.Value, scale: ir.Value) -> ir.Value:
    """x / scale with zeros kept, so that a scale flushed to zero does not make them NaN."""
    return b.Where(b.Equal(x, b.const(0)), x, b.Div(x, scale))


def group_amax(b: Body, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Largest finite magnitude per group, and whether the group holds a NaN or Inf (contracted).

    Runtimes disagree on NaN in ReduceMax, so non-finite values are counted apart.
    """
    grouped, inner = split_groups(b, b.Abs(x))
    odd = b.Or(b.IsNaN(grouped), b.IsInf(grouped))
    amax = b.ReduceMax(b.Where(odd, b.const(0), grouped), inner, keepdims=0)
    any_odd = b.ReduceMax(b.Cast(odd, to=ir.DataType.FLOAT), inner, keepdims=0)
    return amax, b.Greater(any_odd, b.const(0))


# --- int64 ----------------------------------------------------------------------------------------------------


def int_pow2(b: Body, exponent: ir.Value) -> ir.Value:
    """int64 2**exponent for exponents 0 .. 62."""
    return b.Gather(b.int(1 << np.arange(63, dtype=np.int64)), exponent)


def int_floor_log2(b: Body, x: ir.Value) -> ir.Value:
    """Position of the leading one of non-negative int64 (0 for 0), by binary search."""
    rest, position = x, b.int(0)
    for step in (32, 16, 8, 4, 2, 1):
        high = b.GreaterOrEqual(rest, b.int(1 << step))
        rest = b.Where(high, b.Div(rest, b.int(1 << step)), rest)
        position = b.Add(position, b.Where(high, b.int(step), b.int(0)))
    return position


def int_clip(b: Body, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    return b.Min(b.Max(x, low), high)


def linearize(b: Body, codes: ir.Value, exponent_bits: ir.Value, mantissa_bits: ir.Value) -> ir.Value:
    """Element codes (uint8) -> int64 multiples of the smallest element step; exponent_bits 0 means integer."""
    zero, one = b.int(0), b.int(1)
    code = b.Cast(codes, to=ir.DataType.INT64)
    is_int = b.Equal(exponent_bits, zero)
    magnitude_bits = b.Add(b.Add(exponent_bits, mantissa_bits), b.Cast(is_int, to=ir.DataType.INT64))
    half = int_pow2(b, magnitude_bits)
    negative = b.GreaterOrEqual(code, half)
    magnitude = b.Where(negative, b.Sub(code, half), code)
    hidden = int_pow2(b, mantissa_bits)
    field = b.Div(magnitude, hidden)
    significand = b.Add(b.Sub(magnitude, b.Mul(field, hidden)), b.Where(b.Greater(field, zero), hidden, zero))
    value = b.Mul(significand, int_pow2(b, b.Max(b.Sub(field, one), zero)))
    as_float = b.Where(negative, b.Neg(value), value)
    as_int = b.Where(negative, b.Sub(magnitude, half), magnitude)
    return b.Where(is_int, as_int, as_float)
