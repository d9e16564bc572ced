"""Exact float32 fragments of function bodies, from operators that onnxruntime computes in 0.1 to 0.4 ns an element.

Where (4 to 10 ns), Gather from a table (8 to 12) and Log (2) are left to scalars and to elements of eight exponent
bits.

NaN passes Clip and Round here: their kernels keep a tensor's NaN. Only reductions to a maximum disagree about it.
"""

from __future__ import annotations

import onnx_ir as ir

from mxexport.ops import _body
from mxexport.ops._body import Body
from mxexport.ops._groups import Groups

SMALLEST_NORMAL = 2.0**-126
MOST = 2.0**103
"""Up to here `float_step` holds whatever the unit."""
_SPREAD = 2.0**23 + 1


def unit_in_first_place(b: Body, x: ir.Value, factor: ir.Value | None = None) -> ir.Value:
    """Largest power of two <= |x|, with the sign of x, times `factor`: a power of two up to 1; |x| < 2**104 / factor.

    Rump's: with q = x * (2**23 + 1) the difference q - q * (1 - 2**-24) is exactly that, as q * 2**-24 rounds to it.
    """
    spread = b.const(_SPREAD) if factor is None else b.Mul(factor, b.const(_SPREAD))
    q = b.Mul(x, spread)
    return b.Sub(q, b.Mul(q, b.const(1 - 2.0**-24)))


def group_amax(b: Body, groups: Groups, grouped: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Largest magnitude per group (contracted), and a term that is 0, or NaN for a group with NaN or Inf.

    The first may be anything where the second is NaN, because runtimes disagree on NaN in ReduceMax. A sum of
    magnitudes keeps it, and may overflow, which the quotient takes back to 0.
    """
    magnitude = b.Abs(grouped)
    amax = b.ReduceMax(magnitude, groups.inner, keepdims=0)
    total = b.ReduceSum(magnitude, groups.inner, keepdims=0)
    zero = b.const(0)
    return amax, b.Add(b.Mul(amax, zero), b.Div(zero, b.Add(total, b.const(1))))


def float_step(b: Body, v: ir.Value, unit: ir.Value, floor: ir.Value) -> ir.Value:
    """Distance of the values of a minifloat around `v`, a power of two: `unit` = 2**-mantissa_bits of the first place.

    At least `floor`, the distance of its subnormals. |v| * unit is below 2**104.
    """
    return b.Max(b.Abs(unit_in_first_place(b, v, unit)), floor)


def any_float_step(b: Body, v: ir.Value, mantissa_bits: ir.Value, bias: ir.Value) -> ir.Value:
    """The same for any finite `v` (1 for NaN), from the exponent that Log proposes."""
    magnitude = b.Where(b.IsNaN(v), b.const(1), b.Abs(v))
    exponent = _body.floor_log2(b, b.Max(magnitude, _body.pow2(b, b.Sub(b.int(1), bias))))
    return _body.pow2(b, b.Sub(exponent, mantissa_bits))
