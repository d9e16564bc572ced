"""Depthwise convolution of MX blocks with weights in ROM: every channel with its own taps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, rom, shift_left, total
from mxexport.fpga.datapaths import dots, latencies
from mxexport.fpga.datapaths.accumulator import own_bias, per_output, sized, spatial_rank
from mxexport.fpga.datapaths.weights import Weight, read_weight, weight_quantizer
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.lowering.lowering import Lowering
from mxexport.fpga.streams.layouts import is_depthwise
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, lane_foldings
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers import fixedpoint, spatial
from mxexport.numbers.formats import get_format
from mxexport.numbers.groups import group_count


@dataclass(frozen=True, eq=False)
class Depthwise:
    """`weight`: codes and E8M0 codes [C, taps]; `bias` int64 [C] in units of the accumulator's lowest bit."""

    operator = ops.MXDepthwise
    module = "mx_depthwise"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ("weight", "scale", "bias")
    vectorwise = False
    lowers = (("", "Conv"),)

    source: Blocks
    window: Window
    weight: Weight
    bias: np.ndarray
    scale_offset: int
    width: int
    lsb_exp: int

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if not is_depthwise(node):
            return False
        source, quantizer = low.blocks(node.inputs[0]), weight_quantizer(node.inputs[1])
        if quantizer is None:
            raise Refused("its weight is not a quantized initializer; give quantize_model an MX weight format")
        weight, bias = read_weight(quantizer, 1), own_bias(node)
        window = Window.of_node(node, tuple(node.inputs[1].shape[2:]), source.shape)
        channels, result = len(weight.codes), node.outputs[0]
        bias = None if bias is None else per_output(bias, channels, 0)
        if bias is None:
            result, added = low.take_bias(node)
            adder = result.producer()
            bias = None if added is None else per_output(added, channels, spatial_rank(node), adder)

        def make(blocks: Blocks) -> Depthwise:
            found = sized(node.name, blocks, weight, bias)
            return cls(blocks, window, weight, found.bias, found.scale_offset, found.width, found.lsb_exp)

        shape = None if source.shape is None else (*window.output(source.shape), channels)
        low.bind(result, low.add(make, [source], node, "depthwise", ("wide",), shape), node)
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Depthwise:
        a = graph.attributes(node)
        codes, scale_codes, bias = (constant_array(value) for value in node.inputs[2:])
        weight = Weight(get_format(node.metadata_props[graph.FORMAT_KEY]), codes.T, scale_codes.T, 1)
        return cls(*sources, Window.of_attributes(a), weight, bias, a["scale_offset"], a["width"], a["lsb_exp"])

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        return Wide((*self.window.output(self.source.shape), self.source.channels), self.width, self.lsb_exp)

    def attributes(self) -> dict:
        x, w = (fixedpoint.element_parameters(e) for e in (self.source.element, self.weight.format.element))
        return {
            "group_size": self.source.group_size,
            **self.window.attributes(),
            "code_min": self.source.code_min,
            "x_exponent_bits": x["exponent_bits"],
            "x_mantissa_bits": x["mantissa_bits"],
            "w_exponent_bits": w["exponent_bits"],
            "w_mantissa_bits": w["mantissa_bits"],
            "scale_offset": self.scale_offset,
            "width": self.width,
            "lsb_exp": self.lsb_exp,
        }

    def constants(self) -> dict[str, np.ndarray]:
        codes, scale_codes = self.weight.codes.T, self.weight.scale_codes.T
        return {"weight_codes": codes, "weight_scale_codes": scale_codes, "bias": self.bias}

    def metadata(self) -> dict[str, str]:
        return {graph.FORMAT_KEY: self.weight.format.name}

    def describe(self) -> str:
        formats = f"{self.source.format} x {self.weight.format.name}"
        windows = f"depthwise windows of {self.window}"
        return f"{formats}, {windows}; exact accumulator of {self.width} bits, one unit is 2**{self.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        windows = f"depthwise windows of {self.window} over {list(self.source.shape)}"
        return f"{layer}: {windows}, {self.weight.format.name} weights, {self.cycles(folding)} cycles per frame"

    def foldings(self) -> list[Folding]:
        x, taps = self.source, self.weight.codes.shape[1]
        pixel = x.vector_lanes
        at_once = [
            Folding(pixel if n == 1 else x.channels, pixel, taps, n) for n in self.window.pixels_at_once(x.shape)
        ]
        return lane_foldings(x.group_size) + at_once

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return self.window.lanes(folding)

    def parameters(self, folding: Folding) -> dict[str, int]:
        x = self.source
        shift = x.code_max + int(self.weight.scale_codes.max()) - self.scale_offset
        numbers = {"Lanes": folding.pe, "K": x.channels, "ShiftMax": shift, "HasBias": int(self.bias.any())}
        return self.window.sizes(x.shape) | numbers | {"Pixels": folding.at_once}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """weight and scale  word (beat, tap)  field l = channel beat*lanes + l; bias  word (beat)  field l.
        With several taps at once one word, field tap*channels + l."""
        channels = self.source.channels
        lanes = channels if folding.taps > 1 else folding.simd
        beats = group_count(channels, lanes)

        def words(array: np.ndarray) -> np.ndarray:
            padded = np.pad(array, ((0, beats * lanes - channels), (0, 0)))
            return padded.reshape(beats, lanes, -1).swapaxes(1, 2).reshape(-1, lanes)

        codes, scale = words(self.weight.codes), words(self.weight.scale_codes)
        if folding.taps > 1:
            codes, scale = codes.reshape(1, -1), scale.reshape(1, -1)
        found = {"weight": Memory(codes, self.weight.format.element.bits), "scale": Memory(scale, 8)}
        if self.bias.any():
            found["bias"] = Memory(words(self.bias[:, None]), self.width)
        return found

    def cycles(self, folding: Folding) -> int:
        x = self.source
        if folding.taps > 1:
            return x.vectors // folding.pixels
        return self.window.cycles(x.shape, x.blocks * (x.group_size // folding.simd))

    def timing(self, folding: Folding) -> Timing:
        product_latency = latencies.mul_latency(self.source.element, self.weight.format.element)
        if folding.taps > 1:
            terms = folding.taps + bool(self.bias.any())
            latency = product_latency + 3 + latencies.sum_latency(terms)
            return self.window.at_once(self.source.shape, folding.pixels, latency)
        taps = self.window.kernel[0] * self.window.kernel[1]
        beats = taps * self.source.blocks * (self.source.group_size // folding.simd)
        latency = taps * group_count(self.source.channels, folding.simd) + product_latency + 6
        return Timing(self.window.needs(self.source.shape), beats, latency, (self.window, self.source.shape))

    def through(self, folding: Folding) -> bool:
        return folding.taps > 1

    def parts(self, folding: Folding) -> Parts:
        x, w = self.source.element, self.weight.format.element
        if folding.taps > 1:
            made = self.source.channels * folding.taps * self.window.made_at_once(folding.pixels)
            bits = self.source.beat_bits(folding.simd)
            found = self.window.taps_parts(self.source.shape, bits, folding.pixels)
            products = {f"tap_{kind}": piece * made for kind, piece in dots.product(x, w).items()}
            return found | products | {"tap_sums": each(made * self.width), "weighted": each(made)}
        lanes, beats, taps = folding.simd, group_count(self.source.channels, folding.simd), self.weight.codes.shape[1]
        shift = (self.source.code_max + int(self.weight.scale_codes.max()) - self.scale_offset).bit_length()
        moved = shift_left(x.linear_bits + w.linear_bits, self.width, shift)
        memories = total(rom(beats * taps, lanes * width) for width in (w.bits, 8))
        if self.bias.any():
            memories += rom(beats, lanes * self.width)
        products = {kind: piece * lanes for kind, piece in dots.product(x, w).items()}
        return (
            self.window.line_parts(self.source, lanes)
            | products
            | {
                "shifted": each(moved * lanes),
                "sums": each(self.width * lanes),
                "lanes": each(lanes),
                "memories": memories,
            }
        )

    def bound(self, x: np.ndarray) -> np.ndarray:
        """How far products in float32 may be off: (taps + 2) * 2**-23 * (|x| . |w| + |bias|) + half an LSB."""
        window = self.window
        taps = spatial.taps(np.abs(x), window.kernel, window.strides, window.pads, window.dilations, 0)
        w, bias = np.abs(self.weight.values()), np.abs(np.ldexp(self.bias.astype(np.float64), self.lsb_exp))
        size = (taps * w.T).sum(-2) + bias
        return (w.shape[1] + 2) * 2.0**-23 * size + 2.0 ** (self.lsb_exp - 1)
