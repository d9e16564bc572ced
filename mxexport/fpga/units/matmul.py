"""Matrix product of MX blocks with weights in ROM: the exact accumulator, sized from the weights themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Area, Parts, each, in_block_ram, ram, rom
from mxexport.fpga.datapaths.accumulator import Accumulator, joined, own_bias, per_output, sized, spatial_rank
from mxexport.fpga.datapaths.datapath import Datapath
from mxexport.fpga.datapaths.stacked import concatenated, layers, turns_of
from mxexport.fpga.datapaths.weights import Weight, fit_group, read_weight, split_part, weight_quantizer
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.lowering.lowering import Lowering, Pending
from mxexport.fpga.streams.layouts import group_count_of, is_depthwise
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.views import View
from mxexport.fpga.streams.words import rom_pieces
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, block_foldings, lane_counts
from mxexport.fpga.units.insert import Insert
from mxexport.fpga.units.window import MXWindow
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers import fixedpoint, groups
from mxexport.numbers.formats import get_format


@dataclass(frozen=True, eq=False)
class MatMul:
    """`weight`: codes [O, K] and E8M0 codes [O, n]; `bias` int64 [O] in units of the accumulator's lowest bit."""

    operator = ops.MXMatMul
    module = "mx_matmul"
    clocked = True
    status = {"error_o": 1}
    memory_kinds = ("weight", "scale", "bias")
    vectorwise = True
    lowers = (("", "MatMul"), ("", "Gemm"), ("", "Conv"), ("", "ConvTranspose"))

    source: Blocks
    weight: Weight
    bias: np.ndarray
    scale_offset: int
    width: int
    lsb_exp: int
    others: tuple[MatMul, ...] = ()
    """Those of later turns, whose weights, scales and biases it takes in turn."""

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if is_depthwise(node):
            return False
        source, sequence = low.sequence_blocks(node.inputs[0]), node.op_type in ("MatMul", "Gemm")
        source = source if sequence or source.view is None else low.settled(source, source.view)
        quantizer, transposed, part = _weight_of(node)
        if quantizer is None:
            raise Refused("its weight is not a quantized initializer; give quantize_model an MX weight format")
        bias = own_bias(node)
        if node.op_type == "ConvTranspose":
            source, window = _inserted(node, source, low)
        else:
            window = _window_of(node, source)
        kind = {"flipped": node.op_type == "ConvTranspose", "convolution_groups": group_count_of(node), "part": part}
        weight = read_weight(quantizer, 1 if transposed else 0, whole_groups=window is not None, **kind)
        if source.group_size not in (None, weight.format.group_size):
            raise Refused(
                f"weight groups of {weight.format.group_size} and activation groups of {source.group_size}; "
                "expected the same group size"
            )
        if window is not None:
            source = _windows(node, window, source, low)
        bias = None if bias is None else per_output(bias, len(weight.codes), 0)
        result = node.outputs[0]
        if bias is None:
            result, added = low.take_bias(node)
            bias = (
                None if added is None else per_output(added, len(weight.codes), spatial_rank(node), result.producer())
            )

        def make(blocks: Blocks) -> MatMul:
            found = sized(node.name, blocks, weight, bias)
            return cls(blocks, weight, found.bias, found.scale_offset, found.width, found.lsb_exp)

        known = source.shape is not None and source.blocked is None  # a refusal before it leaves shapes open
        if known and source.shape[-1] != weight.codes.shape[1]:
            raise Refused(f"weight has {weight.codes.shape[1]} inputs, the stream before it {source.shape[-1]}")
        shape = None if source.shape is None else (*source.shape[:-1], len(weight.codes))
        view = None if source.view is None else _of_tokens(source.view).with_last(-1, len(weight.codes))
        low.bind(result, low.add(make, [source], node, "matmul", ("wide",), shape, view=view), node)
        return True

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> MatMul:
        a = graph.attributes(node)
        codes, scale_codes, bias = (constant_array(value) for value in node.inputs[2:])
        weight = Weight(get_format(node.metadata_props[graph.FORMAT_KEY]), codes, scale_codes, a["group_size"])
        return cls(*sources, weight, bias, a["scale_offset"], a["width"], a["lsb_exp"])

    @classmethod
    def alike(cls, units: list[MatMul]) -> list[MatMul]:
        """Those of all turns, in one accumulator that holds each exactly."""
        found = joined([Accumulator(u.bias, u.scale_offset, u.width, u.lsb_exp) for u in units])
        return [
            replace(u, bias=a.bias, scale_offset=a.scale_offset, width=a.width, lsb_exp=a.lsb_exp)
            for u, a in zip(units, found, strict=True)
        ]

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def rows(self) -> int:
        return len(self.weight.codes)

    @property
    def result(self) -> Wide:
        return Wide((*self.source.shape[:-1], self.rows), self.width, self.lsb_exp)

    def attributes(self) -> dict:
        x, w = (fixedpoint.element_parameters(e) for e in (self.source.element, self.weight.format.element))
        return {
            "group_size": self.source.group_size,
            "x_exponent_bits": x["exponent_bits"],
            "x_mantissa_bits": x["mantissa_bits"],
            "w_exponent_bits": w["exponent_bits"],
            "w_mantissa_bits": w["mantissa_bits"],
            "scale_offset": self.scale_offset,
            "width": self.width,
            "lsb_exp": self.lsb_exp,
        }

    def constants(self) -> dict[str, np.ndarray]:
        """Inputs of its node behind the stream."""
        return {"weight_codes": self.weight.codes, "weight_scale_codes": self.weight.scale_codes, "bias": self.bias}

    def metadata(self) -> dict[str, str]:
        return {graph.FORMAT_KEY: self.weight.format.name}

    def describe(self) -> str:
        formats = f"{self.source.format} x {self.weight.format.name}"
        return f"{formats}; exact accumulator of {self.width} bits, one unit is 2**{self.lsb_exp}."

    def comment(self, layer: str, folding: Folding) -> str:
        shape = f"[{self.rows}, {self.source.channels}]"
        return f"{layer}: {shape} {self.weight.format.name} weights, {self.cycles(folding)} cycles per frame"

    def foldings(self) -> list[Folding]:
        lanes = [f.simd for f in block_foldings(self.source)]
        return self._datapath(Folding(1, 1)).foldings(lane_counts(self.rows), lanes)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.pe

    def parameters(self, folding: Folding) -> dict[str, int]:
        sizes = {"K": self.source.channels, "Vectors": self.source.vectors, "HasBias": int(self._has_bias)}
        return sizes | self._datapath(folding).parameters() | layers(self)

    def _datapath(self, folding: Folding) -> Datapath:
        element = self.weight.format.element
        largest = max(int(u.weight.scale_codes.max()) for u in turns_of(self))
        shift_max = self.source.code_max + largest - self.scale_offset
        return Datapath(self.source, element, self.rows, self._symmetric, self.width, shift_max, folding)

    @cached_property
    def _symmetric(self) -> bool:
        """Whether no weight is -2**(bits - 1)."""
        least = -(2 ** (self.weight.format.element.linear_bits - 1))
        return all(bool((u.weight.linear() > least).all()) for u in turns_of(self))

    @cached_property
    def _has_bias(self) -> bool:
        return any(bool(u.bias.any()) for u in turns_of(self))

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Row o is computed by processing element o % pe in fold o // pe; missing rows and elements are zero.

        weight  word (fold, beat)   field p*simd + s = code of row fold*pe + p, element beat*simd + s
                                    in pairs, field (p*simd + 2*s) + r = row r of the pair from p on; see _packed
        scale   word (fold, block, turn)  field g    = scale code of row fold*pe + g*turns + turn
                                    of n blocks a beat, where turns = 1, field g*n + b = the same of block b of it
        bias    word (fold, turn)   field g          = bias of row fold*pe + g*turns + turn (absent without bias)

        Of several layers in turn, the words of one stand behind those of the other.
        """
        return concatenated([self._own_memories(u, folding) for u in turns_of(self)])

    def _own_memories(self, unit: MatMul, folding: Folding) -> dict[str, Memory]:
        """Those of one layer."""
        pe, simd, group_size, blocks = folding.pe, folding.simd, self.source.group_size, self.source.blocks
        rows, length = unit.weight.codes.shape
        folds = groups.group_count(rows, pe)
        more_rows = folds * pe - rows
        element, path = unit.weight.format.element, self._datapath(folding)
        pairs = path.pairs
        stored, width = (unit.weight.linear(), element.linear_bits) if pairs else (unit.weight.codes, element.bits)
        stored = np.pad(stored, ((0, more_rows), (0, blocks * group_size - length)))
        stored = stored.reshape(folds, pe, -1, simd)
        stored = (_packed(stored, width) if pairs else stored).swapaxes(1, 2).reshape(-1, pe * simd)
        across, turns = path.across, path.turns
        scale = self._in_turns(np.pad(unit.weight.scale_codes, ((0, more_rows), (0, 0))), folding)
        scale = scale.reshape(folds, -1, turns, blocks // across, across).transpose(0, 3, 2, 1, 4)
        found = {"weight": Memory(stored, width), "scale": Memory(scale.reshape(scale[:, :, :, 0, 0].size, -1), 8)}
        if self._has_bias:
            bias = self._in_turns(np.pad(unit.bias, (0, more_rows)), folding)
            bias = bias.reshape(folds, -1, turns).swapaxes(1, 2).reshape(folds * turns, -1)
            found["bias"] = Memory(bias, self.width)
        return found

    def _words(self, folding: Folding) -> int:
        """Of the weights: the beats of a vector in every fold, for every layer."""
        path = self._datapath(folding)
        return path.folds * path.beats * len(turns_of(self))

    def _late(self, folding: Folding) -> bool:
        """Whether weights that are chosen from pieces of block RAM pass a register, before products in LUTs."""
        width = folding.pe * folding.simd * self.weight.format.element.bits
        words = self._words(folding)
        in_pieces = in_block_ram(words, width, 128) and len(rom_pieces(words)) > 1
        return not self._datapath(folding).takes_dsp and in_pieces

    def _in_turns(self, rows: np.ndarray, folding: Folding) -> np.ndarray:
        """[folds * pe, ...] -> [folds, groups * turns, ...]: zeros where a fold's last group has fewer rows."""
        turns, folded = self._datapath(folding).turns, rows.reshape(-1, folding.pe, *rows.shape[1:])
        missing = -folding.pe % turns
        return np.pad(folded, [(0, 0), (0, missing), *[(0, 0)] * (rows.ndim - 1)])

    def cycles(self, folding: Folding) -> int:
        return math.ceil(self.rows / folding.pe) * self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        path = self._datapath(folding)
        return Timing(np.arange(self.source.vectors), path.folds * path.beats, path.latency(self._late(folding)))

    def through(self, folding: Folding) -> bool:
        return math.ceil(self.rows / folding.pe) == 1  # else a replay buffer stands before it

    def parts(self, folding: Folding) -> Parts:
        """Counted as mx_matmul builds it."""
        path, words, x = self._datapath(folding), self._words(folding), self.source.element
        lanes, shift = folding.pe * folding.simd, path.shift_max.bit_length()
        beat = path.across * shift + folding.simd * x.bits
        count = len(turns_of(self))
        scale_words = path.folds * path.places * path.turns * count
        scales = rom(scale_words, shift * path.groups * path.across)
        if self._has_bias:
            largest = max(int(np.abs(u.bias).max()) for u in turns_of(self))
            bits = min(largest.bit_length() + 1, self.width)
            scales += rom(path.folds * path.turns * count, bits * path.groups)
        found = path.parts(few=words <= 2)
        if path.folds > 1:
            found |= {"replayed": ram(2 * path.beats, beat), "replay": each(45)}
        counted = (words.bit_length() + scale_words.bit_length() + self.source.vectors.bit_length()) * 2
        late = lanes * self.weight.format.element.bits + folding.simd * x.bits
        return found | {
            "weights": rom(words, lanes * path.stored_bits, 128),
            "late": Area(ff=late * self._late(folding)),
            "scales": scales,
            "beats": each(beat),
            "counters": each(counted),
            "unit": each(35),
        }

    def bound(self, x: np.ndarray) -> np.ndarray:
        """How far a product in float32 may be off, for inputs x (float64 [N, K]) as the graph dequantizes them:
        (K + 2) * 2**-23 * (|x| . |w| + |bias|) + half an LSB of the accumulator, to which the bias is rounded."""
        w, bias = np.abs(self.weight.values()), np.abs(np.ldexp(self.bias.astype(np.float64), self.lsb_exp))
        return (x.shape[-1] + 2) * 2.0**-23 * (np.abs(x) @ w.T + bias) + 2.0 ** (self.lsb_exp - 1)


def _packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Linear values int64 [folds, pe, beats, simd] with rows in pairs: elements side by side, the odd row less one
    where the even row is negative, as the packed factor of mx_dot_pair wants it; in two's complement."""
    even, odd = values[:, 0::2], values[:, 1::2]
    pairs = np.stack([even, odd - (even < 0)], -1) & (2**bits - 1)  # [folds, pe / 2, beats, simd, 2]
    folds, half, beats, simd, _ = pairs.shape
    return pairs.reshape(folds, half, beats, 2, simd).swapaxes(2, 3).reshape(folds, 2 * half, beats, simd)


def _weight_of(node: ir.Node) -> tuple[ir.Node | None, bool, tuple[int, slice] | None]:
    """The quantizer of the weight, whether the weight lies as [outputs, inputs], and which part of it is read."""
    w, transposed = node.inputs[1], node.op_type == "Conv"  # [outputs, inputs, ...], turned in ConvTranspose
    if w.producer() is not None and w.producer().op_type == "Transpose":
        transposed, w = True, w.producer().inputs[0]
    if node.op_type == "Gemm":
        transposed ^= bool(node.attributes["transB"].value if "transB" in node.attributes else 0)
    return weight_quantizer(w), transposed, split_part(w)


def _window_of(node: ir.Node, source: Pending) -> Window | None:
    """The windows that a product runs over; None where it takes vectors as they come."""
    if node.op_type != "Conv":
        return None
    found = Window.of_node(node, tuple(node.inputs[1].shape[2:]), source.shape)
    return None if found.moves_only else found


def _of_tokens(view: View) -> View:
    """The view of a product's operand. Raises Refused unless products run along vectors."""
    if not view.trailing(-1):
        raise Refused(f"its input has the axes {view}, of which the last does not come last; expected channels last")
    return view


def _inserted(node: ir.Node, source: Pending, low: Lowering) -> tuple[Pending, Window | None]:
    """What a transposed convolution slides over, and how: zeros stand between the pixels, taps are flipped."""
    if group_count_of(node) != 1:
        raise Refused(f"it has {group_count_of(node)} groups; transposed convolutions are lowered with one")
    kernel = tuple(node.inputs[1].shape[2:])
    if "output_shape" in node.attributes:
        raise Refused("it states an output_shape; export with pads and output_padding")
    plain = Window.of_node(node, kernel, None)
    more = node.attributes["output_padding"].value if "output_padding" in node.attributes else [0] * len(kernel)
    spans = [(k - 1) * d for k, d in zip(plain.kernel, plain.dilations, strict=True)]
    pads = tuple(spans[i % 2] - p for i, p in enumerate(plain.pads))
    if min(pads) < 0:
        raise Refused(f"its pads {list(plain.pads)} cut into the result; expected at most {spans}")
    window, more = Window(plain.kernel, (1, 1), pads, plain.dilations), (*more, 0)[:2]
    if plain.strides != (1, 1) or any(more):
        shape = source.shape
        if shape is not None:
            size = [(n - 1) * s + 1 + m for n, s, m in zip(shape[:2], plain.strides, more, strict=True)]
            shape = (*size, shape[2])
        outputs = ("inserted", "inserted_scale_codes")
        make = lambda t: Insert(t, plain.strides, more)  # noqa: E731
        source = low.add(make, [source], node, "insert", outputs, shape, source.group_size)
    return source, None if window.moves_only else window


def _windows(node: ir.Node, window: Window, source: Pending, low: Lowering) -> Pending:
    """The operand of a convolution, in the order of its weight: taps, then channels."""
    shape = None
    if source.shape is not None:
        channels = source.shape[2]
        size = fit_group(source.group_size or 1, channels)
        taps = math.prod(window.kernel)
        shape = (*window.output(source.shape), taps * groups.group_count(channels, size) * size)
    outputs = ("window", "window_scale_codes")
    return low.add(lambda t: MXWindow(t, window), [source], node, "window", outputs, shape, source.group_size)
