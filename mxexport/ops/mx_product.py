from __future__ import annotations

import numpy as np
from qonnx.core.datatype import DataType

from mxexport.errors import ShapeError
from mxexport.numbers import fixedpoint, groups
from mxexport.ops import _body
from mxexport.ops._attributes import GROUP_SIZE, LSB_EXP, WIDTH, Attribute
from mxexport.ops._operator import Operator, Port, check_code_bits, check_shape


class MXProduct(Operator):
    """Dataflow unit: exact product of two dynamic MX operands over the last axis, accumulated in fixed point.

    Y[n, t, h, r] = sum over blocks of (integer dot product of A[n, t, h] and B[n, r, g] << (A_scale + B_scale -
    scale_offset)), where g = h // (H / G): heads of A share those of B (G < H: grouped-query attention). Without the
    axes H and G there is one head. All integer: the result does not depend on order or folding. Y stands for
    Y * 2**lsb_exp.
    """

    role = "dataflow"
    attributes = {
        "group_size": GROUP_SIZE.called("Group"),
        "a_exponent_bits": Attribute("i", "exponent bits of an element of A; 0: integer", 0, 7, "AExpBits"),
        "a_mantissa_bits": Attribute("i", "mantissa (or fraction) bits of an element of A", 0, 7, "AManBits"),
        "b_exponent_bits": Attribute("i", "exponent bits of an element of B; 0: integer", 0, 7, "BExpBits"),
        "b_mantissa_bits": Attribute("i", "mantissa (or fraction) bits of an element of B", 0, 7, "BManBits"),
        "scale_offset": Attribute("i", "smallest sum of the two scale codes (shift 0)", 0, 508, "ScaleOffset"),
        "width": WIDTH.called("AccWidth"),
        "lsb_exp": LSB_EXP,
    }
    inputs = {
        "A_codes": Port("uint8", "element bit patterns of A [N, T, H, K], or [N, T, K]"),
        "A_scale": Port("uint8", "E8M0 codes of A [N, T, H, n]"),
        "B_codes": Port("uint8", "element bit patterns of B [N, R, G, K], or [N, R, K]"),
        "B_scale": Port("uint8", "E8M0 codes of B [N, R, G, n]"),
    }
    outputs = {"Y": Port("int64", "wide integers [N, T, H, R], or [N, T, R]")}

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        for side in "ab":
            check_code_bits(cls.op_type(), attributes[f"{side}_exponent_bits"], attributes[f"{side}_mantissa_bits"])
        a = given["A_codes"]
        b = given.get("B_codes", (None,) * len(a))
        check_shape(cls.op_type(), "A_codes", a, (None,) * min(max(len(a), 3), 4))
        between = (None,) * (min(max(len(b), 3), len(a)) - 2)
        check_shape(cls.op_type(), "B_codes", b, (a[0], *between, a[-1]))
        heads = a[2], b[2]
        if len(a) == len(b) == 4 and not any(map(groups.is_open, heads)) and heads[0] % max(heads[1], 1):
            raise ShapeError(f"{cls.op_type()}: A has {heads[0]} heads, B {heads[1]}; expected a multiple of them")
        for name, codes in (("A_scale", a), ("B_scale", b)):
            expected = groups.contracted_shape(codes, len(codes) - 1, attributes["group_size"])
            check_shape(cls.op_type(), name, given.get(name, expected), expected)

    @classmethod
    def compute(cls, a_codes, a_scale, b_codes, b_scale, *, group_size, scale_offset, **attributes):
        tables = [
            fixedpoint.linear_table(attributes[f"{side}_exponent_bits"], attributes[f"{side}_mantissa_bits"])
            for side in "ab"
        ]
        sides = (a_codes, a_scale, b_codes, b_scale)
        a, a_scales, b, b_scales = (x if x.ndim == 4 else x[:, :, None] for x in sides)
        (frames, tokens, heads, _), (_, rows, shared, _) = a.shape, b.shape
        y = np.zeros((frames, tokens, heads, rows), np.int64)
        repeat = heads // max(shared, 1)
        for n, h in np.ndindex(frames, heads):
            g = h // repeat
            operands = a[n, :, h], a_scales[n, :, h], b[n, :, g], b_scales[n, :, g]
            y[n, :, h] = fixedpoint.mx_matmul(*operands, None, *tables, scale_offset, group_size)
        return (y.reshape(*a_codes.shape[:-1], rows),)

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        b = shapes[2] if len(shapes) > 2 else None
        return [(*shapes[0][:-1], b[1] if b else None)]

    def output_datatypes(self):
        return [DataType[f"INT{self.get_nodeattr('width')}"]]

    @classmethod
    def body(cls, b, present):
        shape, rows = b.Shape(b.inputs["A_codes"]), b.Slice(b.Shape(b.inputs["B_codes"]), b.int([1]), b.int([2]))
        heads, shared = (cls._heads(b, b.inputs[f"{side}_codes"]) for side in "AB")
        split = b.Concat(shared, b.Div(heads, b.Max(shared, b.int([1]))), axis=0)  # heads as [G, H / G]
        both = {}
        for side, behind in (("A", split), ("B", b.Concat(shared, b.int([1]), axis=0))):
            bits = (b.attr(f"{side.lower()}_{part}_bits") for part in ("exponent", "mantissa"))
            values = cls._blocks(b, _body.linearize(b, b.inputs[f"{side}_codes"], *bits), behind)
            scales = cls._split(b, b.Cast(b.inputs[f"{side}_scale"], to=7), behind)
            both[side] = values, scales  # [N, T, G, H / G, n, size], [N, T, G, H / G, n]
        (x, x_scale), (w, w_scale) = both["A"], both["B"]
        sums = b.MatMul(b.Transpose(x, perm=[0, 2, 4, 3, 1, 5]), b.Transpose(w, perm=[0, 2, 4, 3, 5, 1]))
        scales = [b.Transpose(s, perm=[0, 2, 4, 3, 1]) for s in (x_scale, w_scale)]  # [N, G, n, H / G, T]
        shift = b.Add(b.Unsqueeze(scales[0], b.int([5])), b.Unsqueeze(scales[1], b.int([4])))
        shifted = b.Mul(sums, _body.int_pow2(b, b.Sub(shift, b.attr("scale_offset"))))  # [N, G, n, H / G, T, R]
        total = _body.int_sum(b, b.Transpose(shifted, perm=[0, 4, 1, 3, 5, 2]))
        result = b.Concat(b.Slice(shape, b.int([0]), b.int([-1])), rows, axis=0)
        return {"Y": b.Reshape(total, result, allowzero=1)}

    @staticmethod
    def _heads(b, codes):
        """[H] of [N, T, H, K], [1] of [N, T, K]."""
        between = b.Slice(b.Shape(codes), b.int([2]), b.int([-1]))
        return b.Reshape(b.Size(b.Expand(b.int(1), between)), b.int([1]))

    @staticmethod
    def _split(b, x, heads):
        """[N, T, H, n] -> [N, T, *heads, n]."""
        shape = b.Shape(x)
        ends = b.Slice(shape, b.int([0]), b.int([2])), b.Slice(shape, b.int([-1]), b.int([2**31 - 1]))
        return b.Reshape(x, b.Concat(ends[0], heads, ends[1], axis=0), allowzero=1)

    @classmethod
    def _blocks(cls, b, values, heads):
        """[N, T, H, K] -> zero-padded [N, T, *heads, n, group size]."""
        whole = cls._split(b, values, heads)
        size, shape = b.Reshape(b.attr("group_size"), b.int([1])), b.Shape(whole)
        length = b.Slice(shape, b.int([4]), b.int([5]))
        count = b.Div(b.Add(length, b.Sub(size, b.int([1]))), size)
        pads = b.Concat(b.int([0] * 9), b.Sub(b.Mul(count, size), length), axis=0)
        padded = b.Pad(whole, pads)
        return b.Reshape(padded, b.Concat(b.Slice(shape, b.int([0]), b.int([4])), count, size, axis=0), allowzero=1)
