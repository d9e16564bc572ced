"""Wide integers -> MX blocks along the channels: the scale is found at run time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.fpga.areas.area import Area, Parts, each, exponent_bits, ram, shift_right
from mxexport.fpga.datapaths import latencies
from mxexport.fpga.datapaths.weights import fit_group, mx_format
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.lowering.readers import order_for_product, reader
from mxexport.fpga.lowering.static_scales import GROUP
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.views import View
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, block_foldings
from mxexport.fpga.units.clip import Clip
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import is_op
from mxexport.model.uniform import is_quantizer, read_activation
from mxexport.numbers import fixedpoint, groups, numerics
from mxexport.numbers.formats import E8M0_BIAS, E8M0_NAN, GroupFormat, find_format

_QUANTIZER = tuple(f.name for f in fields(fixedpoint.BlockQuantizer))


@dataclass(frozen=True)
class Quantize:
    operator = ops.MXQuantize
    module = "mx_quantize"
    clocked = True
    status = {"clamped_o": 32, "error_o": 1}
    memory_kinds = ()
    vectorwise = True
    lowers = (*((ops.DOMAIN, name) for name in graph.QUANTIZERS), (ops.qonnx_general.DOMAIN, "Quant"))

    source: Wide
    quantizer: fixedpoint.BlockQuantizer
    group_size: int
    format: str
    static: bool = False
    """The scale is one constant: no block can be outside of its range."""

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        x, scale = node.inputs[0], node.inputs[1].producer()
        static = not graph.is_ours(scale, {"MXScale"})
        found = _static(node) if static else dynamic_quantizer(node)
        source = low.elements(x)
        if not static and scale.inputs[0] is not x:
            raise Refused("its scale is not found from its own input; quantize the tensor that the layer reads")
        before = low.maker(x)
        if before is not None and is_quantizer(before) and source.group_size is not None:
            if static and _same(before, node):
                low.bind(node.outputs[0], source, before)
                return True
            raise Refused(f"quantizes what {before.name!r} has quantized already; one quantizer feeds a product")
        rank = None if x.shape is None else len(x.shape)
        if source.view is not None:
            return cls._lower_sequence(node, found, static, low)
        axis = groups.normalize_axis(found.axis, rank)
        if source.blocked is not None and rank == 3 and axis == 2:  # tokens behind a refusal
            low.bind(node.outputs[0], replace(source, group_size=found.group_size))
            return True
        source = low.wide(low.image(x, source) if rank in (3, 4) else low.features(x, source), node)
        if axis != 1:
            expected = "the features" if rank == 2 else "the channels"
            raise Refused(f"groups run along axis {found.axis}; expected {expected}, axis 1")
        low.bind(node.outputs[0], cls.add(source, found, static, node, low))
        return True

    @classmethod
    def _lower_sequence(cls, node: ir.Node, found: Found, static: bool, low: Lowering) -> bool:
        """Of tokens, or of heads: along the channels, the last that the stream brings, or that it is made to bring."""
        x = node.inputs[0]
        source = low.wide(low.sequences(x), node)
        axis = groups.normalize_axis(found.axis, len(source.view.axes))
        turn, by_tokens = order_for_product(node.outputs[0], source.view) or (0, False)
        if turn and not by_tokens:
            source = low.rotated(source, turn)
        source = low.last(source, axis)
        if len(source.shape) == 1 and len(source.view.axes) > 2:  # one vector of tokens is a vector still
            source = low.shaped(source, (1, *source.shape))
        elif len(source.view.axes) > 3:  # heads of tokens, as products want them
            source = low.shaped(source, _of_heads(node.outputs[0], source.view) or source.view.sizes())
        low.bind(node.outputs[0], cls.add(source, found, static, node, low))
        return True

    @classmethod
    def add(cls, source: Pending, found: Found, static: bool, node: ir.Node, low: Lowering) -> Pending:
        """Blocks of `source` along its vectors."""
        if static and found.ends is not None:
            source = _between(*found.ends, source, node, low)

        def make(source: Wide) -> Quantize:
            group_size = fit_group(found.group_size, source.channels)
            return cls(source, found.quantizer, group_size, found.format, static)

        outputs = ("codes", "scale_codes")
        return low.add(make, [source], node, "quantize", outputs, source.shape, found.group_size)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Quantize:
        a = graph.attributes(node)
        quantizer = fixedpoint.BlockQuantizer(**{key: a[key] for key in _QUANTIZER})
        return cls(
            *sources, quantizer, a["group_size"], node.metadata_props[graph.FORMAT_KEY], "static" in node.metadata_props
        )

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Blocks:
        q = self.quantizer
        return Blocks(self.source.shape, self.format, self.group_size, q.code_min, q.code_max)

    def attributes(self) -> dict:
        rest = asdict(self.quantizer)
        axis = len(self.source.shape)
        return {
            "axis": axis,
            "group_size": self.group_size,
            "width": self.source.width,
            "lsb_exp": self.source.lsb_exp,
            **{key: rest[key] for key in _QUANTIZER},
        }

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {graph.FORMAT_KEY: self.format} | ({"static": "1"} if self.static else {})

    def describe(self) -> str:
        return f"{self.format} blocks; all-zero blocks carry the lowest code {self.quantizer.code_min}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {self.source.channels} wide integers to {self.result.blocks} {self.format} blocks"

    def foldings(self) -> list[Folding]:
        return block_foldings(self.result)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        counts = {"K": self.source.channels, "Vectors": self.source.vectors, "Lanes": folding.simd}
        return counts | {"Static": int(self._rounds_only), "Signed": int(not self.source.nonnegative)}

    @property
    def _rounds_only(self) -> bool:
        """Integers with a constant scale: nothing is looked for, and nothing waits."""
        return self.static and not exponent_bits(self.result.element)

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        beats = self.result.beats(folding.simd) // self.source.vectors
        part, q = min(folding.simd, self.group_size), self.quantizer
        found = latencies.quantize_latency(part, q.round_bias, q.binades) + self.group_size // part - 1
        latency = 2 if self._rounds_only else found
        return Timing(np.arange(self.source.vectors), beats, latency)

    def through(self, folding: Folding) -> bool:
        return self._rounds_only

    def parts(self, folding: Folding) -> Parts:
        """Counted as mx_quantize builds it: lanes, then what finds the scale of a block."""
        lanes, width, q = folding.simd, self.source.width, self.quantizer
        signed = not self.source.nonnegative
        if self._rounds_only:
            return self._rounder_parts(lanes)
        across = self.result.across(lanes)
        part, bound = lanes // across, width - (not signed)
        found = encoder_parts(self.source, q, self.result.bits, lanes)
        depth = 1 << (self.group_size // part + 5).bit_length()
        compared = bound * part * across if q.round_bias else 0  # magnitudes, and what follows the leading one counts
        return found | {
            "signs": each(lanes * bound * signed),
            "magnitudes": each(lanes * bound),
            "buffer": ram(depth, part * (bound + signed)) * across,
            "leading": each(across * bound * math.ceil((part + 1) / 5)),
            "scales": each(across * bound),
            "compared": each(compared),
            "rounded": each(across * bound * bool(q.round_bias)),
            "blocks": each(across * 10),
            "unit": each(60),
        }

    def _rounder_parts(self, lanes: int) -> Parts:
        """Of mx_quantize_static; lanes beyond the channels are zeros."""
        bits, width, q = self.result.bits, self.source.width, self.quantizer
        shift = q.code_min - q.mantissa_bits - E8M0_BIAS - self.source.lsb_exp
        places = (self.result.beats(lanes) // self.result.vectors).bit_length() + self.result.vectors.bit_length()
        left, right = min(max(-shift, 0), bits), min(max(shift, 0), width)
        kept, lanes = width + 1 - right, min(lanes, self.source.channels)
        found = {"rounder": each(8), "places": each(places), "scaled": Area(ff=lanes * kept)}
        found |= {"frames": each(10 * (self.source.vectors > 1))}
        if right:
            found |= {"rounded": Area(lut=lanes * kept), "dropped": Area(lut=lanes * right / 5)}
        if 2**left > q.max_code:  # all but zero saturates
            return found | {"saturating": each(lanes * kept / 3), "ends": each(2 * lanes)}
        beyond = max(kept + left - bits, 0)
        codes = min(bits - left + bool(left), kept)
        if not beyond:
            narrow = "narrow_unsigned" if self.format.startswith("u") else "narrow"
            return found | {narrow: Area(lut=3 * lanes), "codes_kept": Area(ff=lanes * codes)}
        checked = "checked" if q.max_code & (q.max_code + 1) else "checked_ones"  # against 2**n - 1: other LUTs
        return found | {checked: Area(lut=lanes * beyond), "saturated": each(lanes * codes)}

    def bound(self, x: np.ndarray) -> None:
        return None


def _of_heads(value: ir.Value, view: View) -> tuple[int, ...] | None:
    """(1, heads, channels) of one token, for which a product of two streams asks; None of others."""
    product, read, there = reader(value, view)
    if not is_op(product, "MatMul") or len(there.axes) != 4 or len(view.groups()) != 2:
        return None
    vectors, (heads, depth) = there.axes[-2 if product.inputs[0] is read else -1], view.sizes()
    return None if vectors else (1, heads, depth)


def shift_bits(source: Wide, q: fixedpoint.BlockQuantizer) -> int:
    """Of the shift by which mx_encode_lane moves a block: how far scale codes lie apart that the source gets."""
    own = source.lsb_exp + E8M0_BIAS - q.emax
    top = source.width - (2 if source.nonnegative and not q.round_bias else 1)
    low, high = (min(max(code, q.code_min), q.code_max) for code in (own, own + top))
    return (high - low).bit_length()


def encoder_parts(source: Wide, q: fixedpoint.BlockQuantizer, bits: int, lanes: int) -> Parts:
    """Of so many mx_encode_lane; `bits`: of a code."""
    bound, shift, above = source.width - source.nonnegative, shift_bits(source, q), q.binades
    window = q.mantissa_bits + 1 + above
    if latencies.encodes_wide(above):
        moved = min(bound + q.mantissa_bits + 1, 64)
        return {
            "wide_shifted": shift_right(moved, q.mantissa_bits + 2, (bound - 1).bit_length()) * lanes,
            "wide_places": each(bound * lanes),
            "wide_codes": each(bits * lanes),
            "wide_lanes": each(15 * lanes),
        }
    later = int(q.exponent_bits == 0 and q.max_code == 2 ** (q.mantissa_bits + 1) - 1 and shift > 1)  # in the adder
    moved = min(bound, window + 2**shift)
    return {
        "shifted": shift_right(moved, window + 1 + later, shift - later, 1 + later) * lanes,
        "encoded": shift_right(window + 1, q.mantissa_bits + 2, above.bit_length()) * (lanes * (above > 0)),
        "codes": each((window + bits) * lanes),
        "lanes": each(10 * lanes),
    }


@dataclass(frozen=True)
class Found:
    """What a quantizer of a QONNX graph does; `ends`: the least and the largest multiple of its scale, and the scale's
    exponent, where elements alone would not keep to them."""

    format: str
    group_size: int
    quantizer: fixedpoint.BlockQuantizer
    axis: int
    ends: tuple[int, int, int] | None = None


def dynamic_quantizer(node: ir.Node) -> Found:
    """Of a quantizer whose scale MXScale finds. Raises Refused."""
    fmt, a = mx_format(node), graph.attributes(node.inputs[1].producer())
    if a["emax"] != fmt.element.emax or a["frac_bits"] != fmt.step_frac_bits:
        raise Refused(f"its shared scale is not that of OCP {fmt.name} (emax {a['emax']}); not lowered yet")
    return found_of(fmt, {key: a[key] for key in ("round_bias", "code_min", "code_max")}, a["axis"])


def found_of(fmt: GroupFormat, limits: dict[str, int], axis: int) -> Found:
    parameters = fixedpoint.element_parameters(fmt.element)
    quantizer = fixedpoint.BlockQuantizer(**parameters, emax=fmt.element.emax, **limits)
    return Found(fmt.name, fmt.group_size, quantizer, axis)


def _static(node: ir.Node) -> Found:
    """Of one with a constant power of two for the whole tensor: a range of one code. Raises Refused."""
    if node.op_type == "MXFloatQuant":
        return _static_float(node)
    try:
        uniform = read_activation(node)
    except UnsupportedError as error:
        if graph.is_ours(node.inputs[1].producer(), graph.SCALES):
            mx_format(node)  # says more where the format has no hardware at all
        raise Refused(str(error)) from None
    if uniform.grid is None or not 2 <= uniform.bits <= 8:
        found = f"{uniform.bits} bits and the scale {uniform.scale:g}"
        raise Refused(f"it has {found}; expected 2 to 8 bits, and a power of two or a file that compile may rewrite")
    plain = uniform.signed and uniform.narrow
    fmt = f"mxint{uniform.bits}" if plain else f"{'int' if uniform.signed else 'uint'}{uniform.bits}"
    bits, exponent = uniform.bits + (not uniform.signed), uniform.grid.exponent
    code = E8M0_BIAS + bits - 2 + exponent
    if not 0 < code < E8M0_NAN:
        raise Refused(f"its scale {uniform.scale:g} is outside of what scale codes hold")
    largest = max(-uniform.lowest, uniform.highest)
    quantizer = fixedpoint.BlockQuantizer(0, bits - 2, 0, largest, 0, 0, code, code)
    axis = graph.attributes(node)["axis"] if node.op_type == "GroupwiseQuant" else 1
    return Found(fmt, GROUP, quantizer, axis, None if plain else (uniform.lowest, uniform.highest, exponent))


def _same(before: ir.Node, node: ir.Node) -> bool:
    """Whether `node` changes nothing that comes from `before`, both with constant scales."""
    try:
        return read_activation(before) == read_activation(node)
    except UnsupportedError:
        return False


def _static_float(node: ir.Node) -> Found:
    """The same of minifloats. Raises Refused."""
    value, a = node.inputs[1], graph.attributes(node)
    maker = value.producer()
    scale = constant_array(maker.inputs[0] if is_op(maker, "Expand") else value)
    if scale is None:
        mx_format(node)  # says more where the format has no hardware at all
        raise Refused("its scale is neither found by MXScale nor constant; quantize with an MX format")
    if np.unique(scale).size != 1 or not graph.is_power_of_two(scale) or not np.isfinite(scale).all():
        found = f"{np.unique(scale).size} constant scales, {scale.ravel()[0]:g} first"
        way_out = "train with an MX format and scaling_per_output='tensor'"
        raise Refused(f"it has {found}; expected one power of two for the tensor: {way_out}")
    if not a.get("signed", 1):
        raise Refused("its codes are unsigned; expected signed ones")
    fmt = find_format(ops.OPERATORS[node.op_type].element_of(a, True), GROUP, "e8m0")
    code = int(numerics.codes_from_scale(scale.reshape(-1)[:1], fmt.step_frac_bits)[0])
    if not 0 < code < E8M0_NAN:
        raise Refused(f"its scale {scale.ravel()[0]:g} is no scale of {fmt.name}")
    return found_of(fmt, {"round_bias": 0, "code_min": code, "code_max": code}, a["axis"])


def _between(low_end: int, high_end: int, exponent: int, source: Pending, node: ir.Node, low: Lowering) -> Pending:
    """`source` kept between multiples of 2**exponent: elements saturate at one magnitude in both directions. Rounding
    comes later and turns neither end into another. Raises Refused where the ends do not lie on its grid."""
    if low_end == 0 and is_op(node.inputs[0].producer(), "Relu"):
        low_end = -high_end  # nothing is negative, and elements saturate above
    if low_end == -high_end:
        return source

    def make(source: Wide) -> Clip:
        finer = exponent - source.lsb_exp
        if finer < 0:
            found = f"its input is a multiple of 2**{source.lsb_exp}, its scale 2**{exponent}"
            raise UnsupportedError(f"compile: node {node.name!r}: {found}; expected the finer input")
        return Clip(source, *(int(end) << finer for end in (low_end, high_end)))

    return low.add(make, [source], node, "range", ("range",), source.shape)
