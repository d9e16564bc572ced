"""Compiled kernels of the operators of dataflow graphs: the bits of the reference for any shape and attribute, refusal
of what does not fit, whole graphs node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings, strategies as st
from onnx import numpy_helper
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import ShapeError
from mxexport.fpga.checking import framing
from mxexport.numbers import fixedpoint, groups, normalization, softmax
from mxexport.numbers.formats import MX_FORMATS, get_format, round_bias
from mxexport.running import native_operators
from tests.bare_kernels import check, open_kernels, open_shapes
from tests.helpers import FULL, assert_equal_bits, every, run_bodies
from tests.test_compile_transformers import compiled
from tests.transformer_networks import NETWORKS

pytestmark = pytest.mark.skipif(
    not native_operators.status().active, reason=f"no kernels here: {native_operators.status().reason}"
)
DATAFLOW = sorted(name for name, operator in ops.OPERATORS.items() if operator.role == "dataflow")
VECTORS = sorted((Path(__file__).parents[1] / "ops").glob("*/vectors/*/model.onnx"))
Case = tuple[list[np.ndarray], dict]
WIDE = {"width": 63, "lsb_exp": 0}


# --- the vectors of every operator --------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", DATAFLOW)
def test_vectors(op_type):
    models = [path for path in VECTORS if path.parts[-4] == op_type]
    assert models
    for path in models:
        folder = path.parent / "test_data_set_0"
        given_, wanted = (
            [numpy_helper.to_array(onnx.load_tensor(folder / f"{kind}_{i}.pb")) for i in range(count)]
            for kind, count in (("input", len(list(folder.glob("input*")))), ("output", len(list(folder.glob("out*")))))
        )
        session = open_kernels(onnx.load(path))
        found = session.run(None, dict(zip([i.name for i in session.get_inputs()], given_, strict=True)))
        for actual, expected in zip(found, wanted, strict=True):
            assert_equal_bits(actual, expected, path)


# --- any shape, any attribute -------------------------------------------------------------------------------------


def wide(rng: np.random.Generator, shape, bits: int = 62) -> np.ndarray:
    """Integers of every size up to `bits` bits beside the sign."""
    return (rng.integers(-(2**62), 2**62, shape) >> rng.integers(62 - bits, 62, shape)).astype(np.int64)


def length(rng, most: int = 7) -> int:
    return int(rng.integers(0 if rng.random() < 0.05 else 1, most))


def shape_of(rng, ranks: tuple[int, int], last: int = 70) -> tuple[int, ...]:
    return (*(length(rng) for _ in range(rng.integers(*ranks) - 1)), int(rng.integers(1, last)))


def element(rng, kind: str = "") -> dict[str, int]:
    bits = int(rng.integers(0, 6)), int(rng.integers(0, 3))
    found = bits if bits[0] else (0, int(rng.integers(0, 8)))
    return dict(zip((f"{kind}exponent_bits", f"{kind}mantissa_bits"), found, strict=True))


def codes(rng, shape, attributes: dict, kind: str = "") -> np.ndarray:
    exponent, mantissa = attributes[f"{kind}exponent_bits"], attributes[f"{kind}mantissa_bits"]
    return rng.integers(0, min(2 ** (1 + exponent + mantissa + (exponent == 0)), 256), shape).astype(np.uint8)


def scales(rng, whole, group: int, low: int = 100, high: int = 104) -> np.ndarray:
    return rng.integers(low, high, groups.contracted_shape(whole, len(whole) - 1, group)).astype(np.uint8)


def group_size(rng) -> int:
    return int(rng.choice([1, 2, 7, 16, 32, 100, 300]))


def window(rng, dilated: bool = True) -> tuple[tuple[int, int, int, int], dict]:
    """(shape of X, attributes)."""
    kernel, strides = rng.integers(1, 4, 2), rng.integers(1, 4, 2)
    dilations = rng.integers(1, 3, 2) if dilated else np.ones(2, int)
    spans = (kernel - 1) * dilations + 1
    pads = [int(rng.integers(0, span)) for span in (*spans, *spans)]
    size = [max(int(rng.integers(1, 9)), int(span)) for span in spans]
    attributes = {"kernel_shape": kernel.tolist(), "strides": strides.tolist(), "pads": pads}
    shape = (length(rng, 3), *size, int(rng.integers(1, 50)))
    return shape, attributes | ({"dilations": dilations.tolist()} if dilated else {})


def matmul(rng) -> Case:
    group, sides = group_size(rng), element(rng, "x_") | element(rng, "w_")
    x, w = shape_of(rng, (2, 5), 90), int(rng.choice([1, 5, 31, 70]))
    arrays = [codes(rng, x, sides, "x_"), scales(rng, x, group), codes(rng, (w, x[-1]), sides, "w_")]
    arrays += [scales(rng, (w, x[-1]), group), wide(rng, w, 40)]
    return arrays, {"group_size": group, "scale_offset": 200, **sides, **WIDE}


def product(rng) -> Case:
    group, sides = group_size(rng), element(rng, "a_") | element(rng, "b_")
    frames, tokens, heads, last, rows = (
        length(rng, 3),
        length(rng, 10),
        int(rng.integers(1, 4)),
        *rng.integers(1, 70, 2),
    )
    repeat, one_head = int(rng.integers(1, 3)), rng.random() < 0.3
    a = (frames, tokens, last) if one_head else (frames, tokens, heads * repeat, last)
    b = (frames, rows, last) if one_head else (frames, rows, heads, last)
    arrays = [codes(rng, a, sides, "a_"), scales(rng, a, group), codes(rng, b, sides, "b_"), scales(rng, b, group)]
    return arrays, {"group_size": group, "scale_offset": 200, **sides, **WIDE}


def depthwise(rng) -> Case:
    shape, attributes = window(rng)
    group, sides = group_size(rng), element(rng, "x_") | element(rng, "w_")
    taps = (int(np.prod(attributes["kernel_shape"])), shape[3])
    arrays = [codes(rng, shape, sides, "x_"), scales(rng, shape, group), codes(rng, taps, sides, "w_")]
    arrays += [rng.integers(100, 104, taps).astype(np.uint8), wide(rng, shape[3], 40)]
    own = {"group_size": group, "code_min": 100, "scale_offset": 200}
    return arrays, attributes | own | sides | WIDE


def quantizer(rng) -> dict:
    fmt = get_format(str(rng.choice(list(MX_FORMATS))))
    rule = str(rng.choice(["floor", "even", "ceil", "rceil"]))
    low, high = sorted(int(code) for code in rng.integers(40, 180, 2))
    bias = round_bias(fmt.element, rule) if rng.random() < 0.5 else int(rng.integers(0, 2**23))
    own = {"emax": fmt.element.emax, "round_bias": bias, "code_min": low, "code_max": high}
    return own | fixedpoint.element_parameters(fmt.element) | {"width": 63, "lsb_exp": int(rng.integers(-80, 10))}


def some_wide(rng, shape) -> np.ndarray:
    x = wide(rng, shape)
    return np.where(rng.random(shape) < rng.choice([0, 0.1, 0.97]), 0, x)


def quantize(rng) -> Case:
    shape = shape_of(rng, (1, 5), 80)
    attributes = {"axis": int(rng.integers(-len(shape), len(shape))), "group_size": group_size(rng)}
    return [some_wide(rng, shape)], attributes | quantizer(rng)


def tokens(rng) -> Case:
    return [some_wide(rng, shape_of(rng, (3, 5), 40))], {"group_size": group_size(rng)} | quantizer(rng)


def dequantize(rng) -> Case:
    shape, sides, group = shape_of(rng, (1, 5)), element(rng), group_size(rng)
    axis = int(rng.integers(-len(shape), len(shape)))
    low = int(rng.integers(0, 200))
    scale = rng.integers(low, low + 20, groups.contracted_shape(shape, axis, group)).astype(np.uint8)
    attributes = {"axis": axis, "group_size": group, "scale_offset": low, **sides, **WIDE}
    return [codes(rng, shape, sides), scale], attributes


def insert(rng) -> Case:
    shape, group = (length(rng, 3), *rng.integers(1, 6, 2).tolist(), int(rng.integers(1, 70))), group_size(rng)
    attributes = {"steps": rng.integers(1, 4, 2).tolist(), "more": rng.integers(0, 3, 2).tolist(), "code_min": 7}
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return [x, scales(rng, shape, group)], {"group_size": group, **attributes}


def mx_window(rng) -> Case:
    shape, attributes = window(rng)
    shape, group = (max(shape[0], 1), *shape[1:]), group_size(rng)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    return [x, scales(rng, shape, group)], attributes | {"group_size": group, "code_min": 9}


def pool(**more: tuple[int, int]) -> Callable[[np.random.Generator], Case]:
    def draw(rng) -> Case:
        shape, attributes = window(rng, dilated=False)
        own = {name: int(rng.integers(*ends)) for name, ends in more.items()}
        return [wide(rng, shape, 40)], attributes | own | WIDE

    return draw


def alone(bits: int = 62, ranks: tuple[int, int] = (1, 5), **more: tuple[int, int]):
    """One tensor of wide integers, whole attributes between ends."""

    def draw(rng) -> Case:
        own = {name: int(rng.integers(*ends, dtype=np.int64)) for name, ends in more.items()}
        return [wide(rng, shape_of(rng, ranks), bits)], own | WIDE

    return draw


def two(bits: int, **more: tuple[int, int]):
    def draw(rng) -> Case:
        (a,), attributes = alone(bits, **more)(rng)
        return [a, wide(rng, a.shape, bits)], attributes

    return draw


def with_constants(bits: int, count: int, of_frame: bool, **more: tuple[int, int]):
    def draw(rng) -> Case:
        (x,), attributes = alone(bits, (2, 5), **more)(rng)
        return [x, *(wide(rng, x.shape[1:] if of_frame else x.shape[-1:], bits) for _ in range(count))], attributes

    return draw


def concat(rng) -> Case:
    a = wide(rng, shape_of(rng, (1, 5)), 40)
    b = wide(rng, (*a.shape[:-1], int(rng.integers(1, 50))), 40)
    return [a, b], {"a_shift": int(rng.integers(0, 20)), "b_shift": int(rng.integers(0, 20)), **WIDE}


def activation(rng) -> Case:
    own = {"shift": int(rng.integers(-20, 12)), "segment_bits": int(rng.integers(1, 6))}
    own |= {"position_bits": int(rng.integers(1, 12)), "octaves": int(rng.integers(2, 9))}
    own |= {"sides": int(rng.integers(1, 3)), "gate": int(rng.integers(0, 3))}
    own |= {name: int(rng.integers(0, 2**20)) for name in ("offset", "limit", "low_limit")}
    words = own["sides"] * (own["octaves"] + 1) << own["segment_bits"]
    return [wide(rng, shape_of(rng, (1, 5)), 45), wide(rng, words, 30), wide(rng, words, 20)], own | WIDE


def norm(rng) -> Case:
    x = wide(rng, shape_of(rng, (1, 5), 100), 16)
    segment_bits, root_bits = int(rng.integers(1, 7)), int(rng.integers(8, 20))
    own = {"center": int(rng.integers(0, 2)), "epsilon": int(rng.integers(1, 10**6)), "segment_bits": segment_bits}
    own |= {"root_bits": root_bits, "fraction": int(rng.integers(1, 16)), "shift": int(rng.integers(1, 30))}
    constants = [wide(rng, x.shape[-1:], 16), wide(rng, x.shape[-1:], 40)]
    return [x, *constants, *normalization.root_table(segment_bits, root_bits)], own | WIDE


def soft(rng, keyed: bool = False) -> Case:
    x = wide(rng, shape_of(rng, (2 if keyed else 1, 5), 60), 30)
    segment_bits, exp_bits = int(rng.integers(1, 7)), int(rng.integers(8, 25))
    own = {"factor": int(rng.integers(1, 2**24)), "drop": int(rng.integers(0, 20)), "segment_bits": segment_bits}
    own |= {"distance_bits": int(rng.integers(1, 24)), "fraction": int(rng.integers(segment_bits + 1, 17))}
    own |= {"exp_bits": exp_bits, "reciprocal_bits": int(rng.integers(24, 33)), "out_bits": int(rng.integers(4, 32))}
    dims = [n if rng.random() < 0.6 else 1 for n in x.shape][int(rng.integers(0, x.ndim + 1)) :]
    mask = np.asarray(rng.random(dims) < rng.choice([0.2, 0.8, 1]), np.uint8)
    tables = softmax.exp2_table(segment_bits, exp_bits)
    keys = [rng.integers(-2, 3, (x.shape[0], x.shape[-1]))] if keyed else []
    return [x, *keys, *tables, mask], own | ({"keep": int(rng.integers(0, 2))} if keyed else {}) | WIDE


def embedding(rng) -> Case:
    x = rng.integers(-3, 14, (*shape_of(rng, (1, 4), 20), 1))
    return [x, wide(rng, (int(rng.integers(1, 12)), int(rng.integers(1, 40))))], dict(WIDE)


def keep(rng) -> Case:
    x = rng.integers(-2, 3, (*shape_of(rng, (1, 4), 20), 1))
    return [x], {"channels": int(rng.integers(1, 40)), "keep": int(rng.integers(0, 2)), **WIDE}


def pad(rng) -> Case:
    return [wide(rng, shape_of(rng, (4, 5)))], {"pads": rng.integers(0, 4, 4).tolist(), **WIDE}


def upsample(rng) -> Case:
    return [wide(rng, shape_of(rng, (4, 5)))], {"scales": rng.integers(1, 4, 2).tolist(), **WIDE}


def cut(rng) -> Case:
    frame = rng.integers(1, 9, 3)
    start = [int(rng.integers(0, n)) for n in frame]
    size = [int(rng.integers(1, n - s + 1)) for n, s in zip(frame, start, strict=True)]
    rank = int(rng.integers(1, 4))
    return [wide(rng, (length(rng, 4), *frame[3 - rank :]))], {"start": start, "size": size, **WIDE}


def reshape(rng) -> Case:
    shape = tuple(rng.integers(1, 9, rng.integers(2, 5)))
    return [wide(rng, shape)], {"frame": [*map(int, shape[:0:-1]), 1], **WIDE}


CASES: dict[str, Callable[[np.random.Generator], Case]] = {
    "Eltwise": alone(relu=(0, 2)),
    "MXDepthwise": depthwise,
    "MXDequantize": dequantize,
    "MXInsert": insert,
    "MXMatMul": matmul,
    "MXProduct": product,
    "MXQuantize": quantize,
    "MXQuantizeTokens": tokens,
    "MXWindow": mx_window,
    "WideActivation": activation,
    "WideAdd": two(40, a_shift=(0, 21), b_shift=(0, 21)),
    "WideAffine": with_constants(28, 2, False, shift=(1, 63)),
    "WideArgMax": alone(4),
    "WideAveragePool": pool(divisor=(1, 1000), shift=(0, 15)),
    "WideClip": alone(low=(-(2**61), 5), high=(-5, 2**61)),
    "WideConcat": concat,
    "WideEmbedding": embedding,
    "WideGain": with_constants(30, 1, True, shift=(1, 63)),
    "WideHardSwish": alone(30, shift=(0, 8), fraction=(1, 25)),
    "WideKeep": keep,
    "WideLeakyRelu": alone(38, slope=(0, 2**24), shift=(0, 63)),
    "WideMaskedSoftmax": lambda rng: soft(rng, keyed=True),
    "WideMaxPool": pool(),
    "WideMultiply": two(30, shift=(0, 63)),
    "WideNorm": norm,
    "WideOffset": with_constants(40, 1, True, x_shift=(0, 20)),
    "WidePad": pad,
    "WideReorder": alone(ranks=(4, 5)),
    "WideReshape": reshape,
    "WideSlice": cut,
    "WideSoftmax": soft,
    "WideUpsample": upsample,
}


def test_every_operator_is_drawn():
    assert sorted(CASES) == DATAFLOW


@pytest.mark.parametrize("op_type", DATAFLOW)
@settings(max_examples=400 if FULL else 20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_tensor(op_type, seed):
    arrays, attributes = CASES[op_type](np.random.default_rng(seed))
    check(op_type, arrays, attributes)


def blocks(rng, shape, group: int = 32) -> list[np.ndarray]:
    return [rng.integers(0, 256, shape).astype(np.uint8), scales(rng, shape, group)]


E4M3, INT8 = (4, 3), (0, 6)


def sides(first: str, second: str, *elements: tuple[int, int]) -> dict[str, int]:
    parts = zip((first, second), elements, strict=True)
    return {f"{kind}_{part}_bits": n for kind, e in parts for part, n in zip(("exponent", "mantissa"), e, strict=True)}


@pytest.mark.parametrize("elements", [(INT8, INT8), (E4M3, E4M3), (E4M3, (5, 2))])
def test_threads_change_no_bit(elements, rng):
    """Sums of blocks in float32, float64 and int64; more rows and columns than one piece has."""
    common = {"group_size": 32, "scale_offset": 200, **WIDE}
    weighted, dynamic = sides("x", "w", *elements), sides("a", "b", *elements)
    shape, attributes = (2, 20, 20, 96), {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
    x, w, bias = blocks(rng, (300, 200)), blocks(rng, (150, 200)), wide(rng, 150, 40)
    frames, taps = blocks(rng, shape), [*blocks(rng, (9, 96), 1)[:1], rng.integers(100, 104, (9, 96)).astype(np.uint8)]
    windows = attributes | {"dilations": [1, 1], "code_min": 100}
    for threads in (1, 3):
        check("MXMatMul", [*x, *w, bias], common | weighted, threads)
        check("MXProduct", [*blocks(rng, (2, 140, 4, 64)), *blocks(rng, (2, 90, 2, 64))], common | dynamic, threads)
        check("MXDepthwise", [*frames, *taps, wide(rng, 96, 40)], windows | common | weighted, threads)
        check("MXWindow", frames, windows | {"group_size": 32}, threads)


# --- what does not fit --------------------------------------------------------------------------------------------


def refused(op_type: str, arrays: list[np.ndarray], attributes: dict, words: str) -> None:
    session = open_shapes(op_type, [a.dtype.name for a in arrays], attributes)
    with pytest.raises(Exception, match=words):
        session.run(None, {f"i{i}": a for i, a in enumerate(arrays)})


def changed_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every length one more, an axis more, an axis less."""
    longer = [(*shape[:i], n + 1, *shape[i + 1 :]) for i, n in enumerate(shape)]
    return [*longer, (*shape, 1), *([shape[1:]] if shape else [])]


@pytest.mark.parametrize("op_type", [name for name in DATAFLOW if len(ops.OPERATORS[name].inputs) > 1])
def test_inputs_that_do_not_fit_are_refused(op_type):
    """Each input but the first in turn has another shape; whatever the reference refuses, the kernel does."""
    count = 0
    for seed in range(4):
        arrays, attributes = CASES[op_type](np.random.default_rng(seed))
        session = open_shapes(op_type, [a.dtype.name for a in arrays], attributes)
        for i in range(1, len(arrays)):
            for shape in changed_shapes(arrays[i].shape):
                shapes = [a.shape if j != i else shape for j, a in enumerate(arrays)]
                try:
                    ops.OPERATORS[op_type].check(shapes, attributes)
                except ShapeError:
                    fed = {f"i{j}": a if j != i else np.resize(a, shape) for j, a in enumerate(arrays)}
                    with pytest.raises(Exception, match=f"mxexport.ops|{op_type}"):
                        session.run(None, fed)
                    count += 1
    assert count or op_type == "WideEmbedding"


def test_scale_codes_that_no_shift_stands_for_are_refused_unless_they_scale_zeros():
    attributes = {"group_size": 2, "scale_offset": 200, **sides("x", "w", INT8, INT8), **WIDE}
    ones, low = np.ones((1, 2), np.uint8), np.full((1, 1), 99, np.uint8)
    w, bias = [ones, np.full((1, 1), 100, np.uint8)], np.array([5])
    for scale in (low, low + 65):
        refused("MXMatMul", [ones, scale, *w, bias], attributes, "shift outside 0 to 62")
        refused("MXProduct", [ones[None], scale[None], *(a[None] for a in w)], attributes_of_product(), "shift outside")
        refused("MXDequantize", [ones, scale], {"axis": 1, **INT8_AT_100}, "below scale_offset, or more than 62 above")
    session = open_shapes("MXMatMul", ["uint8"] * 4 + ["int64"], attributes)
    (found,) = session.run(None, {f"i{i}": a for i, a in enumerate([0 * ones, low, *w, bias])})
    assert found.tolist() == [[5]]


INT8_AT_100 = {"group_size": 2, "exponent_bits": 0, "mantissa_bits": 6, "scale_offset": 100, **WIDE}


def attributes_of_product() -> dict:
    return {"group_size": 2, "scale_offset": 200, **sides("a", "b", INT8, INT8), **WIDE}


BAD_ATTRIBUTES = [
    ("MXMatMul", {"x_exponent_bits": 5, "x_mantissa_bits": 3}, "more than 8 bits"),
    ("MXMatMul", {"group_size": 0}, "group_size is below 1"),
    ("MXMatMul", {"w_mantissa_bits": 8}, "w_mantissa_bits is 8; expected 0 to 7"),
    ("MXQuantize", {"group_size": 0}, "group_size is below 1"),
    ("MXWindow", {"strides": [0, 1]}, "strides is 0; expected 1 to"),
    ("WideAdd", {"a_shift": 63}, "a_shift is 63; expected 0 to 62"),
    ("WideMultiply", {"shift": -1}, "shift is below 0"),
    ("WideNorm", {"segment_bits": 8, "root_bits": 8}, "root_bits is not above segment_bits"),
    ("WideSoftmax", {"segment_bits": 8, "fraction": 8}, "fraction is not above segment_bits"),
    ("WideActivation", {"octaves": 17}, "octaves is 17; expected 2 to 16"),
    ("WideSlice", {"start": [0, 0]}, "too few or too many numbers"),
    ("WidePad", {"pads": [1, 1]}, "too few or too many numbers"),
    ("WideUpsample", {"scales": [2, 2, 2]}, "too few or too many numbers"),
    ("MXInsert", {"steps": [1]}, "too few or too many numbers"),
]


@pytest.mark.parametrize("op_type, other, words", BAD_ATTRIBUTES)
def test_attributes_without_a_meaning_are_refused(op_type, other, words):
    arrays, attributes = CASES[op_type](np.random.default_rng(0))
    kinds = [a.dtype.name for a in arrays]
    with pytest.raises(Exception, match=words):
        open_shapes(op_type, kinds, attributes | other)
    for name in attributes.keys() - ({"width"} if "emax" in attributes else {"width", "lsb_exp"}):
        with pytest.raises(Exception, match=f"mxexport.ops: attribute {name} is missing"):
            open_shapes(op_type, kinds, {key: value for key, value in attributes.items() if key != name})


def test_windows_that_do_not_fit_are_refused():
    attributes = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, **WIDE}
    x = np.ones((1, 4, 4, 2), np.int64)
    refused("WideMaxPool", [x], attributes | {"pads": [3, 0, 0, 0]}, "pads reach as far as windows span")
    refused("WideMaxPool", [x], attributes | {"kernel_shape": [7, 3]}, "windows span more than the frame")
    refused("WideMaxPool", [x], attributes | {"kernel_shape": [3]}, "two numbers for height and width")
    refused("WideMaxPool", [x[0]], attributes, "two numbers for height and width")
    refused("WideSlice", [x], {"start": [0, 2, 0], "size": [4, 3, 2], **WIDE}, "lie outside X")


def test_a_variance_that_overflows_is_refused():
    arrays, attributes = norm(np.random.default_rng(0))
    length = arrays[1].size  # its square times that of x is 1.5 * 2**63, below 0 in int64
    x = np.full((1, length), int(np.sqrt(1.5 * 2.0**63) / length))
    refused("WideNorm", [x, *arrays[1:]], attributes | {"center": 0}, "a variance of 2..62 or more")


# --- whole graphs -------------------------------------------------------------------------------------------------


def images() -> tuple[nn.Module, dict[str, torch.Tensor], tuple[str, str]]:
    first = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish()]
    layers = [*first, nn.ConvTranspose2d(8, 6, 3, 2), nn.LeakyReLU(), nn.MaxPool2d(2, 1), nn.Upsample(scale_factor=2)]
    network = nn.Sequential(*layers, nn.AvgPool2d(3), nn.Flatten(), nn.Linear(216, 5))
    return network, {"x": torch.randn(4, 3, 12, 12)}, ("mxfp8_e4m3", "mxint8")


def transformer(name: str) -> Callable[[], tuple[nn.Module, dict[str, torch.Tensor], tuple[str, str]]]:
    make, inputs, formats = NETWORKS[name]
    return lambda: (make(), inputs(), formats)


GRAPHS = {"causal": transformer("causal"), "images": images, "image tokens": transformer("image")}


@pytest.mark.parametrize("drawn", every(3, GRAPHS.values()), ids=every(3, GRAPHS))
def test_graphs_node_by_node(drawn, tmp_path):
    """Every tensor of a compiled network: by kernels, by bodies, and by qonnx, which runs the numpy reference."""
    torch.manual_seed(0)
    network, given_, formats = drawn()
    design, _ = compiled(network, given_, formats, tmp_path)
    path = design.path / "dataflow.onnx"
    fixed = framing.all_fixed({name: x[:2].numpy() for name, x in given_.items()}, design.network)
    asked = [output for node in onnx.load(path).graph.node for output in node.output]
    session = mx.Session(path, asked)
    assert session.kernels == "compiled kernels" and len(asked) > 12
    kernels, by_bodies = session.run(fixed), run_bodies(path, fixed, asked)
    by_numpy = mx.run(path, fixed, asked, executor="qonnx")
    for name in asked:
        assert_equal_bits(kernels[name], by_bodies[name], name)
        assert_equal_bits(kernels[name], by_numpy[name], name)
