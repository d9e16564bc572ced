"""Wide integers -> MX blocks along the channels: the scale is found at run time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.area import Area, exponent_bits, ram
from mxexport.fpga.lowering import Lowering
from mxexport.fpga.types import Blocks, Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.fpga.weights import fit_group, mx_format
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import is_op
from mxexport.numbers import fixedpoint, groups, numerics
from mxexport.numbers.formats import E8M0_NAN, GroupFormat, find_format

_QUANTIZER = tuple(f.name for f in fields(fixedpoint.BlockQuantizer))


@dataclass(frozen=True)
class Quantize:
    operator = ops.MXQuantize
    module = "mx_quantize"
    clocked = True
    status = {"clamped_o": 32, "error_o": 1}
    memory_kinds = ()
    lowers = tuple((ops.DOMAIN, name) for name in graph.QUANTIZERS)

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
        fmt, limits, axis = _static(node) if static else _dynamic(node)
        source = low.stream(x)
        if not static and scale.inputs[0] is not x:
            raise Refused("its scale is not found from its own input; quantize the tensor that the layer reads")
        if (before := low.maker(x)) is not None and graph.is_ours(before, graph.QUANTIZERS):
            raise Refused(f"quantizes what {before.name!r} has quantized already; one quantizer feeds a product")
        rank = None if x.shape is None else len(x.shape)
        source = low.wide(low.image(x, source) if rank in (3, 4) else low.features(x, source), node)
        if groups.normalize_axis(axis, rank) != 1:
            expected = "the features" if rank == 2 else "the channels"
            raise Refused(f"groups run along axis {axis}; expected {expected}, axis 1")
        parameters = fixedpoint.element_parameters(fmt.element)
        quantizer = fixedpoint.BlockQuantizer(**parameters, emax=fmt.element.emax, **limits)

        def make(source: Wide) -> Quantize:
            return cls(source, quantizer, fit_group(fmt.group_size, source.channels), fmt.name, static)

        outputs = ("codes", "scale_codes")
        made = low.add(make, [source], node, "quantize", outputs, source.shape, fmt.group_size)
        low.bind(node.outputs[0], made)
        return True

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
        return lane_foldings(self.group_size)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"K": self.source.channels, "Vectors": self.source.vectors, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        beats = self.result.beats(folding.simd) // self.source.vectors
        return Timing(np.arange(self.source.vectors), beats, 9 + self.group_size // folding.simd)

    def area(self, folding: Folding) -> Area:
        lanes, width = folding.simd, self.source.width
        depth = 2 * max(self.group_size // lanes, 1)
        per_lane = width * {0: 5.8, 2: 5.2, 3: 6.0, 4: 8.6}.get(exponent_bits(self.result.element), 8.8)
        return Area(lut=130 + lanes * per_lane, ff=130 + lanes * 3 * width) + ram(depth, lanes * width)

    def bound(self, x: np.ndarray) -> None:
        return None


def _dynamic(node: ir.Node) -> tuple[GroupFormat, dict[str, int], int]:
    """(format, scale rule and range, axis) of a quantizer whose scale MXScale finds. Raises Refused."""
    fmt, a = mx_format(node), graph.attributes(node.inputs[1].producer())
    if a["emax"] != fmt.element.emax or a["frac_bits"] != fmt.step_frac_bits:
        raise Refused(f"its shared scale is not that of OCP {fmt.name} (emax {a['emax']}); not lowered yet")
    return fmt, {key: a[key] for key in ("round_bias", "code_min", "code_max")}, a["axis"]


def _static(node: ir.Node) -> tuple[GroupFormat, dict[str, int], int]:
    """The same of one constant power of two for the whole tensor: a range of one code. Raises Refused."""
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
    if not a.get("signed", 1) or not a.get("narrow", 1):
        raise Refused("its codes are unsigned or reach -2**(bits-1); expected signed, narrow ones")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        raise Refused("it has a zero point; expected none")
    fmt = find_format(ops.OPERATORS[node.op_type].element_of(a, True), _STATIC_GROUP, "e8m0")
    code = int(numerics.codes_from_scale(scale.reshape(-1)[:1], fmt.step_frac_bits)[0])
    if not 0 < code < E8M0_NAN:
        raise Refused(f"its scale {scale.ravel()[0]:g} is no scale of {fmt.name}")
    return fmt, {"round_bias": 0, "code_min": code, "code_max": code}, a["axis"]


_STATIC_GROUP = 32
"""One scale serves every group; so many elements a group, as weights have."""
