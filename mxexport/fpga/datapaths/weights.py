"""Quantized weights of a QONNX graph as the codes that hardware stores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.fpga.unit import Refused
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute, constant, is_op
from mxexport.numbers import fixedpoint, groups, numerics, quantized
from mxexport.numbers.formats import GroupFormat


@dataclass(frozen=True, eq=False)
class Weight:
    """Codes [O, K] (uint8 bit patterns) and E8M0 codes [O, n] of a weight in groups along K.

    Raises:
        ValueError: a code that the format does not have.
    """

    format: GroupFormat
    codes: np.ndarray
    scale_codes: np.ndarray
    group_size: int

    def __post_init__(self) -> None:
        bits = self.format.element.bits
        if (highest := int(self.codes.max(initial=0))) >> bits:
            raise ValueError(f"a weight has the code {highest}; expected {bits} bits")

    def linear(self) -> np.ndarray:
        """int64 [O, K]: whole multiples of the smallest element step."""
        return _table(self.format)[self.codes]

    def values(self) -> np.ndarray:
        """float64 [O, K], exact."""
        elements = np.ldexp(self.linear().astype(np.float64), -self.format.element.frac_bits)
        scale = np.ldexp(1.0, self.scale_codes.astype(int) - 127)
        return elements * groups.expand(scale, 1, self.group_size, elements.shape[1])


def fit_group(group_size: int, channels: int) -> int:
    """Lanes that a group takes: an axis shorter than a group costs the next power of two."""
    return min(group_size, 1 << (channels - 1).bit_length())


def mx_format(node: ir.Node) -> GroupFormat:
    """The MX format of a quantizer that hardware takes. Raises Refused for any other."""
    fmt = graph.quantizer_format(node)
    if not fmt.is_mx:
        raise Refused(
            f"format {fmt.name} has float scales, which need a multiplier per group; quantize with an MX format "
            "(power-of-two scales: mxint8, mxfp4_e2m1, …)"
        )
    if fmt.asymmetric or (node.op_type == "MXFloatQuant" and not graph.attributes(node)["signed"]):
        raise Refused(f"format {fmt.name} is unsigned; hardware takes signed MX formats")
    weight = constant_array(node.inputs[0]) is not None  # its actual codes are known
    if node.op_type == "GroupwiseQuant" and not weight and not graph.attributes(node)["narrow"]:
        lowest = -(2 ** (fmt.element.bits - 1))
        raise Refused(f"its codes reach {lowest}; hardware codes stay within +-{-lowest - 1} (narrow range)")
    if fmt.group_size & (fmt.group_size - 1):
        raise Refused(f"group size {fmt.group_size} is not a power of two")
    return fmt


def weight_quantizer(value: ir.Value | None) -> ir.Node | None:
    """The node that makes `value` when that is a quantized weight, or a part of one that a Split gives."""
    node = value.producer() if value is not None else None
    if is_op(node, "Split"):
        node = node.inputs[0].producer()
    return node if graph.is_quantized_constant(node) else None


def split_part(value: ir.Value) -> tuple[int, slice] | None:
    """(axis, entries) of a weight that `value` is a part of; None of whole ones. Raises Refused for sizes that are no
    constants."""
    node = value.producer()
    if not is_op(node, "Split"):
        return None
    whole = node.inputs[0].shape
    axis, count = attribute(node, "axis", 0) % len(whole), len(node.outputs)
    sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else np.full(count, -(-whole[axis] // count))
    if sizes is None:
        raise Refused(f"its weight is a part of {node.inputs[0].name!r} of no known size; run mx.clean")
    ends = np.minimum(np.cumsum(sizes), whole[axis]).tolist()
    place = node.outputs.index(value)
    return axis, slice(ends[place - 1] if place else 0, ends[place])


def read_weight(
    quantizer: ir.Node,
    reduction_axis: int,
    whole_groups: bool = False,
    flipped: bool = False,
    convolution_groups: int = 1,
    part: tuple[int, slice] | None = None,
) -> Weight:
    """The quantized weight of a matrix product or convolution, whose reduction axis (0 or 1) is given.

    Taps of a kernel stand side by side, each with its own groups; `whole_groups`: padded to whole ones;
    `flipped`: from the last tap to the first. Groups of a convolution become zeros in the places of other groups.
    `part`: of the outputs, as `split_part` has it.
    """
    fmt, scale, values = mx_format(quantizer), constant_array(quantizer.inputs[1]), constant_array(quantizer.outputs[0])
    if scale is None or values is None:
        raise Refused(f"its weight {quantizer.name!r} is not constant; run mx.clean")
    shape = values.shape
    axis = groups.normalize_axis(quantizer.attributes["axis"].value, len(shape))
    if axis != reduction_axis:
        raise Refused(f"weight groups run along axis {axis}; expected the reduction axis {reduction_axis}")
    groups.check_scale_shape(f"node {quantizer.name!r}", scale.shape, shape, axis, fmt.group_size)
    if not np.isfinite(values).all():
        raise Refused(f"its quantized weight {quantizer.name!r} holds NaN or Inf")
    scale_codes = numerics.codes_from_scale(scale, fmt.step_frac_bits)
    codes = numerics.element_codes(values, scale, None, fmt, axis)  # they are codes times scales: no rounding is left
    if (quantized.Quantized(fmt, axis, shape, codes, scale).dequantize() != values).any():
        raise Refused(f"its quantized weight {quantizer.name!r} holds codes that no {fmt.name} quantizer makes")
    codes = groups.from_groups(codes, axis, shape[axis]).view(np.uint8)
    codes = codes & np.uint8(2**fmt.element.bits - 1)
    if part is not None:
        if part[0] == axis:
            raise Refused(f"its weight {quantizer.name!r} is split along its groups, axis {axis}; expected its outputs")
        codes, scale_codes = (
            np.moveaxis(np.moveaxis(a, part[0], 0)[part[1]], 0, part[0]) for a in (codes, scale_codes)
        )
    if axis == 0:
        codes, scale_codes = codes.swapaxes(0, 1), scale_codes.swapaxes(0, 1)
    if convolution_groups > 1:
        codes, scale_codes = _without_groups(codes, scale_codes, fmt.group_size, convolution_groups)
    if flipped:
        codes, scale_codes = (np.flip(a, tuple(range(2, a.ndim))) for a in (codes, scale_codes))
    group_size, taps = fit_group(fmt.group_size, codes.shape[1]), math.prod(shape[2:])
    codes, scale_codes = (a.reshape(*a.shape[:2], taps).swapaxes(1, 2) for a in (codes, scale_codes))
    if whole_groups:
        codes = np.pad(codes, ((0, 0), (0, 0), (0, -codes.shape[2] % group_size)))
    codes, scale_codes = (np.ascontiguousarray(a.reshape(len(a), -1)) for a in (codes, scale_codes))
    return Weight(fmt, codes, _lift_zero_blocks(_table(fmt)[codes] != 0, scale_codes, group_size), group_size)


def _without_groups(
    codes: np.ndarray, scale_codes: np.ndarray, group_size: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes [O, C / count, ...] of a convolution in `count` groups -> [O, C, ...] with zeros elsewhere. Raises Refused
    where a block of activations would meet two scales of one output."""
    inner = codes.shape[1]
    if inner > group_size and inner % group_size:
        raise Refused(
            f"its {count} groups of {inner} channels cut blocks of {group_size}, which would meet two scales; expected "
            f"a multiple of {group_size} channels a group, or at most so many"
        )
    rows, blocks = len(codes) // count, groups.group_count(inner * count, group_size)
    full = np.zeros((len(codes), inner * count, *codes.shape[2:]), codes.dtype)
    scales = np.full((len(codes), blocks, *codes.shape[2:]), scale_codes.min(), scale_codes.dtype)
    for i in range(count):
        own, first, end = slice(i * rows, (i + 1) * rows), i * inner, (i + 1) * inner
        full[own, first:end] = codes[own]
        scales[own, first // group_size : -(-end // group_size)] = scale_codes[own]  # of less than a block: one scale
    return full, scales


def _table(fmt: GroupFormat) -> np.ndarray:
    parameters = fixedpoint.element_parameters(fmt.element)
    return fixedpoint.linear_table(parameters["exponent_bits"], parameters["mantissa_bits"])


def _lift_zero_blocks(nonzero: np.ndarray, scale_codes: np.ndarray, group_size: int) -> np.ndarray:
    """Blocks of zeros take the lowest scale code in use, so that they do not widen the accumulator."""
    used = groups.to_groups(nonzero, 1, group_size).any(axis=2)
    lowest = scale_codes[used].min() if used.any() else np.uint8(127)
    return np.where(used, scale_codes, lowest)
