"""An operand of a product of two streams that is a constant, such as a learned query: brought by a stream of its own,
for every frame that the other one brings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport.fpga.datapaths.weights import mx_format
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.views import View
from mxexport.fpga.unit import Refused
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import attribute, is_op
from mxexport.numbers import groups, numerics
from mxexport.numbers.fixedpoint import MAX_WIDTH, round_to_lsb
from mxexport.numbers.formats import E8M0_BIAS, GroupFormat


@dataclass(frozen=True, eq=False)
class ConstantOperand:
    """`values` float32, as the product takes them; those of `quantizer`, whose groups run along `axis`."""

    values: np.ndarray
    quantizer: ir.Node
    axis: int

    @classmethod
    def of(cls, value: ir.Value) -> ConstantOperand | None:
        """None of values that are no quantized constants."""
        maker, perm = value.producer(), None
        if is_op(maker, "Transpose"):
            perm = list(attribute(maker, "perm", ()))
            maker = maker.inputs[0].producer()
        if not graph.is_quantized_constant(maker) or (values := constant_array(value)) is None:
            return None
        axis = groups.normalize_axis(graph.attributes(maker)["axis"], values.ndim)
        return cls(values, maker, perm.index(axis) if perm else axis)


def lower(operand: ConstantOperand, at: int, other: ir.Value, node: ir.Node, low: Lowering) -> Pending:
    """The blocks of a constant that is input `at` of a product, [..., vectors, summed] or [..., summed, vectors], as
    mx_product takes them: vector by vector, head by head. `other`: the input beside it. Raises Refused."""
    source, shape = low.wide(low.elements(_unquantized(other)), node), other.shape
    heads = None if shape is None else list(shape[1:-2])
    if heads is None or len(heads) > 1 or not all(isinstance(n, int) for n in heads):
        raise Refused(f"it multiplies a constant with {shape}; expected (batch, heads, tokens, channels), all known")
    rank, own = len(heads) + 3, operand.values
    if own.ndim > rank or own.shape[: -2 - len(heads)] not in ((), (1,)):
        raise Refused(f"its constant has the shape {own.shape}; expected one for all frames")
    if operand.axis - own.ndim != -1 - at:
        raise Refused(f"groups of its constant run along axis {operand.axis}; expected the one that it sums over")
    own = np.broadcast_to(own, (1, *heads, *own.shape[-2:]))
    own = own if at == 0 else own.swapaxes(-1, -2)
    count, vectors, depth = math.prod(heads), *own.shape[-2:]
    frame = (vectors, count, depth) if count > 1 else (vectors, depth)
    view = View.of((vectors, count, depth), (1, 0, 2) if at == 0 else (1, 2, 0))
    view = view if heads else view.without(1)
    placed = own.reshape(count, vectors, depth).swapaxes(0, 1).reshape(frame)
    return _blocks(placed, operand.quantizer, replace(_nothing(source, frame, node, low), view=view), node, low)


def _unquantized(value: ir.Value) -> ir.Value:
    """What the other operand was before its quantizer."""
    node = value.producer()
    while node is not None and not graph.is_ours(node, graph.QUANTIZERS):
        node = node.inputs[0].producer()
    return value if node is None else node.inputs[0]


def _nothing(source: Pending, frame: tuple[int, ...], node: ir.Node, low: Lowering) -> Pending:
    """Zeros, a `frame` for each that `source` brings: one vector of it, kept between 0 and 0, as often as needed."""
    from mxexport.fpga.units.clip import Clip  # the units import this module
    from mxexport.fpga.units.slice import Slice
    from mxexport.fpga.units.upsample import Upsample

    if source.shape is None:
        return source
    wide = math.gcd(math.prod(frame), source.shape[-1])
    image, times = low.shaped(source, (math.prod(source.shape) // wide, 1, wide)), math.prod(frame) // wide
    steps = [("slice", lambda t: Slice(t, (0, 0, 0), (1, 1, wide)), (1, 1, wide))]
    steps += [("nothing", lambda t: Clip(t, 0, 0), (1, 1, wide))]
    steps += [("repeat", lambda t: Upsample(t, (1, times)), (1, times, wide))] if times > 1 else []
    for kind, make, shape in steps:
        image = low.add(make, [image], node, kind, (kind,), shape)
    return low.shaped(image, frame)


def _blocks(placed: np.ndarray, quantizer: ir.Node, zeros: Pending, node: ir.Node, low: Lowering) -> Pending:
    """A constant, added to zeros, in the blocks that it was quantized to."""
    from mxexport.fpga.units.offset import Offset  # the units import this module
    from mxexport.fpga.units.quantize import Quantize, found_of

    fmt = mx_format(quantizer)
    low_code, high_code = _codes(quantizer, fmt)
    lsb_exp = low_code - E8M0_BIAS - fmt.element.frac_bits  # every element is a multiple of that

    def make(source) -> Offset:
        step = min(lsb_exp, source.lsb_exp)
        made = Offset(source, round_to_lsb(placed.astype(np.float64), step), step)
        if made.result.width > MAX_WIDTH:
            found = f"{made.result.width} bits, from scale codes {low_code} to {high_code}"
            raise Refused(f"its constant {quantizer.name!r} needs {found}; at most {MAX_WIDTH} are exact")
        return made

    given = low.add(make, [zeros], node, "constant", ("constant",), zeros.shape, view=zeros.view)
    found = found_of(fmt, {"round_bias": 0, "code_min": low_code, "code_max": high_code}, placed.ndim)
    return Quantize.add(given, found, False, node, low)


def _codes(quantizer: ir.Node, fmt: GroupFormat) -> tuple[int, int]:
    """The least and the largest scale code of blocks that hold anything."""
    scale, values = constant_array(quantizer.inputs[1]), constant_array(quantizer.outputs[0])
    if scale is None:
        raise Refused(f"the scale of its constant {quantizer.name!r} is not constant; run mx.clean")
    axis = groups.normalize_axis(graph.attributes(quantizer)["axis"], values.ndim)
    used = groups.to_groups(values != 0, axis, fmt.group_size).any(axis=axis + 1)
    codes = numerics.codes_from_scale(scale, fmt.step_frac_bits)[used]
    return (int(codes.min()), int(codes.max())) if codes.size else (E8M0_BIAS, E8M0_BIAS)
