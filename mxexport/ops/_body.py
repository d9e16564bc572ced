"""Builds ONNX function bodies from standard operators, and the fragments several bodies share.

Bodies use operators as they are since opset 18, so one text serves every opset we offer. They need no bit views
(BitCast comes with opset 26): where an exponent is wanted, Log only proposes and exact comparisons with powers of two
correct it. NaN is kept out of anything that could drop it and put back at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

LOWEST_OPSET = 18
_POW2_MIN = -149  # the smallest float32 subnormal
Branch = Callable[["Body"], ir.Value]


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
        """Value of the function attribute `name`: a scalar (`i`: int64, `f`: float32) or int64 numbers (`ints`)."""
        if name not in self._constants:
            field, of_type = {
                "i": ("value_int", ir.AttributeType.INT),
                "f": ("value_float", ir.AttributeType.FLOAT),
                "ints": ("value_ints", ir.AttributeType.INTS),
            }[kind]
            self._constants[name] = self.op("Constant", (), {field: ir.RefAttr(field, name, of_type)})
        return self._constants[name]

    def choose(
        self, condition: ir.Value, then: Callable[[Body], ir.Value], other: Callable[[Body], ir.Value]
    ) -> ir.Value:
        """`then(branch)` where the bool scalar holds, else `other(branch)`: only one of the two is computed."""
        branches = {name: _Branch(self, name).graph(make) for name, make in (("then", then), ("else", other))}
        graphs = {f"{name}_branch": ir.AttrGraph(f"{name}_branch", graph) for name, graph in branches.items()}
        return self.op("If", (condition,), graphs)

    def function(self, domain: str, name: str, outputs: dict[str, ir.Value], attributes: list[ir.Attr]) -> ir.Function:
        for output, value in outputs.items():
            value.name = output
        graph = ir.Graph(
            list(self.inputs.values()), list(outputs.values()), nodes=self.nodes, opset_imports={"": LOWEST_OPSET}
        )
        return ir.Function(domain, name, graph=graph, attributes=attributes)


class _Branch(Body):
    """A branch of an If. Constants stand outside, where both branches and what follows find them."""

    def __init__(self, outer: Body, name: str):
        super().__init__(())
        self.outer, self.name = outer, name

    def const(self, value, dtype=np.float32) -> ir.Value:
        return self.outer.const(value, dtype)

    def attr(self, name: str, kind: str = "i") -> ir.Value:
        return self.outer.attr(name, kind)

    def graph(self, make: Branch) -> ir.Graph:
        result = make(self)
        for i, node in enumerate(self.nodes):  # a name that the function itself has would stand twice
            node.outputs[0].name = f"{self.name[:4]}{len(self.outer.nodes)}_{i}"
        return ir.Graph([], [result], nodes=self.nodes, name=self.name)


# --- groups ---------------------------------------------------------------------------------------------------


def axis_length(b: Body, x: ir.Value) -> ir.Value:
    return b.Gather(b.Shape(x), b.attr("axis"))


def expand(b: Body, contracted: ir.Value, x: ir.Value, axis: int | None = None) -> ir.Value:
    """One entry per group -> one per element of `x` along `axis`; None: the attribute of that name."""
    length = axis_length(b, x) if axis is None else b.Gather(b.Shape(x), b.int(axis))
    along = ir.RefAttr("axis", "axis", ir.AttributeType.INT) if axis is None else axis
    return b.Gather(contracted, b.Div(b.Range(b.int(0), length, b.int(1)), b.attr("group_size")), axis=along)


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


def look_up(b: Body, table: ir.Value, codes: ir.Value, bits: ir.Value) -> ir.Value:
    """table[code] for uint8 codes of `bits` bits (an int64 scalar); the table has 256 entries.

    onnxruntime's GatherElements takes 0.6 ns an element here, its Gather 8; onnx's evaluator has it up to 62 entries.
    """
    index = b.Reshape(b.Cast(codes, to=ir.DataType.INT32), b.int([-1]))

    def narrow(branch: Body) -> ir.Value:
        return branch.GatherElements(branch.Slice(table, b.int([0]), b.int([32])), index, axis=0)

    found = b.choose(b.LessOrEqual(bits, b.int(5)), narrow, lambda branch: branch.Gather(table, index))
    return b.Reshape(found, b.Shape(codes), allowzero=1)


# --- int64 ----------------------------------------------------------------------------------------------------


def int_pow2(b: Body, exponent: ir.Value, most: int = 62) -> ir.Value:
    """int64 2**exponent for exponents 0 .. most; the table is a part of every file."""
    return b.Gather(b.int(1 << np.arange(most + 1, dtype=np.int64)), exponent)


def int_floor_log2(b: Body, x: ir.Value) -> ir.Value:
    """Position of the leading one of non-negative int64 (0 for 0), by binary search."""
    rest, position = x, b.int(0)
    for step in (32, 16, 8, 4, 2, 1):
        high = b.GreaterOrEqual(rest, b.int(1 << step))
        rest = b.Where(high, b.Div(rest, b.int(1 << step)), rest)
        position = b.Add(position, b.Where(high, b.int(step), b.int(0)))
    return position


def int_sum(b: Body, x: ir.Value) -> ir.Value:
    """Exact sum of int64 over the last axis: a product with ones, because onnxruntime's int64 ReduceSum (ReduceMean,
    ReduceSumSquare, Pow) computes in float64 and is wrong from 2**53 on."""
    length = b.Slice(b.Shape(x), b.int([-1]), b.int([2**31 - 1]))
    ones = b.Expand(b.int(1), length)
    return b.MatMul(x, ones)


def int_half_up(b: Body, x: ir.Value, shift: ir.Value) -> ir.Value:
    """x / 2**shift to nearest, ties up, for int64 |x| < 2**60 and shifts 0 .. 60. Div truncates, so it is given what is
    not negative."""
    origin, unit = b.int(1 << 61), int_pow2(b, shift)
    moved = b.Add(b.Add(x, b.Div(unit, b.int(2))), origin)
    return b.Sub(b.Div(moved, unit), b.Div(origin, unit))


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


def taps(b: Body, x: ir.Value, fill: ir.Value, dilated: bool = True) -> ir.Value:
    """[N, H, W, C] -> [N, OH, OW, kernel h * kernel w, C]: what every output pixel reads, `fill` outside the frame.

    By the function's attributes kernel_shape, strides, pads and dilations.
    """
    zero, pads = b.int([0]), b.attr("pads", "ints")
    top_left, bottom_right = b.Slice(pads, b.int([0]), b.int([2])), b.Slice(pads, b.int([2]), b.int([4]))
    padded = b.Pad(x, b.Concat(zero, top_left, zero, zero, bottom_right, zero, axis=0), fill)
    shape = b.Shape(padded)
    found, lengths = padded, []
    for axis in (0, 1):
        size = b.Gather(shape, b.int(axis + 1))
        kernel, stride = (b.Gather(b.attr(name, "ints"), b.int(axis)) for name in ("kernel_shape", "strides"))
        dilation = b.Gather(b.attr("dilations", "ints"), b.int(axis)) if dilated else b.int(1)
        span = b.Add(b.Mul(b.Sub(kernel, b.int(1)), dilation), b.int(1))
        count = b.Add(b.Div(b.Sub(size, span), stride), b.int(1))
        starts = b.Mul(b.Range(b.int(0), count, b.int(1)), stride)
        steps = b.Mul(b.Range(b.int(0), kernel, b.int(1)), dilation)
        places = b.Add(b.Unsqueeze(starts, b.int([1])), b.Unsqueeze(steps, b.int([0])))
        found = b.Gather(found, b.Reshape(places, b.int([-1])), axis=axis + 1)
        lengths += [b.Reshape(count, b.int([1])), b.Reshape(kernel, b.int([1]))]
    first, last = b.Gather(shape, b.int([0])), b.Gather(shape, b.int([3]))
    split = b.Reshape(found, b.Concat(first, *lengths, last, axis=0), allowzero=1)
    ordered = b.Transpose(split, perm=[0, 1, 3, 2, 4, 5])
    count = b.Mul(lengths[1], lengths[3])
    return b.Reshape(ordered, b.Concat(first, lengths[0], lengths[2], count, last, axis=0), allowzero=1)


def int_floor_divide(b: Body, x: ir.Value, divisor: ir.Value) -> ir.Value:
    """floor(x / divisor) for int64 x and a divisor above 0; Div alone truncates towards zero."""
    quotient = b.Div(x, divisor)
    below = b.Less(b.Sub(x, b.Mul(quotient, divisor)), b.int(0))
    return b.Sub(quotient, b.Cast(below, to=ir.DataType.INT64))


def int_divide(b: Body, x: ir.Value, divisor: ir.Value) -> ir.Value:
    """x / divisor for int64 x and a divisor above 0, to nearest, ties to even."""
    magnitude = b.Abs(x)
    quotient = b.Div(magnitude, divisor)
    rest = b.Mul(b.Sub(magnitude, b.Mul(quotient, divisor)), b.int(2))
    odd = b.Equal(b.Mod(quotient, b.int(2)), b.int(1))
    up = b.Or(b.Greater(rest, divisor), b.And(b.Equal(rest, divisor), odd))
    rounded = b.Add(quotient, b.Cast(up, to=ir.DataType.INT64))
    return b.Where(b.Less(x, b.int(0)), b.Neg(rounded), rounded)
