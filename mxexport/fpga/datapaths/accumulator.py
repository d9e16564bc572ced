"""The accumulator of a product: exact, sized from the weights themselves where these are constant; and its bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.fpga.datapaths.weights import Weight
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.unit import Refused
from mxexport.model.rewriting import constant
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import Element
from mxexport.numbers.grids import Grid

_BIAS_WIDTH = 28


@dataclass(frozen=True, eq=False)
class Accumulator:
    """`bias` int64 [O] in units of 2**lsb_exp; a product is shifted by the sum of its scale codes - scale_offset."""

    bias: np.ndarray
    scale_offset: int
    width: int
    lsb_exp: int


def sized(name: str, x: Blocks, w: Weight, bias: np.ndarray | None) -> Accumulator:
    """The smallest accumulator that is exact, for a node of that name.

    The products alone fix the least significant bit. A bias (float64 [O]) that does not lie on its grid gets more of
    them, up to 28 bits in all, so that rounding it costs no more than float32 arithmetic would on values of usual
    size.

    Raises:
        UnsupportedError: more than 63 bits; says what makes it so wide.
    """
    bias = np.zeros(len(w.codes)) if bias is None else bias

    def size(offset: int) -> tuple[int, int, int]:
        lsb_exp = _lsb_exp(x.element, w.format.element, offset)
        biases = np.array([int(abs(v)) + 1 for v in np.ldexp(bias, -lsb_exp)], object)
        return offset, lsb_exp, Grid.within(lsb_exp, int((_largest(x, w, offset) + biases).max())).width

    offset, lsb_exp, width = size(x.code_min + int(w.scale_codes.min()))
    on_grid = (np.ldexp(bias, -lsb_exp) % 1 == 0).all()
    offset, lsb_exp, width = size(offset if on_grid else offset - max(_BIAS_WIDTH - width, 0))
    if width > fixedpoint.MAX_WIDTH:
        raise UnsupportedError(f"compile: node {name!r}: {_why_too_wide(x, w, bias, width)}")
    return Accumulator(fixedpoint.round_to_lsb(bias, lsb_exp), offset, width, lsb_exp)


def joined(accumulators: list[Accumulator]) -> list[Accumulator]:
    """The same sums in accumulators that differ in their biases alone: in the finest step, as wide as the widest is
    there. Raises UnsupportedError for more than 63 bits."""
    lsb_exp, offset = min(a.lsb_exp for a in accumulators), min(a.scale_offset for a in accumulators)
    width = max(a.width + a.lsb_exp - lsb_exp for a in accumulators)
    if width > fixedpoint.MAX_WIDTH:
        found = f"layers in turn share an accumulator of {width} bits, at most {fixedpoint.MAX_WIDTH} are exact"
        raise UnsupportedError(f"compile: {found}; their weights have too different ranges")
    return [Accumulator(a.bias << (a.lsb_exp - lsb_exp), offset, width, lsb_exp) for a in accumulators]


def sized_dynamic(name: str, a: Blocks, b: Blocks) -> Accumulator:
    """The smallest accumulator that is exact for whatever both streams carry, for a node of that name: all elements as
    large as they get, under the largest scales.

    Raises:
        UnsupportedError: more than 63 bits; says what makes it so wide.
    """
    offset, ranges = a.code_min + b.code_min, (a.code_max - a.code_min, b.code_max - b.code_min)
    largest = a.channels * a.largest * b.largest << sum(ranges)
    lsb_exp = _lsb_exp(a.element, b.element, offset)
    width = Grid.within(lsb_exp, largest).width
    if width > fixedpoint.MAX_WIDTH:
        operands = [f"{s.format} (scale codes {s.code_min}..{s.code_max})" for s in (a, b)]
        found = f"an exact accumulator of {' x '.join(operands)} over {a.channels} elements needs {width} bits"
        most = f"at most {fixedpoint.MAX_WIDTH} are exact"
        if width - sum(ranges) > fixedpoint.MAX_WIDTH:
            remedy = "The formats alone are too wide; use one with fewer exponent bits"
        else:
            wider = "first" if ranges[0] > ranges[1] else "second"
            remedy = f"The scales of its {wider} operand range over 2**{max(ranges)}: use a smaller range of codes, a "
            remedy += "static scale, or a format with fewer exponent bits"
        raise UnsupportedError(f"compile: node {name!r}: {found}, {most}. {remedy}")
    return Accumulator(np.zeros(b.shape[0], np.int64), offset, width, lsb_exp)


def _lsb_exp(x: Element, w: Element, offset: int) -> int:
    return offset - 2 * 127 - x.frac_bits - w.frac_bits


def _why_too_wide(x: Blocks, w: Weight, bias: np.ndarray, width: int) -> str:
    """What makes the accumulator wider than it may be: the bias, the ranges of scales or the formats."""
    offset = x.code_min + int(w.scale_codes.min())
    needs = f"needs {width} bits, at most {fixedpoint.MAX_WIDTH} are exact"
    products = max(_largest(x, w, offset))
    if products.bit_length() < fixedpoint.MAX_WIDTH:
        row = int(np.abs(bias).argmax())
        largest = float(np.ldexp(float(products), _lsb_exp(x.element, w.format.element, offset)))
        return (
            f"its bias reaches {abs(bias[row]):.4g} (output {row}) where the products reach {largest:.4g}: an exact "
            f"accumulator {needs}. Scale the layer so that bias and products have like magnitudes, or add the bias on "
            "the host"
        )
    formats = f"{x.format} activations (scale codes {x.code_min}..{x.code_max}) and {w.format.name} weights "
    formats += f"(scale codes {w.scale_codes.min()}..{w.scale_codes.max()})"
    ranges = int(w.scale_codes.max()) - int(w.scale_codes.min()), x.code_max - x.code_min
    if products.bit_length() - sum(ranges) >= fixedpoint.MAX_WIDTH:
        remedy = "The formats alone are too wide; use one with fewer exponent bits"
    elif ranges[0] > ranges[1]:
        remedy = f"The groups of its weight range over 2**{ranges[0]}: equalize its rows, or use fewer exponent bits"
    else:
        remedy = "Use a format with fewer exponent bits, or calibration inputs with a smaller range"
    return f"an exact accumulator of {formats} {needs}. {remedy}"


def _largest(x: Blocks, w: Weight, offset: int) -> np.ndarray:
    """Largest magnitude each accumulator can reach (Python integers), from the actual weights."""
    x_max = x.largest
    rows = len(w.codes)
    padded = np.pad(np.abs(w.linear()), ((0, 0), (0, -w.codes.shape[1] % w.group_size)))
    sums = padded.reshape(rows, -1, w.group_size).sum(axis=2)
    shifts = w.scale_codes.astype(int) + x.code_max - offset
    return np.array(
        [sum(int(s) * x_max << int(k) for s, k in zip(sums[o], shifts[o], strict=True)) for o in range(rows)], object
    )


_LEAST_WIDTH, _MORE = 36, 6


def dropped_bits(product: int, width: int) -> int:
    """Bits that are rounded off a product of `product` bits, whose wider factor that is a stream has `width`: it keeps
    36 at least, and 6 more than that: what is rounded off is far below what the next quantizer sees, so that rounding
    twice turns hardly any code. Below 1: none are."""
    return product - max(_LEAST_WIDTH, width + _MORE)


def own_bias(node: ir.Node) -> np.ndarray | None:
    """The bias that is an input of a product. Raises Refused where it is no constant."""
    if node.op_type == "MatMul":
        return None
    a = {name: attribute.value for name, attribute in node.attributes.items()}
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or a.get("transA", 0):
        raise Refused("Gemm with alpha, beta or transA is not lowered")
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = constant(node.inputs[2])
    if bias is None:
        raise Refused("its bias is not an initializer")
    return bias


def spatial_rank(node: ir.Node) -> int:
    """Dimensions behind the channels of what a product puts out."""
    return len(node.inputs[1].shape) - 2 if node.op_type in ("Conv", "ConvTranspose") else 0


def per_output(bias: np.ndarray, rows: int, behind: int, node: ir.Node | None = None) -> np.ndarray:
    """A bias as one number for each of `rows` outputs, which have `behind` dimensions behind them. Raises Refused."""
    if not np.isfinite(bias).all():
        raise Refused("its bias holds NaN or Inf", node)
    return per_channel(bias, rows, behind, node)


def per_channel(constant: np.ndarray | float, channels: int, behind: int, node: ir.Node | None = None) -> np.ndarray:
    """A constant that is added to, or multiplies, a tensor as float64 [channels]. Raises Refused for one that differs
    from place to place."""
    constant = np.asarray(constant)
    axis = constant.ndim - 1 - behind
    fits = constant.size == 1 or (constant.size == channels and axis >= 0 and constant.shape[axis] == channels)
    if not fits:
        raise Refused(f"adds a constant of shape {constant.shape}; expected one value per output ({channels})", node)
    return np.broadcast_to(constant.reshape(-1), (channels,)).astype(np.float64)
