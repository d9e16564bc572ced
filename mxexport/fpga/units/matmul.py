"""Matrix product of MX blocks with weights in ROM: the exact accumulator, sized from the weights themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.fpga import dots, latencies
from mxexport.fpga.accumulator import own_bias, per_output, sized, spatial_rank
from mxexport.fpga.area import Area, Parts, each, exponent_bits, in_block_ram, ram, rom, shift_left
from mxexport.fpga.layouts import group_count_of, is_depthwise
from mxexport.fpga.lowering import Lowering, Pending
from mxexport.fpga.types import Blocks, Wide
from mxexport.fpga.unit import Folding, Memory, Refused, Timing, block_foldings, lane_counts
from mxexport.fpga.units.insert import Insert
from mxexport.fpga.units.window import MXWindow
from mxexport.fpga.views import View
from mxexport.fpga.weights import Weight, fit_group, read_weight, weight_quantizer
from mxexport.fpga.windows import Window
from mxexport.fpga.words import rom_pieces
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers import fixedpoint, groups
from mxexport.numbers.formats import get_format

# Yosys estimates (LUT) that decide between foldings of equal speed: one row's shift and accumulator, and one lane of
# the quantizer before the unit.
_LUT_PER_ROW, _LUT_PER_LANE = 150, 60


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

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        if is_depthwise(node):
            return False
        source, sequence = low.sequence_blocks(node.inputs[0]), node.op_type in ("MatMul", "Gemm")
        source = source if sequence or source.view is None else low.settled(source, source.view)
        quantizer, transposed = _weight_of(node)
        if quantizer is None:
            raise Refused("its weight is not a quantized initializer; give quantize_model an MX weight format")
        bias = own_bias(node)
        if node.op_type == "ConvTranspose":
            source, window = _inserted(node, source, low)
        else:
            window = _window_of(node, source)
        kind = {"flipped": node.op_type == "ConvTranspose", "convolution_groups": group_count_of(node)}
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

        if source.shape is not None and source.shape[-1] != weight.codes.shape[1]:
            found = f"weight has {weight.codes.shape[1]} inputs, the stream before it {source.shape[-1]}"
            raise UnsupportedError(f"compile: node {node.name!r}: {found}")
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
        found = sorted((Folding(pe, simd) for pe in lane_counts(self.rows) for simd in lanes), key=_size)
        return [g for f in found for g in (*[replace(f, luts=1)] * self._takes_dsp(f), f)]

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.pe

    def parameters(self, folding: Folding) -> dict[str, int]:
        return {
            "K": self.source.channels,
            "Vectors": self.source.vectors,
            "Rows": self.rows,
            "Pe": folding.pe,
            "Simd": folding.simd,
            "ShiftMax": self.source.code_max + int(self.weight.scale_codes.max()) - self.scale_offset,
            "HasBias": int(self.bias.any()),
            "UseDsp": -1 if self._takes_dsp(folding) else 0,
            "Pair": int(self._pairs(folding)),
        }

    def _takes_dsp(self, folding: Folding) -> bool:
        """Whether its products are made by DSP slices, unless LUTs are asked for."""
        x, w = self.source.element, self.weight.format.element
        integers = not (exponent_bits(x) or exponent_bits(w))
        return not folding.luts and (self._pairs(folding) or (integers and x.bits * w.bits >= dots.DSP_BITS))

    def _pairs(self, folding: Folding) -> bool:
        """Whether rows go in pairs, two products of linear values per DSP slice: where these are short, but no table
        of a LUT, and no weight is -2**(bits - 1)."""
        x, w = (e.linear_bits for e in (self.source.element, self.weight.format.element))
        if folding.luts or folding.pe % 2 or x > 9 or w > 8 or x * w < 32:
            return False
        return bool((self.weight.linear() > -(2 ** (w - 1))).all())

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Row o is computed by processing element o % pe in fold o // pe; missing rows and elements are zero.

        weight  word (fold, beat)   field p*simd + s = code of row fold*pe + p, element beat*simd + s
                                    in pairs, field (p*simd + 2*s) + r = row r of the pair from p on; see _packed
        scale   word (fold, block, turn)  field g    = scale code of row fold*pe + g*turns + turn
                                    of n blocks a beat, where turns = 1, field g*n + b = the same of block b of it
        bias    word (fold, turn)   field g          = bias of row fold*pe + g*turns + turn (absent without bias)
        """
        pe, simd, group_size, blocks = folding.pe, folding.simd, self.source.group_size, self.source.blocks
        rows, length = self.weight.codes.shape
        folds = groups.group_count(rows, pe)
        more_rows = folds * pe - rows
        element, pairs = self.weight.format.element, self._pairs(folding)
        stored, width = (self.weight.linear(), element.linear_bits) if pairs else (self.weight.codes, element.bits)
        stored = np.pad(stored, ((0, more_rows), (0, blocks * group_size - length)))
        stored = stored.reshape(folds, pe, -1, simd)
        stored = (_packed(stored, width) if pairs else stored).swapaxes(1, 2).reshape(-1, pe * simd)
        across, turns = self.source.across(simd), self._turns(folding)
        scale = self._in_turns(np.pad(self.weight.scale_codes, ((0, more_rows), (0, 0))), folding)
        scale = scale.reshape(folds, -1, turns, blocks // across, across).transpose(0, 3, 2, 1, 4)
        found = {"weight": Memory(stored, width), "scale": Memory(scale.reshape(scale[:, :, :, 0, 0].size, -1), 8)}
        if self.bias.any():
            bias = self._in_turns(np.pad(self.bias, (0, more_rows)), folding)
            bias = bias.reshape(folds, -1, turns).swapaxes(1, 2).reshape(folds * turns, -1)
            found["bias"] = Memory(bias, self.width)
        return found

    def _words(self, folding: Folding) -> int:
        """Of the weights: the beats of a vector in every fold."""
        return math.ceil(self.rows / folding.pe) * self.source.beats(folding.simd) // self.source.vectors

    def _late(self, folding: Folding) -> bool:
        """Whether weights that are chosen from pieces of block RAM pass a register, before products in LUTs."""
        width = folding.pe * folding.simd * self.weight.format.element.bits
        words = self._words(folding)
        return not self._takes_dsp(folding) and in_block_ram(words, width, 128) and len(rom_pieces(words)) > 1

    def _turns(self, folding: Folding) -> int:
        """Rows that share a shifter and an accumulator."""
        return latencies.rows_in_turn(folding.pe, self.source.group_size // min(folding.simd, self.source.group_size))

    def _in_turns(self, rows: np.ndarray, folding: Folding) -> np.ndarray:
        """[folds * pe, ...] -> [folds, groups * turns, ...]: zeros where a fold's last group has fewer rows."""
        turns, folded = self._turns(folding), rows.reshape(-1, folding.pe, *rows.shape[1:])
        missing = -folding.pe % turns
        return np.pad(folded, [(0, 0), (0, missing), *[(0, 0)] * (rows.ndim - 1)])

    def cycles(self, folding: Folding) -> int:
        return math.ceil(self.rows / folding.pe) * self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        folds, beats = math.ceil(self.rows / folding.pe), self.source.beats(folding.simd) // self.source.vectors
        x, w = self.source.element, self.weight.format.element
        part, across = min(folding.simd, self.source.group_size), self.source.across(folding.simd)
        if self._pairs(folding):
            dot = latencies.pair_latency(x.linear_bits, w.linear_bits, part)
        else:
            dot = latencies.dot_latency(x, w, part, use_dsp=self._takes_dsp(folding)) + self._late(folding)
        joined = 4 if folds == 1 else 6  # a replay buffer stands before several folds
        latency = (folds - 1) * beats + joined + dot + latencies.sum_latency(across) + self._turns(folding)
        return Timing(np.arange(self.source.vectors), folds * beats, latency)

    def through(self, folding: Folding) -> bool:
        return math.ceil(self.rows / folding.pe) == 1  # else a replay buffer stands before it

    def parts(self, folding: Folding) -> Parts:
        """Counted as mx_matmul builds it: dot products, block sums, then what its rows share in turns."""
        pe, simd, across = folding.pe, folding.simd, self.source.across(folding.simd)
        part, turns = simd // across, self._turns(folding)
        grouped, pairs = math.ceil(pe / turns), self._pairs(folding)
        x, w = self.source.element, self.weight.format.element
        found = {}
        if pairs:
            found["pairs"] = dots.pair(x.linear_bits, w.linear_bits, part) * (pe * across / 2)
            if exponent_bits(x):
                found["linear"] = each(x.linear_bits * simd)
            dot_bits = x.linear_bits + w.linear_bits + (part - 1).bit_length()
        else:
            made = dots.dot(x, w, part, luts=not self._takes_dsp(folding))
            few = "of_few_" * (self._words(folding) <= 2)  # weights that are nearly constants make smaller products
            found |= {f"{few}{kind}": piece * (pe * across) for kind, piece in made.items()}
            floats = exponent_bits(x) or exponent_bits(w)
            dot_bits = x.linear_bits + w.linear_bits - bool(floats) + (part - 1).bit_length()
        block_beats, folds = self.source.group_size // part, math.ceil(self.rows / pe)
        block = dot_bits + (block_beats - 1).bit_length()
        shift = (self.source.code_max + int(self.weight.scale_codes.max()) - self.scale_offset).bit_length()
        places = self.source.blocks // across
        beat, words = across * (shift + part * x.bits), self._words(folding)
        memories = rom(words, pe * simd * (w.linear_bits if pairs else w.bits), 128)
        scales = rom(folds * places * turns, shift * grouped * across)
        if self.bias.any():
            bits = min(int(np.abs(self.bias).max()).bit_length() + 1, self.width)
            scales += rom(folds * turns, bits * grouped)
        if folds > 1:
            found["replayed"] = ram(2 * places * block_beats, beat)
            found["replay"] = each(45)
        counted = (words.bit_length() + (folds * places * turns).bit_length() + self.source.vectors.bit_length()) * 2
        chosen = {1: 0, 2: 1, 3: 1.5, 4: 1.5}.get(turns, 3.5) * block
        return found | {
            "sums": Area(lut=block, ff=block * (1 + (block_beats > 1))) * (pe * across),
            "chosen": each(chosen * grouped * across),
            "shifted": each(shift_left(block, self.width, shift) * grouped * across),
            "shifts": each(shift * grouped * across),
            "blocks": Area(lut=block, ff=block) * (grouped * across),
            "across": dots.tree(across, self.width) * grouped,
            "accumulators": Area(lut=self.width, ff=self.width * turns) * grouped,
            "weights": memories,
            "late": Area(ff=(pe * simd * w.bits + across * part * x.bits) * self._late(folding)),
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


def _size(f: Folding) -> tuple[int, int]:
    return f.pe * f.simd, f.pe * _LUT_PER_ROW + f.simd * _LUT_PER_LANE


def _weight_of(node: ir.Node) -> tuple[ir.Node | None, bool]:
    """The quantizer of the weight, and whether the weight lies as [outputs, inputs]."""
    w, transposed = node.inputs[1], node.op_type == "Conv"  # [outputs, inputs, ...], turned in ConvTranspose
    if w.producer() is not None and w.producer().op_type == "Transpose":
        transposed, w = True, w.producer().inputs[0]
    if node.op_type == "Gemm":
        transposed ^= bool(node.attributes["transB"].value if "transB" in node.attributes else 0)
    return weight_quantizer(w), transposed


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
