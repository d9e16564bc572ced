"""Every hardware unit is what its node of the dataflow graph says: RTL, numpy and ONNX body equal, at several foldings,
under random stalls, and as fast as its class claims."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from mxexport import ops
from mxexport.errors import MXExportError
from mxexport.fpga.datapaths.weights import Weight
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.library import in_order, rtl_sources
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.words import write_mem
from mxexport.fpga.tools import verilator
from mxexport.fpga.unit import Folding, parameters_of
from mxexport.fpga.units import (
    UNITS,
    Activation,
    Add,
    Affine,
    ArgMax,
    AveragePool,
    Clip,
    Concat,
    Depthwise,
    Dequantize,
    Embedding,
    Gain,
    HardSwish,
    Insert,
    Keep,
    LeakyRelu,
    MaskedSoftmax,
    MatMul,
    MaxPool,
    Multiply,
    MXWindow,
    Norm,
    Offset,
    Pad,
    Product,
    Quantize,
    QuantizeTokens,
    Relu,
    Reorder,
    Reshape,
    Slice,
    Softmax,
    Upsample,
)  # fmt: skip
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import get_format, round_bias
from tests.helpers import FULL
from tests.test_ops import check_all_executors

FORMATS = ["mxint8", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4_e2m1", "mxint4"]
WEIGHTS = {"mxfp8_e5m2": "mxfp4_e2m1"}  # two of E5M2 pass 63 bits
STALLS = ((0.0, 0.0), (0.4, 0.0), (0.0, 0.9), (0.4, 0.4))
PIPELINE = 5
"""Cycles by which a frame of a few beats may miss the claim: what fills a pipeline shows."""
WINDOWS = {
    "3x3": Window((3, 3), pads=(1, 1, 1, 1)),
    "stride": Window((3, 2), (2, 1), (1, 0, 0, 1)),
    "dilation": Window((2, 3), (1, 2), (0, 2, 1, 2), (2, 2)),
    "1x1 stride": Window((1, 1), (3, 2)),
    "column": Window((3, 1), (1, 1), (2, 0, 0, 0)),
    "whole": Window((7, 6)),
}


AT_ONCE = {
    "3x3": Window((3, 3), pads=(1, 1, 1, 1)),
    "stride": Window((3, 2), (2, 2), (1, 0, 0, 0)),
    "dilation": Window((2, 3), (1, 1), (0, 2, 1, 2), (2, 2)),
    "bare": Window((3, 3)),
    "2x2": Window((2, 2), (2, 2)),
    "row": Window((1, 5), (1, 1), (0, 2, 0, 2)),
}


def finite_codes(rng: np.random.Generator, element, shape: tuple[int, ...]) -> np.ndarray:
    """Codes that a quantizer makes: no Inf, no NaN, no most negative integer; -0 of minifloats among them."""
    parameters = fixedpoint.element_parameters(element)
    magnitude = rng.integers(0, parameters["max_code"] + 1, shape)
    sign = rng.integers(0, 2, shape)
    codes = (
        magnitude + (sign << (element.bits - 1))
        if parameters["exponent_bits"]
        else np.where(sign & (element.bits <= 8), -magnitude, magnitude)  # 9 bits: none is negative
    )
    return (codes & (2**element.bits - 1)).astype(np.uint8)


def quantize(source: Wide, name: str, group_size: int = 32, rule: str = "floor", span: int = 12) -> Quantize:
    element = get_format(name).element
    low = 127 + source.lsb_exp
    limits = {"round_bias": round_bias(element, rule), "code_min": low, "code_max": low + span}
    parameters = fixedpoint.element_parameters(element)
    return Quantize(source, fixedpoint.BlockQuantizer(**parameters, emax=element.emax, **limits), group_size, name)


def quantize_tokens(
    source: Wide, name: str, group_size: int = 32, rule: str = "floor", span: int = 12
) -> QuantizeTokens:
    return QuantizeTokens(source, quantize(source, name, group_size, rule, span).quantizer, group_size, name)


def matmul(source: Blocks, name: str, rows: int, seed: int = 0) -> MatMul:
    rng, fmt = np.random.default_rng(seed), get_format(name)
    codes = finite_codes(rng, fmt.element, (rows, source.channels))
    scales = rng.integers(120, 124, (rows, source.blocks)).astype(np.uint8)
    weight = Weight(fmt, codes, scales, source.group_size)
    return MatMul(source, weight, rng.integers(-999, 999, rows), source.code_min + 120, 62, -9)


def product(a: tuple[int, ...], b: tuple[int, ...], formats: tuple[str, str], group_size: int = 32) -> Product:
    return Product.of(
        "product", Blocks(a, formats[0], group_size, 100, 104), Blocks(b, formats[1], group_size, 120, 123)
    )


def depthwise(source: Blocks, window: Window, name: str) -> Depthwise:
    rng, fmt, taps = np.random.default_rng(1), get_format(name), window.kernel[0] * window.kernel[1]
    codes = finite_codes(rng, fmt.element, (source.channels, taps))
    weight = Weight(fmt, codes, rng.integers(118, 124, (source.channels, taps)).astype(np.uint8), 1)
    bias = rng.integers(-999, 999, source.channels) * (source.channels > 3)
    return Depthwise(source, window, weight, bias, source.code_min + 118, 62, -9)


def cases() -> dict[str, tuple]:
    """name -> (unit, foldings)."""
    found = {}
    for i, name in enumerate(FORMATS):
        blocks, small = Blocks((7, 6, 40), name, 32, 100, 104), Blocks((7, 6, 3), name, 4, 100, 104)
        three = Blocks((3, 2, 40), name, 32, 100, 102)
        window = list(WINDOWS.values())[i % len(WINDOWS)]
        found |= {
            f"quantize-{name}": (quantize(Wide((3, 2, 40), 20, -8), name), [1, 4, 32]),
            f"quantize-{name}-short": (quantize(Wide((4, 3), 14, -8), name, 4, "even"), [1, 2, 4]),
            f"dequantize-{name}": (Dequantize(Blocks((3, 2, 40), name, 32, 100, 105)), [1, 8, 32]),
            f"dequantize-{name}-short": (Dequantize(Blocks((5, 3), name, 4, 100, 105)), [1, 4]),
            f"window-{name}": (MXWindow(blocks, window), [8, 32]),
            f"window-{name}-short": (MXWindow(small, window), [1, 4]),
            f"depthwise-{name}": (depthwise(blocks, window, WEIGHTS.get(name, name)), [4, 16, 32]),
            f"depthwise-{name}-short": (depthwise(small, window, "mxint8"), [1, 2, 4]),
            f"matmul-{name}": (matmul(three, WEIGHTS.get(name, name), 5), [(1, 4), (4, 8), (8, 32)]),
            f"matmul-{name}-short": (matmul(Blocks((4, 12), name, 4, 100, 102), "mxint8", 3), [(1, 1), (2, 4)]),
        }
    for name, largest, fraction in (("int8", 128, 6), ("uint8", 255, 7), ("uint4", 15, 3), ("mxint4", 7, 2)):
        for code, shape in ((118, (3, 2, 40)), (119 + fraction, (4, 3)), (140, (5,)), (90, (5,))):
            quantizer = fixedpoint.BlockQuantizer(0, fraction, 0, largest, 0, 0, code, code)
            size = min(32, 1 << (shape[-1] - 1).bit_length())
            unit = Quantize(Wide(shape, 20, -8), quantizer, size, name, static=True)
            found[f"quantize-static-{name}-{code}"] = unit, [1, 4, size]
    for name in ("int8", "uint8", "uint3"):
        blocks, small = Blocks((7, 6, 40), name, 32, 134, 134), Blocks((4, 12), name, 4, 134, 134)
        found |= {
            f"dequantize-{name}": (Dequantize(blocks), [1, 32]),
            f"window-{name}": (MXWindow(blocks, WINDOWS["stride"]), [8]),
            f"depthwise-{name}": (depthwise(blocks, WINDOWS["3x3"], "mxint8"), [4]),
            f"matmul-{name}": (matmul(small, "mxint8", 5), [(1, 4), (4, 2)]),
            f"matmul-{name}-mxint4": (matmul(small, "mxint4", 3), [(2, 4)]),
        }
    in_threes = [Folding(4, 8, threes=1), Folding(2, 32, threes=1)]
    found["matmul-threes"] = matmul(Blocks((3, 2, 40), "mxint8", 32, 100, 102), "mxint8", 5), in_threes
    found["product-threes"] = product((6, 1, 40), (5, 1, 40), ("mxint8", "mxint8")), in_threes[:1]
    for name in ("mxfp8_e4m3", "mxfp4_e2m1"):  # weights in block RAM, in pieces
        found[f"matmul-{name}-deep"] = matmul(Blocks((2, 256), name, 32, 100, 102), name, 40), [(1, 8), (2, 16)]
    for name, window in WINDOWS.items():
        if window.dilations == (1, 1):
            found[f"max_pool-{name}"] = MaxPool(Wide((7, 6, 5), 14, -3), window), [1, 4, 8]
            found[f"average_pool-{name}"] = AveragePool(Wide((7, 6, 5), 14, -3), window), [1, 4, 8]
    positive = Wide((3, 2, 40), 17, -8, nonnegative=True)
    found["quantize-positive"] = quantize(positive, "mxint8", rule="even", span=20), [1, 2]
    found["relu"] = Relu(Wide((3, 2, 5), 13, 0)), [1, 2, 8]
    found["reorder"] = Reorder(Wide((3, 2, 5), 13, 0)), [1]
    found["reorder-lanes"] = Reorder(Wide((7, 7, 20), 13, 0)), [2, 4, 16, 8]
    found["reorder-few"] = Reorder(Wide((2, 3, 9), 13, 0)), [4, 2]
    found["reorder-1"] = Reorder(Wide((1, 3, 1), 13, 0)), [1]
    found["reshape"] = Reshape(Wide((5, 12), 13, 0), (5, 3, 4)), [1, 2, 4]
    found["reshape-join"] = Reshape(Wide((5, 2, 6), 13, 0), (5, 12), -3), [2, 12]
    found["reshape-image"] = Reshape(Wide((3, 2, 5), 13, 0), (6, 5)), [1, 8]
    found |= offsets()
    rng = np.random.default_rng(8)
    for name, rows, channels, width, lanes in (("few", 20, 12, 8, [1, 4, 16]), ("many", 40, 24, 5, [1, 8])):
        found[f"embedding-{name}"] = (
            Embedding.of(Wide((7, 1), width, 0), rng.normal(0, 1, (rows, channels))),
            [Folding(n, 1) for n in lanes],
        )
    found["add"] = Add(Wide((3, 2, 5), 13, -4), Wide((3, 2, 5), 17, -7)), [1, 2, 8]
    for low, high in ((0, 900), (-(2**40), 2**35), (-7, -7), (-300, 2**39)):
        found[f"clip-{low}-{high}"] = Clip(Wide((3, 2, 5), 42, -9), low, high), [1, 4]
    for slope, shift in ((0, 0), (1, 4), (13421773, 27), (1, 1)):
        found[f"leaky_relu-{slope}-{shift}"] = LeakyRelu(Wide((3, 2, 5), 21, -9), slope, shift), [1, 8]
    for width, lsb_exp in ((24, -20), (18, -7), (12, 0), (40, -16)):
        found[f"hard_swish{lsb_exp}"] = HardSwish(Wide((3, 2, 5), width, lsb_exp)), [1, 8]
    widths = {"gelu": (40, -28), "gelu_tanh": (24, -17), "silu": (20, -9), "sigmoid": (30, -16), "tanh": (36, -26)}
    widths |= {"mish": (22, -14), "softplus": (24, -20), "elu(1.5,1.0)": (26, -18)}
    for i, (function, (width, lsb_exp)) in enumerate(widths.items()):
        found[f"activation-{function.partition('(')[0]}"] = (
            Activation.of(Wide((3, 2, 5), width, lsb_exp), function, -(i % 2)),
            [1, 8],
        )
    found["activation-gelu-few-bits"] = Activation.of(Wide((9,), 5, -2), "gelu"), [1, 4]
    found["activation-tanh-whole"] = Activation.of(Wide((9,), 12, 0), "tanh"), [1, 4]
    found["activation-silu-small"] = Activation.of(Wide((3, 5), 12, -28), "silu"), [2]
    found["multiply"] = Multiply.of(Wide((3, 2, 5), 20, -9), Wide((3, 2, 5), 24, -12)), [1, 8]
    found["multiply-exact"] = Multiply.of(Wide((9,), 12, -4), Wide((9,), 2, 0, True)), [4]
    found["multiply-wide"] = Multiply.of(Wide((3, 5), 40, -20), Wide((3, 5), 22, -9)), [1]
    for keep, width in ((0, 2), (1, 9)):
        found[f"keep-{keep}"] = Keep(Wide((7, 1), width, 0), 10, keep), [Folding(1, 1), Folding(4, 1), Folding(16, 1)]
    found["arg_max"] = ArgMax(Wide((10,), 20, -9)), [1, 4, 16]
    found["arg_max-image"] = ArgMax(Wide((3, 2, 5), 5, 0)), [1, 2]
    found["slice"] = Slice(Wide((4, 3, 8), 13, 0), (1, 0, 4), (2, 2, 4)), [1, 2, 4]
    found["slice-tail"] = Slice(Wide((4, 3, 7), 13, 0), (0, 1, 4), (4, 1, 3)), [4]
    short = Slice(Wide((3, 1, 12), 13, 0), (0, 0, 8), (3, 1, 4))  # of fewer channels than come before it
    found["slice-short-tail"] = short, [f.simd for f in short.foldings()]
    found["slice-vector"] = Slice(Wide((12,), 13, 0), (0, 0, 6), (1, 1, 4)), [1, 2]
    for name, shape, lanes in (("image", (3, 2, 5), [1, 4, 8]), ("vector", (9,), [2, 16])):
        rng, channels = np.random.default_rng(9), shape[-1]
        gain, offset = rng.integers(-(2**17) + 1, 2**17, channels), rng.integers(-(2**30), 2**30, channels)
        found[f"affine-{name}"] = Affine(Wide(shape, 26, -20), gain, offset, 12, -25), lanes
    found["affine-rounding"] = Affine.rounding(Wide((3, 5), 50, -30), 36), [1, 8]
    found["affine-ties"] = (
        Affine(Wide((4,), 12, 0), np.array([1, -1, 3, 2048]), np.array([0, 2048, -2048, 0]), 12, 0),
        [4],
    )
    found |= norms() | softmaxes() | products() | token_quantizers()
    found["concat"] = Concat(Wide((3, 2, 4), 13, -4), Wide((3, 2, 8), 17, -7)), [1, 2, 4]
    found["concat-odd"] = Concat(Wide((5, 3), 13, -4), Wide((5, 1), 9, -4)), [1]
    found["upsample"] = Upsample(Wide((3, 2, 5), 13, 0), (2, 3)), [1, 4, 8]
    found["upsample-column"] = Upsample(Wide((4, 1, 3), 13, 0), (2, 1)), [2]
    found["pad"] = Pad(Wide((3, 2, 5), 13, 0), (2, 1, 0, 1)), [1, 8]
    found["pad-below"] = Pad(Wide((3, 2, 3), 13, 0), (0, 0, 1, 0)), [4]
    for i, name in enumerate(FORMATS):
        steps, more = ((2, 2), (1, 3), (2, 1))[i % 3], ((0, 0), (1, 2), (1, 0))[i % 3]
        found[f"insert-{name}"] = Insert(Blocks((3, 2, 40), name, 32, 100, 104), steps, more), [4, 32]
    found["add-equal"] = Add(Wide((9,), 13, -4), Wide((9,), 13, -4)), [4]
    return found | at_once()


def offsets() -> dict[str, tuple]:
    """Constants finer and coarser than the input, in LUTs and in block RAM."""
    rng, found = np.random.default_rng(6), {}
    for name, shape, width, lsb_exp, lanes in (
        ("tokens", (7, 12), 30, -24, [1, 4, 16]),
        ("coarse", (3, 2, 5), 12, 2, [1, 8]),
        ("deep", (40, 24), 24, -16, [1, 2]),
    ):
        found[f"offset-{name}"] = Offset.of(Wide(shape, width, lsb_exp), rng.normal(0, 3, shape)), lanes
        found[f"gain-{name}"] = Gain.of(Wide(shape, width, lsb_exp), rng.normal(0, 3, shape)), lanes[::-2]
    return found


def softmaxes() -> dict[str, tuple]:
    """Vectors of a beat and of many, lanes that divide them and not, masks by token, by head, and of whole rows."""
    causal = np.tril(np.ones((5, 1, 12), np.uint8), 2)
    rows = np.random.default_rng(2).integers(0, 2, (3, 4, 7)).astype(np.uint8)
    rows[1, 2] = 0
    padding = np.arange(40) < 29
    found = {}
    for name, shape, width, lsb_exp, scale, mask, lanes in (
        ("plain", (6, 40), 30, -22, 1.0, None, [1, 8]),
        ("causal", (5, 2, 12), 40, -30, 0.25, causal, [1, 4]),
        ("rows", (3, 4, 7), 14, -6, 1.0, rows, [1, 2, 8]),
        ("padding", (3, 40), 24, -18, 0.3, padding, [2]),
        ("long", (4, 100), 22, -15, 1.0, None, [1, 4]),
        ("coarse", (9,), 8, -1, 1.0, None, [1, 16]),
    ):
        found[f"softmax-{name}"] = Softmax.of(Wide(shape, width, lsb_exp), scale, mask), lanes
    for keep, shape, mask, lanes in ((1, (5, 2, 12), causal, [1, 4, 16]), (0, (7, 21), None, [1, 8])):
        keys, source = Wide(shape[-1:], 3, 0), Wide(shape, 24, -16)
        found[f"masked_softmax-{keep}"] = MaskedSoftmax.masked(source, keys, 0.5, mask, keep), lanes
    return found


def token_quantizers() -> dict[str, tuple]:
    """Every format, blocks of all tokens and several, a last one of one token, heads, memories in LUTs and in block
    RAM."""
    found = {}
    for i, name in enumerate(FORMATS):
        few, rule = Wide((7, 3, 5), 14, -8), ("even", "ceil", "rceil")[i % 3]
        found |= {
            f"quantize_tokens-{name}": (quantize_tokens(Wide((40, 6), 20, -8), name), [(1, 1), (4, 2), (32, 8)]),
            f"quantize_tokens-{name}-short": (quantize_tokens(few, name, 4, rule), [(2, 1), (4, 2)]),
        }
    for name, source, group_size, rule, foldings in (
        ("deep", Wide((33, 2, 40), 18, -8), 32, "even", [(8, 1), (32, 4)]),
        ("whole", Wide((64, 32), 24, -12), 32, "floor", [(8, 4), (16, 2)]),
        ("few", Wide((3, 4), 20, -8), 32, "floor", [(4, 4), (32, 1)]),
        ("one", Wide((1, 2, 3), 20, -8), 4, "floor", [(4, 2), (1, 1)]),
        ("column", Wide((9, 1), 20, -8), 4, "even", [(4, 1)]),
        ("positive", Wide((12, 5), 17, -8, nonnegative=True), 8, "even", [(8, 2)]),  # all ones get a scale more
    ):
        span = 20 if source.nonnegative else 12
        unit = quantize_tokens(source, ("mxfp4_e2m1", "mxfp8_e4m3", "mxint8")[len(name) % 3], group_size, rule, span)
        found[f"quantize_tokens-{name}"] = unit, foldings
    return found


def norms() -> dict[str, tuple]:
    """LayerNorm and RMSNorm: lengths that are powers of two and not, vectors of a beat, and as wide as sums allow."""
    rng, found = np.random.default_rng(4), {}
    for name, center, shape, width, epsilon, lanes in (
        ("layer", True, (3, 2, 11), 20, 1e-5, [1, 2, 8]),
        ("layer-power", True, (4, 64), 25, 1e-5, [1, 4, 16]),
        ("layer-wide", True, (384,), 22, 0.0, [1, 8]),
        ("rms", False, (3, 40), 18, 1e-6, [1, 4, 8]),
        ("rms-power", False, (2, 16), 27, 1e-6, [1, 2, 16]),
        ("layer-coarse", True, (6, 7), 12, 30.0, [1, 8]),
    ):
        gain, offset = rng.normal(1, 0.5, shape[-1]), rng.normal(0, 1, shape[-1])
        gain[0] = -np.abs(gain).max()
        found[f"norm-{name}"] = Norm.of(Wide(shape, width, -width + 3), center, epsilon, gain, offset), lanes
    return found


def products() -> dict[str, tuple]:
    """Two streams of blocks: one head and several, shared or not, short groups, rows that do not fill the last fold."""
    e4m3, e2m1 = "mxfp8_e4m3", "mxfp4_e2m1"
    found = {
        "product-mxint8": (product((4, 2, 40), (5, 2, 40), ("mxint8", "mxint8")), [(4, 8), (1, 4)]),
        "product-heads": (product((3, 6, 12), (6, 2, 12), ("mxint8", "mxint8"), 4), [(2, 4), (4, 2), (1, 4), (8, 12)]),
        "product-one": (product((6, 32), (3, 32), ("mxint8", "mxint8")), [(2, 32), (4, 8), (2, 8, 1, 1, 1)]),
        "product-row": (product((1, 1, 9), (1, 1, 9), ("mxint8", e2m1), 4), [(1, 1), (1, 4)]),
        "product-uint8": (product((3, 2, 12), (4, 1, 12), ("uint8", "mxint8"), 4), [(2, 4), (4, 1)]),
        "product-int8": (product((3, 2, 12), (4, 1, 12), ("mxint4", "int8"), 4), [(2, 4), (4, 2)]),
        "product-deep": (product((16, 128), (32, 128), (e4m3, e4m3)), [(4, 16)]),
    }
    pairs = [(e4m3, e4m3), (e2m1, e2m1), ("mxfp6_e2m3", "mxfp6_e2m3"), ("mxint8", e4m3), (e2m1, "mxint8"),
             ("mxfp6_e3m2", e2m1), ("mxfp8_e5m2", e2m1)]  # fmt: skip
    for i, (a, b) in enumerate(pairs):
        found[f"product-{a}-{b}"] = product((3, 4, 40), (5, 2, 40), (a, b)), [(4, 4) if i % 2 else (2, 8)]
        found[f"product-{a}-{b}-blocks"] = product((3, 4, 40), (5, 2, 40), (a, b)), [(2, 64) if i % 2 else (8, 32)]
    return found


def at_once() -> dict[str, tuple]:
    """The same with all taps of windows at once, some pixels side by side, and several blocks a beat."""
    found, formats = {}, FORMATS if FULL else FORMATS[::3]
    for i, name in enumerate(formats):
        four, three = Blocks((7, 6, 56), name, 16, 100, 104), Blocks((8, 12, 3), name, 4, 100, 104)
        weights, windows = WEIGHTS.get(name, name), list(AT_ONCE.items())
        for size, source in (("four", four), ("three", three)):
            for at, window in windows[i % 2 :: 2] if FULL else windows[i % 6 : i % 6 + 1]:
                found[f"window-{name}-{size}-{at}"] = MXWindow(source, window)
                if source is three:
                    found[f"depthwise-{name}-{at}"] = depthwise(source, window, weights)
        found[f"depthwise-{name}-four"] = depthwise(four, AT_ONCE["3x3"], weights)
    for name, window in AT_ONCE.items():
        if window.dilations == (1, 1):
            found[f"max_pool-at-once-{name}"] = MaxPool(Wide((8, 12, 5), 14, -3), window)
            found[f"average_pool-at-once-{name}"] = AveragePool(Wide((8, 12, 5), 14, -3), window)
    found = {name: (unit, [f for f in unit.foldings() if f.taps > 1]) for name, unit in found.items()}
    for name in formats:
        four = Blocks((3, 2, 56), name, 16, 100, 102)
        found |= {
            f"quantize-{name}-blocks": (quantize(Wide((3, 2, 56), 20, -8), name, 16), [32, 64]),
            f"dequantize-{name}-blocks": (Dequantize(four), [64, 32]),
            f"window-{name}-blocks": (MXWindow(Blocks((7, 6, 56), name, 16, 100, 104), WINDOWS["3x3"]), [32, 64]),
            f"insert-{name}-blocks": (Insert(four, (2, 1), (0, 1)), [64, 32]),
            f"matmul-{name}-blocks": (matmul(four, WEIGHTS.get(name, name), 5), [(4, 32), (8, 64), (1, 64)]),
        }
    static = fixedpoint.BlockQuantizer(0, 6, 0, 128, 0, 0, 118, 118)
    found["quantize-static-blocks"] = Quantize(Wide((3, 2, 40), 20, -8), static, 8, "int8", static=True), [40]
    return found


def arrays_of(stream, rng: np.random.Generator, frames: int) -> list[np.ndarray]:
    if isinstance(stream, Wide):
        top = 2 ** (stream.width - 1)
        x = rng.integers(-top, top, (frames, *stream.shape)) >> rng.integers(
            0, stream.width - 1, (frames, *stream.shape)
        )
        x[0], x.reshape(-1)[-1], x.reshape(-1)[-2] = 0, top - 1, -top
        return [np.minimum(np.abs(x), top - 1) if stream.nonnegative else x]
    codes = finite_codes(rng, stream.element, (frames, *stream.shape))
    scales = rng.integers(stream.code_min, stream.code_max + 1, (frames, *stream.shape[:-1], stream.blocks))
    return [codes, scales.astype(np.uint8)]


CASES = cases()


def pack(unit, arrays: list[np.ndarray], lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Beats of the one input stream; of two inputs, as the wrapper takes them: each frame of one, then of the other, a
    byte above the data says whose beat it is."""
    if len(unit.sources) == 1:
        return unit.sources[0].pack(*arrays, lanes)
    given, frames, ends = iter(arrays), [], []
    for side, stream in enumerate(unit.sources):
        own = [next(given) for _ in range(1 + isinstance(stream, Blocks))]
        packed, last = stream.pack(*own, lanes)
        bytes_above = pair_bytes(unit, lanes) + 1 - packed.shape[1]
        packed = np.pad(packed, ((0, 0), (0, bytes_above)))
        packed[:, -1] = side
        frames.append(packed.reshape(len(own[0]), -1, packed.shape[1]))
        ends.append(last.reshape(len(own[0]), -1))
    beats = np.concatenate(frames, 1)
    return beats.reshape(-1, beats.shape[2]), np.concatenate(ends, 1).ravel()


def pair_bytes(unit, lanes: int) -> int:
    """Below the byte that says whose beat it is."""
    return -(-max(s.beat_bits(lanes) for s in unit.sources) // 8)


PAIR = """// One stream that carries both inputs of a unit in turn; each waits in a FIFO that holds whole frames.
module mx_pair #(parameter int ABits = 16, BBits = 16, OutBits = 17, Side = 16) (
  input logic aclk, input logic aresetn,
  input logic s_axis_tvalid, output logic s_axis_tready,
  input logic [Side+7:0] s_axis_tdata, input logic s_axis_tlast,
  output logic m_axis_tvalid, input logic m_axis_tready,
  output logic [OutBits-1:0] m_axis_tdata, output logic m_axis_tlast, output logic error_o
);
  logic a_valid, a_ready, a_last, b_valid, b_ready, b_last, a_free, b_free;
  logic [ABits-1:0] a_data;
  logic [BBits-1:0] b_data;
  assign s_axis_tready = s_axis_tdata[Side] ? b_free : a_free;
  mx_fifo #(.Width(ABits), .Depth(256)) u_a (
    .aclk, .aresetn, .s_axis_tvalid(s_axis_tvalid && !s_axis_tdata[Side]), .s_axis_tready(a_free),
    .s_axis_tdata(s_axis_tdata[ABits-1:0]), .s_axis_tlast,
    .m_axis_tvalid(a_valid), .m_axis_tready(a_ready), .m_axis_tdata(a_data), .m_axis_tlast(a_last)
  );
  mx_fifo #(.Width(BBits), .Depth(256)) u_b (
    .aclk, .aresetn, .s_axis_tvalid(s_axis_tvalid && s_axis_tdata[Side]), .s_axis_tready(b_free),
    .s_axis_tdata(s_axis_tdata[BBits-1:0]), .s_axis_tlast,
    .m_axis_tvalid(b_valid), .m_axis_tready(b_ready), .m_axis_tdata(b_data), .m_axis_tlast(b_last)
  );
  MODULE #(PARAMETERS) u_unit (
    .aclk, .aresetn,
    .s0_axis_tvalid(a_valid), .s0_axis_tready(a_ready), .s0_axis_tdata(a_data), .s0_axis_tlast(a_last),
    .s1_axis_tvalid(b_valid), .s1_axis_tready(b_ready), .s1_axis_tdata(b_data), .s1_axis_tlast(b_last),
    .m_axis_tvalid, .m_axis_tready, .m_axis_tdata, .m_axis_tlast, .error_o
  );
endmodule
"""


def written(unit, folding: Folding, directory) -> dict:
    """Parameters of a unit whose memories are written to `directory`."""
    for kind, memory in unit.memories(folding).items():
        write_mem(directory / f"{kind}.mem", memory.fields, memory.width)
    return in_order(unit.module, parameters_of(unit, folding, {kind: f"{kind}.mem" for kind in unit.memory_kinds}))


def folding_of(lanes: int | tuple[int, int] | Folding) -> Folding:
    if isinstance(lanes, Folding):
        return lanes
    return Folding(*lanes) if isinstance(lanes, tuple) else Folding(lanes, lanes)


def build(unit, folding: Folding, directory, netlist: Path | None = None) -> verilator.Simulator:
    """Of its RTL, or of a netlist that has no parameters any more."""
    parameters = written(unit, folding, directory)
    sources, top, taken = rtl_sources(), unit.module, parameters
    if netlist:  # the FIFOs of mx_pair are not in it
        sources, taken = [*(p for p in sources if p.stem in ("mx_pkg", "mx_fifo")), netlist], {}
    if len(unit.sources) > 1:
        quoted = {name: f'"{value}"' if isinstance(value, str) else value for name, value in taken.items()}
        given = ", ".join(f".{name}({value})" for name, value in quoted.items())
        (directory / "pair.sv").write_text(PAIR.replace("MODULE", top).replace("PARAMETERS", given))
        sources, top = [*sources, directory / "pair.sv"], "mx_pair"
        (lanes_in, lanes_out), (a, b) = unit.lanes(folding), unit.sources
        bits = a.beat_bits(lanes_in), b.beat_bits(lanes_in), unit.result.beat_bits(lanes_out)
        taken = dict(zip(("ABits", "BBits", "OutBits"), bits, strict=True)) | {"Side": 8 * pair_bytes(unit, lanes_in)}
    return verilator.build(top, sources, taken, memory_dir=directory, quick=True)


def golden(unit, arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    return unit.operator.reference(*arrays, *unit.constants().values(), **unit.attributes())


def simulated() -> list[str]:
    """Formats of one kind each stand for the others."""
    kept, others = ("int8", "e4m3", "e2m1"), [*FORMATS, "uint4", "uint3", "mxint4"]
    return [n for n in CASES if FULL or any(f in n for f in kept) or not any(f in n for f in others)]


@pytest.mark.parametrize("name", simulated())
def test_rtl_equals_the_reference_at_every_folding_under_stalls(name, tmp_path):
    unit, foldings = CASES[name]
    rng, frames = np.random.default_rng(len(name)), 5
    arrays = [a for s in unit.sources for a in arrays_of(s, rng, frames)]
    expected = golden(unit, arrays)
    turn = list(CASES).index(name) % len(foldings)
    for lanes in foldings if FULL else foldings[turn : turn + 1]:
        folding = folding_of(lanes)
        simulator = build(unit, folding, tmp_path)
        lanes_in, lanes_out = unit.lanes(folding)
        beats, last = pack(unit, arrays, lanes_in)
        count = unit.result.beats(lanes_out)
        for seed, (stall_in, stall_out) in enumerate(STALLS):
            run = simulator.run(beats, frames * count, last=last, stall_in=stall_in, stall_out=stall_out, seed=seed)
            found = unit.result.unpack(run.beats, lanes_out)
            for got, wanted in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(run.last, np.arange(1, frames * count + 1) % count == 0)
            assert run.surplus == 0 and not run.error
            if stall_in == stall_out == 0 and len(unit.sources) == 1:  # two come one after the other
                claimed = unit.cycles(folding)
                assert abs(int(run.frame_cycles.max()) - claimed) <= 0.01 * claimed + PIPELINE, (folding, claimed)


@pytest.mark.parametrize("name", CASES)
def test_onnx_body_equals_the_reference_everywhere(name):
    unit, _ = CASES[name]
    arrays = [a for s in unit.sources for a in arrays_of(s, np.random.default_rng(3), 2)]
    check_all_executors(unit.operator.op_type(), [*arrays, *unit.constants().values()], unit.attributes())


@pytest.mark.parametrize("name", CASES)
def test_a_node_and_its_unit_say_the_same(name):
    unit, _ = CASES[name]
    inputs = [ir.Value(name=f"x{i}") for i in range(sum(1 + isinstance(s, Blocks) for s in unit.sources))]
    constants = [
        ir.Value(name=kind, const_value=ir.tensor(array), shape=ir.Shape(array.shape))
        for kind, array in unit.constants().items()
    ]
    node = ir.node(unit.operator.op_type(), [*inputs, *constants], unit.attributes(), domain=ops.DOMAIN)
    node.metadata_props.update(unit.metadata())
    graph = ir.Graph(inputs, list(node.outputs), nodes=[node], initializers=constants, opset_imports={"": 18})
    assert graph is node.graph
    again = type(unit).from_node(node, unit.sources)
    assert again.attributes() == unit.attributes() and again.result == unit.result
    for kind, array in unit.constants().items():
        np.testing.assert_array_equal(again.constants()[kind], array)


def test_every_unit_has_cases_and_says_all_of_the_contract():
    assert {type(unit) for unit, _ in CASES.values()} == set(UNITS)
    for unit, _ in CASES.values():
        assert dataclasses.is_dataclass(unit)
        for name in ("operator", "module", "clocked", "status", "memory_kinds", "lowers", "lower", "bound", "foldings"):
            assert hasattr(unit, name) or (name == "lower" and not unit.lowers), (unit, name)
        for folding in unit.foldings():
            assert unit.cycles(folding) > 0


@pytest.mark.parametrize(
    "name", ["window-mxint8", "max_pool-3x3", "max_pool-at-once-3x3", "average_pool-3x3", "reorder"]
)
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_misplaced_last_is_flagged(name, shift, tmp_path):
    unit, foldings = CASES[name]
    folding = folding_of(foldings[0])
    arrays = [a for s in unit.sources for a in arrays_of(s, np.random.default_rng(0), 2)]
    beats, last = pack(unit, arrays, unit.lanes(folding)[0])
    count = 2 * unit.result.beats(unit.lanes(folding)[1])
    run = build(unit, folding, tmp_path).run(beats, count, last=np.roll(last, shift))
    assert run.error


def test_every_module_checks_its_parameters():
    unchecked = [p.stem for p in rtl_sources() if "$error" not in p.read_text() and not p.stem.endswith("_pkg")]
    assert unchecked == []


@pytest.mark.parametrize(
    "top, parameters, words",
    [
        ("mx_window", {"PadTop": 3}, "less padding than the kernel spans"),
        ("mx_window", {"Simd": 0}, "Simd = 0"),
        ("mx_max_pool", {"Lanes": 0}, "Lanes = 0"),
        ("mx_average_pool", {"OutWidth": 1}, "OutWidth = 1"),
        ("mx_divide", {"Divisor": 0}, "Divisor = 0"),
        ("mx_dequantize", {"Lanes": 3}, "Lanes = 3"),
        ("mx_reorder", {"K": 0}, "K = 0"),
        ("mx_reorder", {"Lanes": 5}, "Lanes = 5"),
        ("mx_clip", {"Lanes": 0}, "Lanes = 0"),
        ("mx_leaky_relu", {"Shift": -1}, "Shift = -1"),
        ("mx_hard_swish", {"Fraction": 25}, "Fraction = 25"),
        ("mx_activation", {"Octaves": 9}, "Places = 18"),
        ("mx_activation", {"Sides": 3}, "Sides = 3"),
        ("mx_multiply", {"AWidth": 48}, "products of at most 63 bits"),
        ("mx_keep", {"Keep": 2}, "Keep = 2"),
        ("mx_gain", {"Shift": 0}, "Shift = 0"),
        ("mx_arg_max", {"OutWidth": 3}, "OutWidth = 3"),
        ("mx_norm", {"RootBits": 5}, "a segment longer than one step"),
        ("mx_norm_statistics", {"VarianceWidth": 63}, "62 bits at most"),
        ("mx_norm_lane", {"Shift": 0}, "Shift = 0"),
        ("mx_embedding", {"Rows": 0}, "Rows = 0"),
        ("mx_offset", {"Beats": 0}, "Beats = 0"),
        ("mx_reshape", {"Lanes": 0}, "Lanes = 0"),
        ("mx_softmax_rows", {"Lanes": 3}, "a power of two of lanes"),
        ("mx_masked_softmax", {"Vectors": 0}, "Vectors = 0"),
        ("mx_softmax_exp", {"Fraction": 4}, "segments of two steps"),
        ("mx_softmax_mask", {"Rows": 0}, "Rows = 0"),
        ("mx_softmax_top", {"Lanes": 3}, "Lanes = 3"),
        ("mx_softmax_reciprocal", {"SumBits": 16}, "sums above"),
        ("mx_times", {"Factor": 0}, "Factor = 0"),
        ("mx_product", {"Heads": 3, "BHeads": 2}, "Heads a multiple of BHeads"),
        ("mx_product", {"Simd": 5}, "Simd = 5"),
        ("mx_product", {"AManBits": 6}, "activation e2m6"),
        ("mx_product", {"Pair": 1, "Pe": 3, "AExpBits": 0, "AManBits": 6}, "an even Pe"),
        ("mx_product_rows", {"Beats": 6, "BlockBeats": 4}, "whole blocks"),
        ("mx_bank_read", {"Tokens": 0}, "Tokens = 0"),
        ("mx_bank_write", {"Folds": 0}, "Folds = 0"),
        ("mx_products", {"Places": 0}, "Places = 0"),
        ("mx_ram", {"Depth": 0}, "Depth = 0"),
        ("mx_count", {"Count": 0}, "Count = 0"),
        ("mx_deal", {"Rest": 0}, "Rest = 0"),
        ("mx_gear", {"Words": 0}, "Words = 0"),
        ("mx_matmul_fed", {"Vectors": 3, "Tile": 2}, "a divisor of Vectors"),
        ("mx_slice", {"OutK": 3}, "a part of the frame"),
        ("mx_ingress", {"Width": 9}, "Width = 9"),
        ("mx_egress", {"Slot": 7}, "Slot = 7"),
        ("mx_upsample", {"ScaleH": 0}, "ScaleH = 0"),
        ("mx_pad", {"OutH": 2}, "expected room for all of them"),
        ("mx_insert", {"PadScale": 255}, "PadScale = 255"),
        ("mx_depthwise", {"Lanes": 3}, "Lanes = 3"),
        ("mx_dot", {"Simd": 3}, "Simd = 3"),
        ("mx_mul", {"AExpBits": 6}, "elements of 6"),
        ("mx_block_scale", {"CodeMin": 9, "CodeMax": 8}, "codes 9 to 8"),
        ("mx_encode", {"MaxCode": 8}, "MaxCode = 8"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(top, parameters, words):
    with pytest.raises(MXExportError, match=words):
        verilator.build(top, rtl_sources(), parameters)


@pytest.mark.parametrize("divisor, shift", [(1, 0), (3, 0), (9, 4), (49, 6), (64, 6), (7, 2)])
def test_division_by_a_constant_is_exact_and_rounds_ties_to_even(divisor, shift):
    from mxexport.fpga.streams.words import pack_lanes, unpack_lanes
    from mxexport.numbers.spatial import divide

    width = 13
    x = np.arange(-(2 ** (width - 1)), 2 ** (width - 1))[:, None]
    out = width + shift + 1
    simulator = verilator.build(
        "mx_divide", rtl_sources(), {"Width": width, "OutWidth": out, "Lanes": 1, "Divisor": divisor, "Shift": shift}
    )
    run = simulator.run(pack_lanes(x, width), len(x), stall_out=0.2)
    np.testing.assert_array_equal(unpack_lanes(run.beats, 1, out), divide(x << shift, divisor))
