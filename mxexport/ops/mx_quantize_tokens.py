from __future__ import annotations

from qonnx.core.datatype import DataType

from mxexport.errors import ShapeError
from mxexport.numbers import fixedpoint
from mxexport.ops._operator import Operator, Port, check_code_bits, contracted
from mxexport.ops.mx_quantize import QUANTIZER, quantized


class MXQuantizeTokens(Operator):
    """Dataflow unit: tokens of wide integers (v * 2**lsb_exp) -> MX blocks of tokens, exact.

    The values of an attention: a block holds one column of up to group_size tokens, so that a product over tokens reads
    whole blocks. Equals MXQuantize along the last axis of the input with its axes behind the first in reverse order.
    """

    role = "dataflow"
    attributes = QUANTIZER
    inputs = {"X": Port("int64", "wide integers [N, T, C] or [N, T, H, C]: tokens, heads, channels")}
    outputs = {
        "codes": Port("uint8", "element bit patterns [N, C, T] or [N, C, H, T]"),
        "scale_codes": Port("uint8", "E8M0 codes, [N, C, n] or [N, C, H, n] with n blocks along the tokens"),
    }

    @classmethod
    def check_shapes(cls, whole, given, attributes):
        if len(whole) not in (3, 4):
            raise ShapeError(f"{cls.op_type()}: X has shape {whole}, expected [N, T, C] or [N, T, H, C]")
        check_code_bits(cls.op_type(), attributes["exponent_bits"], attributes["mantissa_bits"])

    @classmethod
    def compute(cls, x, *, group_size, width, lsb_exp, **quantizer):
        turned = x.transpose(0, *range(x.ndim - 1, 0, -1))
        codes, scale_codes, _ = fixedpoint.mx_quantize(
            turned, lsb_exp, fixedpoint.BlockQuantizer(**quantizer), -1, group_size
        )
        return codes, scale_codes

    @classmethod
    def infer_shapes(cls, shapes, attributes):
        first, *frame = shapes[0]
        turned = (first, *frame[::-1])
        return [turned, contracted(turned, {**attributes, "axis": -1})]

    def output_datatypes(self):
        return [DataType["UINT8"], DataType["UINT8"]]

    @classmethod
    def body(cls, b, present):
        x = b.inputs["X"]
        frames, tokens = b.Shape(x, end=1), b.Shape(x, start=1, end=2)
        heads, channels = b.Shape(x, start=2, end=-1), b.Shape(x, start=-1)  # no heads: a shape of no axis
        one_head = b.Slice(b.Concat(heads, b.int([1]), axis=0), b.int([0]), b.int([1]))
        whole = b.Reshape(x, b.Concat(frames, tokens, one_head, channels, axis=0), allowzero=1)
        turned = b.Transpose(whole, perm=[0, 3, 2, 1])
        return quantized(b, b.Reshape(turned, b.Concat(frames, channels, heads, tokens, axis=0), allowzero=1), -1)
