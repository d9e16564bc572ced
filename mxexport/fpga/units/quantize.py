"""Wide integers -> MX blocks along the channels: the scale is found at run time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.lowering import Lowering
from mxexport.fpga.types import Blocks, Wide
from mxexport.fpga.unit import Folding, Memory, Refused
from mxexport.fpga.weights import mx_format
from mxexport.model import graph
from mxexport.numbers import fixedpoint, groups

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

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> None:
        x, scale = node.inputs[0], node.inputs[1].producer()
        fmt = mx_format(node)
        if not graph.is_ours(scale, {"MXScale"}):
            raise Refused("the activation scale is not found at run time by MXScale; static scales are not lowered yet")
        source = low.stream(x)
        if scale.inputs[0] is not x:
            raise Refused("does not follow the layer before it; branches are not lowered yet")
        if (before := low.maker(x)) is not None and graph.is_ours(before, graph.QUANTIZERS):
            raise Refused(f"quantizes what {before.name!r} has quantized already; one quantizer feeds a product")
        source, a = low.features(x, source), graph.attributes(scale)
        if a["emax"] != fmt.element.emax or a["frac_bits"] != fmt.step_frac_bits:
            raise Refused(f"its shared scale is not that of OCP {fmt.name} (emax {a['emax']}); not lowered yet")
        if groups.normalize_axis(a["axis"], 2) != 1:
            raise Refused(f"groups run along axis {a['axis']}; expected the features, axis 1")
        parameters = fixedpoint.element_parameters(fmt.element)
        limits = {key: a[key] for key in ("round_bias", "code_min", "code_max")}
        quantizer = fixedpoint.BlockQuantizer(**parameters, emax=fmt.element.emax, **limits)

        def make(source: Wide) -> Quantize:
            return cls(source, quantizer, fmt.group_size, fmt.name)

        outputs = ("codes", "scale_codes")
        made = low.add(make, [source], node, "quantize", outputs, source.shape, fmt.group_size)
        low.bind(node.outputs[0], made)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Quantize:
        a = graph.attributes(node)
        quantizer = fixedpoint.BlockQuantizer(**{key: a[key] for key in _QUANTIZER})
        return cls(*sources, quantizer, a["group_size"], node.metadata_props[graph.FORMAT_KEY])

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
        return {graph.FORMAT_KEY: self.format}

    def describe(self) -> str:
        return f"{self.format} blocks; all-zero blocks carry the lowest code {self.quantizer.code_min}."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {self.source.channels} wide integers to {self.result.blocks} {self.format} blocks"

    def foldings(self) -> list[Folding]:
        return [Folding(1 << i, 1 << i) for i in range(self.group_size.bit_length())]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {"K": self.source.channels, "Lanes": folding.simd}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.result.beats(folding.simd)

    def bound(self, x: np.ndarray) -> None:
        return None
