"""Packed codes (uint8, see `numbers.packing`) to values inside a function body.

The places of codes in bytes repeat with every word of `bits` bytes, which holds eight codes. Bytes of one place in
their words lie in one row here, so that rows are gathered and shifted, not single bytes. As many steps as can be work
on bytes: a runtime that folds constants when it loads a file keeps every intermediate tensor.
"""

from __future__ import annotations

import onnx_ir as ir

from mxexport.ops import _body
from mxexport.ops._body import Body
from mxexport.ops._groups import Groups


class PackedCodes:
    """The input `codes` of a body: groups of the attribute `group_size`, each from a byte on.

    Shapes here are [outer, n, bytes or codes, inner], the lengths before and after the axis multiplied.
    """

    def __init__(self, b: Body, groups: Groups, bits: ir.Value):
        one = b.int([1])
        self.b, self.groups, self.bits = b, groups, b.Reshape(bits, one)
        self.outer, self.inner = (b.ReduceProd(b.Concat(one, part, axis=0)) for part in (groups.before, groups.after))
        self.blocks = b.Mul(self.outer, groups.count)

    def unpack(self) -> ir.Value:
        """uint8 codes (..., n, G, ...)."""
        b, groups, bits = self.b, self.groups, self.bits
        stored, used = (_ceil_div(b, b.Mul(size, bits), b.int(8)) for size in (b.attr("group_size"), groups.size))
        packed = b.Reshape(b.inputs["codes"], b.Concat(self.blocks, stored, self.inner, axis=0), allowzero=1)
        packed = b.Slice(packed, b.int([0]), used, b.int([1]))
        whole_bytes = b.Squeeze(b.Equal(bits, b.int([8])))
        codes = b.choose(
            whole_bytes, lambda branch: branch.Identity(packed), lambda branch: self._unpack_words(branch, packed, used)
        )
        codes = b.Slice(codes, b.int([0]), groups.size, b.int([1]))
        shape = b.Concat(groups.before, groups.count, groups.size, groups.after, axis=0)
        return b.Reshape(codes, shape, allowzero=1)

    def _unpack_words(self, b: Body, packed: ir.Value, used: ir.Value) -> ir.Value:
        words = _ceil_div(b, used, self.bits)
        padding = b.Sub(b.Mul(words, self.bits), used)
        padded = b.Pad(packed, b.Concat(b.int([0]), padding, axis=0), None, b.int([1]))
        split = b.Concat(self.blocks, words, self.bits, self.inner, axis=0)
        rows = b.Transpose(b.Reshape(padded, split, allowzero=1), perm=[2, 0, 1, 3])
        rows = _codes_of_bytes(b, b.Reshape(rows, b.Concat(self.bits, b.int([-1]), axis=0)), self.bits)
        rows = b.Reshape(rows, b.Concat(b.int([8]), self.blocks, words, self.inner, axis=0), allowzero=1)
        joined = b.Concat(self.blocks, b.Mul(words, b.int(8)), self.inner, axis=0)
        return b.Reshape(b.Transpose(rows, perm=[1, 2, 0, 3]), joined, allowzero=1)


def _codes_of_bytes(b: Body, rows: ir.Value, bits: ir.Value) -> ir.Value:
    """[bits, words] -> [8, words]: a code lies in one byte or in two neighbours, lowest bits first."""
    eight = b.int(8)
    bit = b.Mul(b.Range(b.int(0), eight, b.int(1)), bits)
    first = b.Div(bit, eight)
    shift = b.Mod(bit, eight)
    # Without a second byte the first serves again: what it adds is masked, or (shift 0) the first byte itself.
    second = b.Add(first, b.Cast(b.Greater(b.Add(shift, bits), eight), to=ir.DataType.INT64))
    low = b.BitShift(b.Gather(rows, first, axis=0), _column(b, shift), direction="RIGHT")
    left = _column(b, b.Mod(b.Sub(eight, shift), eight))
    high = b.BitShift(b.Gather(rows, second, axis=0), left, direction="LEFT")
    mask = b.Cast(b.Sub(_body.int_pow2(b, bits, 8), b.int(1)), to=ir.DataType.UINT8)
    return b.BitwiseAnd(b.BitwiseOr(low, high), mask)


def _column(b: Body, numbers: ir.Value) -> ir.Value:
    """[8] int64 -> [8, 1] uint8."""
    return b.Unsqueeze(b.Cast(numbers, to=ir.DataType.UINT8), b.int([1]))


def _ceil_div(b: Body, x: ir.Value, divisor: ir.Value) -> ir.Value:
    return b.Div(b.Add(x, b.Sub(divisor, b.int(1))), divisor)
