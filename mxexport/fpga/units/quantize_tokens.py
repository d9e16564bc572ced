"""Tokens of wide integers -> MX blocks along the tokens: the values of an attention."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each, ram
from mxexport.fpga.datapaths import latencies
from mxexport.fpga.datapaths.weights import fit_group
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.lowering.readers import order_for_product
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.views import size_of
from mxexport.fpga.streams.words import power_of_two
from mxexport.fpga.unit import Folding, Memory, Refused, Timing
from mxexport.fpga.units.quantize import dynamic_quantizer, encoder_parts, shift_bits
from mxexport.model import graph
from mxexport.numbers import fixedpoint
from mxexport.numbers.groups import group_count, normalize_axis

_QUANTIZER = tuple(f.name for f in fields(fixedpoint.BlockQuantizer))


@dataclass(frozen=True)
class QuantizeTokens:
    """`source`: (tokens, channels) or (tokens, heads, channels of a head); the result has its axes in reverse order."""

    operator = ops.MXQuantizeTokens
    module = "mx_quantize_tokens"
    clocked = True
    status = {"clamped_o": 32, "error_o": 1}
    memory_kinds = ()
    vectorwise = False
    lowers = tuple((ops.DOMAIN, name) for name in graph.QUANTIZERS)

    source: Wide
    quantizer: fixedpoint.BlockQuantizer
    group_size: int
    format: str

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        """Where groups run along the tokens, which come one after the other."""
        x = node.inputs[0]
        source = low.elements(x)
        if source.view is None:
            return False
        axis = normalize_axis(graph.attributes(node)["axis"], len(source.view.axes))
        wanted = order_for_product(node.outputs[0], source.view)
        turn, by_tokens = wanted or (0, not source.view.trailing(axis) and source.view.leading(axis))
        if not by_tokens:
            return False
        if node.inputs[1].producer().inputs[0] is not x:
            raise Refused("its scale is not found from its own input; quantize the tensor that the layer reads")
        found = dynamic_quantizer(node)
        source = low.rotated(low.wide(source, node), turn) if turn else source
        sizes = source.view.sizes() if source.view.axes[axis] else (1, *source.view.sizes())  # one token is one, too
        if len(sizes) not in (2, 3) or sizes[0] != size_of(source.view.axes[axis]):
            raise Refused(f"groups run along axis {axis} of {source.view}; expected tokens, of one or several heads")
        wide = low.shaped(low.wide(source, node), sizes)
        order = [a for group in source.view.groups()[::-1] for a in group]
        outputs = ("codes", "scale_codes")
        make = lambda t: cls.of(t, node)  # noqa: E731
        made = low.add(make, [wide], node, "quantize", outputs, sizes[::-1], found.group_size)
        low.bind(node.outputs[0], replace(made, view=source.view.reordered(order)))
        return True

    @classmethod
    def of(cls, source: Wide, node: ir.Node) -> QuantizeTokens:
        """What a quantizer of a QONNX graph does to tokens. Raises Refused unless MXScale finds its scale."""
        if len(source.shape) not in (2, 3):
            raise Refused(f"it quantizes frames of shape {source.shape}; expected (T, C) or (T, H, C)")
        if not graph.is_ours(node.inputs[1].producer(), {"MXScale"}):
            raise Refused("its scale along the tokens is not found by MXScale; quantize with an MX format, not static")
        found = dynamic_quantizer(node)
        return cls(source, found.quantizer, fit_group(found.group_size, source.shape[0]), found.format)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> QuantizeTokens:
        a = graph.attributes(node)
        quantizer = fixedpoint.BlockQuantizer(**{key: a[key] for key in _QUANTIZER})
        return cls(*sources, quantizer, a["group_size"], node.metadata_props[graph.FORMAT_KEY])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Blocks:
        q = self.quantizer
        return Blocks(self.source.shape[::-1], self.format, self.group_size, q.code_min, q.code_max)

    @property
    def _tokens(self) -> int:
        return self.source.shape[0]

    @property
    def _heads(self) -> int:
        return math.prod(self.source.shape[1:-1])

    @property
    def _most(self) -> int:
        """Tokens of a block."""
        return min(self._tokens, self.group_size)

    @property
    def _tail(self) -> int:
        """Tokens of the last block."""
        return (self._tokens - 1) % self.group_size + 1

    def _words(self, lanes: int) -> int:
        """Beats of a token."""
        return self._heads * group_count(self.source.channels, lanes)

    def attributes(self) -> dict:
        kind = {"width": self.source.width, "lsb_exp": self.source.lsb_exp}
        return {"group_size": self.group_size, **kind, **asdict(self.quantizer)}

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {graph.FORMAT_KEY: self.format}

    def describe(self) -> str:
        return (
            f"{self.format} blocks along the tokens; all-zero blocks carry the lowest code {self.quantizer.code_min}."
        )

    def comment(self, layer: str, folding: Folding) -> str:
        columns = self.source.length // self._tokens
        return f"{layer}: {columns} columns of {self._tokens} tokens to {self.result.blocks} {self.format} blocks each"

    def foldings(self) -> list[Folding]:
        """As many tokens out as channels in, or more: who reads takes a block in few beats, values come slowly."""
        lanes = [1 << i for i in range(self.group_size.bit_length())]
        channels = [n for n in lanes if n < 2 * self.source.channels]
        found = [Folding(out, n) for n in channels for out in lanes if out >= n]
        return sorted(found, key=lambda f: (-self.cycles(f), f.simd, f.pe))

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.pe

    def parameters(self, folding: Folding) -> dict[str, int]:
        shape = {"Tokens": self._tokens, "Heads": self._heads, "K": self.source.channels}
        lanes = {"InLanes": folding.simd, "OutLanes": folding.pe}
        return shape | lanes | {"Signed": int(not self.source.nonnegative)}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return max(self.source.beats(folding.simd), self.result.beats(folding.pe))

    def timing(self, folding: Folding) -> Timing:
        """All vectors wait for the last token. The block before it has been encoded since its own last token came, the
        last one is encoded then: a block's time between them, whatever the last one has, if values come a beat a cycle.
        The first vector is whole with the last token's first word of the last head, unless that token is alone."""
        q, words = self.quantizer, self._words(folding.simd)
        beats = self.result.beats(folding.pe) // self.result.vectors
        enough = words - group_count(self.source.channels, folding.simd) if self._tail > 1 else words - 1
        found = latencies.quantize_tokens_latency(q.round_bias, q.binades)
        latency = found + (self._most - 1) * words - (words - 1) + enough + beats - 1
        return Timing(np.full(self.result.vectors, self.source.vectors - 1), beats, latency)

    def through(self, folding: Folding) -> bool:
        return False

    def parts(self, folding: Folding) -> Parts:
        """Values of a block, what finds the scale of a column, encoders, codes of two frames."""
        lanes, out, q = folding.simd, folding.pe, self.quantizer
        bound, words, blocks = self.source.width - self.source.nonnegative, self._words(lanes), self.result.blocks
        slack = 10 if q.round_bias else 7
        depth = (self._most - 1) * words + slack
        scales = power_of_two((1 + (self._tail < self._most)) * words + slack)
        frame, bits = group_count(self._tokens, out) * words, self.result.bits
        codes = ram(2 * frame, lanes * bits)
        memories = {
            "values": ram(depth, lanes * self.source.width),
            "largest": ram(words, lanes * bound),
            "found": ram(scales, lanes * (8 + max(shift_bits(self.source, q), 1))),
            "frame_scales": ram(2 * blocks * words, lanes * 8),
            "frame_codes": codes * out,
        }
        counted = 2 * (depth.bit_length() + words.bit_length() + self.result.vectors.bit_length())
        return (
            memories
            | encoder_parts(self.source, q, bits, lanes)
            | {
                "unit": each(60),
                "places": each(counted + 4 * scales.bit_length() + frame.bit_length()),
                "magnitudes": each(2 * lanes * bound),
                "columns": each(lanes * bound),
                "column_scales": each(10 * lanes),
                "compared": each(lanes * bound * bool(q.round_bias)),
                "lanes_out": each(out),
                "words_out": Area(ff=out * lanes * bits * (not codes.bram36)),
                "chosen": Area(lut=(out * bits + 8) * lanes, ff=out * bits + 8),
            }
        )

    def bound(self, x: np.ndarray) -> None:
        return None
