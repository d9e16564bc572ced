"""Rewrites ops/<Operator>/vectors in ONNX's node-test layout: `python docs/update_vectors.py`.

Every case is a model of one node with its function body, and inputs and outputs as TensorProto files. The outputs come
from the numpy reference.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mxexport import ops
from mxexport.numbers import fixedpoint, groups, normalization, packing, softmax
from mxexport.numbers.formats import FloatElement, get_format, round_bias

ROOT = Path(__file__).resolve().parent.parent / "ops"
OPSET = 20
Case = tuple[str, str, list[np.ndarray], dict]  # operator, name of the case, inputs, attributes


# --- inputs ---------------------------------------------------------------------------------------------------

LAYOUTS = {"last": 1, "first": 0, "middle": 1, "from_back": -2}  # the axis that holds the ten values of each row
EDGE_SCALES = (0.0, np.nan, 2.0**-149, 2.0**-127, 1.0, 0.3, 2.0**127, np.inf, 3.0e38)


def edges(layout: str = "last") -> np.ndarray:
    """Seven rows of ten float32 values, laid out as [7, 10], [10, 7], [7, 10, 2] or [1, 7, 10, 2].

    Zeros, -0, subnormals, just below 2**k, huge, NaN and Inf, ties, and magnitudes that reach every subnormal element.
    """
    below = np.nextafter(np.exp2(np.arange(-4, 6)).astype(np.float32), np.float32(0))
    special = np.array([1, np.nan, 2, 3, 0.5, np.inf, -1, -2, 0.25, -np.inf])
    huge = np.array([3.4e38, -3.4e38, 1e30, -1.0, 0, 1, 2, 3, 4, 5])
    ramp = np.arange(-5, 5) * 0.3125
    fading = 1.75 * (-0.125) ** np.arange(10)
    zeros = np.where(np.arange(10) < 4, 0.0, -0.0)
    x = np.array([zeros, np.arange(10) * 1e-41, below, special, huge, ramp, fading], np.float32)
    if layout in ("last", "first"):
        return x if layout == "last" else np.ascontiguousarray(x.T)
    both = np.stack([x, x[::-1]], axis=-1)
    return both if layout == "middle" else both[None]


def _grouped(layout: str) -> dict:
    return {"axis": LAYOUTS[layout], "group_size": 4}


def _edge_scales(shape: tuple[int, ...], layout: str, group_size: int = 4) -> np.ndarray:
    """Scales that nobody would choose: they are inputs, and files of others hold what they hold."""
    return np.resize(np.float32(EDGE_SCALES), groups.contracted_shape(shape, LAYOUTS[layout], group_size))


def _packed(bits: int, element: dict, layout: str = "middle", zero_point: bool = False, odd: bool = False) -> tuple:
    """Inputs and attributes of a decoder: every code at least once, the last group short. `odd`: scales of any kind."""
    axis = LAYOUTS[layout]
    shape = {"last": (2, 129), "first": (129, 2), "middle": (2, 65, 2), "from_back": (1, 2, 65, 2)}[layout]
    codes = (np.arange(np.prod(shape)) % 2**bits).astype(np.uint8).reshape(shape)
    contracted = groups.contracted_shape(shape, axis, 4)
    plain = np.exp2(np.arange(np.prod(contracted)) % 7 - 3.0).astype(np.float32).reshape(contracted)
    scale = _edge_scales(shape, layout) if odd else plain
    arrays = [packing.pack_codes(codes, bits, axis, 4), scale] + ([np.full_like(scale, 3)] if zero_point else [])
    return arrays, element | _grouped(layout) | {"shape": list(shape)}


# --- cases ----------------------------------------------------------------------------------------------------


def _minifloats() -> list[Case]:
    cases, bits = [], {"e4m3": 8, "e5m2": 8, "e3m2": 6, "e2m3": 6, "e2m1": 4}
    layouts = {"e4m3": "last", "e5m2": "first", "e3m2": "middle", "e2m3": "from_back", "e2m1": "last"}
    for name, layout in layouts.items():
        fmt, x, common = get_format(f"mxfp{bits[name]}_{name}_g4"), edges(layout), _grouped(layout)
        (scale,) = ops.MXScale.reference(x, **common, **_scale_attributes(fmt))
        element, packed = ops.MXFloatQuant.attributes_of(fmt.element), ops.MXFloatDequant.attributes_of(fmt.element)
        cases += [
            ("MXScale", name, [x], common | _scale_attributes(fmt)),
            ("MXFloatQuant", name, [x, scale], common | element),
            ("MXFloatQuant", f"{name}_any_scale", [x, _edge_scales(x.shape, layout)], common | element),
            ("MXFloatDequant", name, *_packed(bits[name], packed, layout)),
            ("MXFloatDequant", f"{name}_any_scale", *_packed(bits[name], packed, layout, odd=True)),
        ]
    return cases + _unsigned(edges("first"))


def _unsigned(x: np.ndarray) -> list[Case]:
    """Attributes that no MX format has: no negative values, no -0."""
    cases, common = [], _grouped("first")
    for name, changes in (("unsigned", {"signed": 0}), ("no_negative_zero", {"signed_zero": 0})):
        for element in (FloatElement(2, 1), FloatElement(4, 3, "nan")):
            attributes = common | ops.MXFloatQuant.attributes_of(element) | changes
            cases.append(("MXFloatQuant", f"{element.name}_{name}", [x, _edge_scales(x.shape, "first")], attributes))
    return cases


def _float_scaled() -> list[Case]:
    """Elements under float32 scales: fnuz, OCP with its special values, and without any."""
    cases = []
    for name, layout in {
        "float_fnuz_e4m3": "last", "float_fnuz_e5m2": "middle", "float_ocp_e5m2": "from_back", "float_e4m3": "first",
    }.items():  # fmt: skip
        element, x, common = get_format(f"{name}_g4").element, edges(layout), _grouped(layout)
        case = f"{element.name}_fnuz" if "fnuz" in name else name
        levels = common | {"levels": float(element.max_val), "asymmetric": 0}
        (scale,) = ops.GroupwiseScale.reference(x, **levels)
        cases += [
            ("GroupwiseScale", case, [x], levels),
            ("MXFloatQuant", case, [x, scale], common | ops.MXFloatQuant.attributes_of(element)),
            ("MXFloatDequant", case, *_packed(8, ops.MXFloatDequant.attributes_of(element), layout)),
        ]
    return cases


def _scale_attributes(fmt, rule: str = "floor", code_min: int = 0, code_max: int = 254) -> dict:
    rounding = {"emax": fmt.element.emax, "round_bias": round_bias(fmt.element, rule)}
    return rounding | {"frac_bits": fmt.step_frac_bits, "code_min": code_min, "code_max": code_max}


def _integers() -> list[Case]:
    cases = []
    kinds = {"int8": (8, 1, "last"), "int4": (4, 1, "middle"), "int2": (2, 1, "from_back"),
             "uint4_zero_point": (4, 0, "last"), "uint8_zero_point": (8, 0, "first")}  # fmt: skip
    for name, (bits, signed, layout) in kinds.items():
        x, levels = edges(layout), float(2**bits - 1 if not signed else 2 ** (bits - 1) - 1)
        common, element = _grouped(layout), {"bit_width": bits, "signed": signed}
        ranged = common | {"levels": levels}
        (scale,) = ops.GroupwiseScale.reference(x, **ranged, asymmetric=1 - signed)
        (zero,) = ops.GroupwiseZeroPoint.reference(x, scale, **ranged)
        odd = _edge_scales(x.shape, layout)
        (odd_zero,) = ops.GroupwiseZeroPoint.reference(x, odd, **ranged)
        cases += [
            ("GroupwiseScale", name, [x], ranged | {"asymmetric": 1 - signed}),
            ("GroupwiseZeroPoint", name, [x, scale], ranged),
            ("GroupwiseZeroPoint", f"{name}_any_scale", [x, odd], ranged),
            ("GroupwiseDequant", name, *_packed(bits, element, layout, not signed)),
            ("GroupwiseDequant", f"{name}_any_scale", *_packed(bits, element, layout, not signed, odd=True)),
        ]
        for case, arrays in ((name, [x, scale, zero]), (f"{name}_any_scale", [x, odd, odd_zero])):
            attributes = common | element | {"narrow": signed}
            cases.append(("GroupwiseQuant", case, arrays[: 3 - signed], attributes))
    wide = _grouped("first") | {"bit_width": 8, "signed": 1, "narrow": 0}
    step, x = np.full((3, 7), 2.0**-6, np.float32), edges("first")
    return [*cases, ("GroupwiseQuant", "int8_not_narrow", [x, step], wide)]


def _scales() -> list[Case]:
    cases, codes, layouts = [], np.arange(256, dtype=np.uint8).reshape(4, 64), list(LAYOUTS)
    for i, name in enumerate(("mxfp8_e4m3", "mxfp6_e2m3", "mxfp4_e2m1", "mxint8")):
        for j, rule in enumerate(("ceil", "even", "rceil")):
            layout, fmt = layouts[(i + j) % 4], get_format(f"{name}_g4")
            case = f"{fmt.element.name}_{rule}"
            cases.append(("MXScale", case, [edges(layout)], _grouped(layout) | _scale_attributes(fmt, rule)))
    clamped = _grouped("middle") | _scale_attributes(get_format("mxint8_g4"), "floor", 120, 130)
    cases += [("MXScale", "int8_clamped", [edges("middle")], clamped)]
    cases += [("MXScaleDequant", f"frac_bits_{n}", [codes], {"frac_bits": n}) for n in (0, 6, 22)]
    cases += [("NVFP4Scale", f"rank_{edges(k).ndim}", [edges(k)], _grouped(k)) for k in ("last", "middle", "from_back")]
    cases += [("NVFP4Scale", "first_axis", [edges("first")], _grouped("first"))]
    cases += [("NVFP4Scale", "no_specials", [edges()[[0, 5, 6]]], {"axis": 1, "group_size": 16})]
    tensor_scales = {"one": 1.0, "subnormal": 1e-40, "zero": 0.0, "largest": 3.4e38, "nan": np.nan}
    return cases + [
        ("NVFP4ScaleDequant", name, [codes, np.array(s, np.float32)], {}) for name, s in tensor_scales.items()
    ]


def _wide(layout: str = "last") -> np.ndarray:
    """Four rows of seven wide integers: zeros, small, large, and bits below every rounding point."""
    rows = [[0] * 7, [1, -1, 2, 3, -7, 0, 5], [2**40, -(2**40), 2**33 - 1, 1, 0, 9, -4]]
    x = np.array([*rows, [2**61 + 1, -(2**61) - 3, 3 * 2**20 + 1, 5 * 2**36, -(7 * 2**57), 2**62 - 1, 1]], np.int64)
    if layout in ("last", "first"):
        return x if layout == "last" else np.ascontiguousarray(x.T)
    both = np.stack([x, -x[::-1]], axis=-1)
    return both if layout == "middle" else both[None]


def _dataflow() -> list[Case]:
    cases = [("Eltwise", f"relu_{r}", [_wide()], {"relu": r, "width": 64, "lsb_exp": -3}) for r in (0, 1)]
    cases += [("Eltwise", "rank_4", [_wide("from_back")], {"relu": 1, "width": 64, "lsb_exp": 0})]
    quantizers = [(name, "last", "floor") for name in ("mxfp4_e2m1", "mxfp8_e4m3", "mxint8")]
    quantizers += [("mxfp8_e5m2", "middle", "ceil"), ("mxfp6_e3m2", "from_back", "even"),
                   ("mxfp6_e2m3", "first", "rceil"), ("mxint8", "middle", "even")]  # fmt: skip
    for name, layout, rule in quantizers:
        element = get_format(name).element
        attributes = _grouped(layout) | {"width": 63, "lsb_exp": -40, "emax": element.emax}
        attributes |= fixedpoint.element_parameters(element) | {"round_bias": round_bias(element, rule)}
        case = name if layout == "last" else f"{name}_{layout}_axis_{rule}"
        cases.append(("MXQuantize", case, [_wide(layout)], attributes | {"code_min": 100, "code_max": 140}))
        if layout in ("last", "middle"):
            tokens = np.moveaxis(_wide(layout), 0, -1)[None]  # [1, T, C] or [1, T, H, C]
            case = f"{name}_{rule}" + "_heads" * (layout == "middle")
            given = {key: a for key, a in attributes.items() if key != "axis"} | {"code_min": 110, "code_max": 130}
            cases.append(("MXQuantizeTokens", case, [tokens], given))
    plain = _grouped("last") | {"width": 63, "lsb_exp": -20, "emax": 0, "exponent_bits": 0, "exponent_bias": 0}
    plain |= {"round_bias": 0, "code_min": 130, "code_max": 130}
    cases += [
        ("MXQuantize", "uint8_static", [np.abs(_wide())], plain | {"mantissa_bits": 7, "max_code": 255}),
        ("MXQuantize", "int8_static", [np.minimum(_wide(), 0)], plain | {"mantissa_bits": 6, "max_code": 128}),
    ]
    return cases + _products() + _spatial()


def _spatial() -> list[Case]:
    """Units on pixels: ties, extremes of 62 bits, windows beyond the frame, channels that do not fill a group."""
    rng = np.random.default_rng(5)
    wide = rng.integers(-(2**30), 2**30, (2, 5, 4, 3))
    wide[0, 0, 0], wide[0, 1, 1], wide[1, 2] = 2**54 - 1, -(2**54), np.arange(-6, 6).reshape(4, 3)
    codes = rng.integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    scales = rng.integers(90, 100, (2, 5, 4, 1)).astype(np.uint8)
    kinds = {
        "padded": {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]},
        "strided": {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 1, 0]},
        "whole": {"kernel_shape": [5, 4], "strides": [1, 1], "pads": [0, 0, 0, 0]},
    }
    type_of = {"width": 63, "lsb_exp": -3}
    cases = []
    for name, window in kinds.items():
        taps = window["kernel_shape"][0] * window["kernel_shape"][1]
        dilations = {"dilations": [2, 1] if name == "padded" else [1, 1]}
        group = {"group_size": 4, "code_min": 17}
        cases += [
            ("MXWindow", name, [codes, scales], group | window | dilations),
            ("WideMaxPool", name, [wide], window | type_of),
            ("WideAveragePool", name, [wide], window | {"divisor": taps, "shift": 2} | type_of),
        ]
    two = kinds["padded"] | {"kernel_shape": [2, 2], "pads": [0, 0, 0, 0]}
    cases.append(("WideAveragePool", "power_of_two", [wide], two | {"divisor": 4, "shift": 2} | type_of))
    cases.append(("WideReorder", "image", [wide], type_of))
    cases.append(("WideReshape", "heads", [wide], {"frame": [10, 2, 3]} | type_of))
    cases += [("WideClip", f"{low}_{high}", [wide], {"low": low, "high": high} | type_of)
              for low, high in ((0, 6), (-(2**53), 2**40))]  # fmt: skip
    narrow = wide % 2**38 - 2**37
    cases += [("WideLeakyRelu", name, [narrow], {"slope": slope, "shift": shift} | type_of)
              for name, slope, shift in (("eighth", 1, 3), ("hundredth", 10737418, 30))]  # fmt: skip
    cases.append(("WideConcat", "two_and_three", [wide[..., :2], narrow], {"a_shift": 0, "b_shift": 9} | type_of))
    numbers = [np.array([131071, -5, 1]), np.array([-(2**40), 2048, 2**39 + 1])]
    cases.append(("WideAffine", "three", [narrow, *numbers], {"shift": 12} | type_of))
    cases.append(("WideOffset", "places", [narrow, narrow[0, ::-1] // 8], {"x_shift": 3} | type_of))
    factors = np.random.default_rng(6).integers(-(2**20), 2**20, (5, 4, 3))
    cases.append(("WideGain", "places", [narrow >> 6, factors], {"shift": 17} | type_of))
    rows = [np.array([[[0], [4], [-3]], [[2], [9], [3]]]), rng.integers(-(2**20), 2**20, (5, 4))]
    cases.append(("WideEmbedding", "rows", rows, dict(type_of)))
    cases.append(("WideUpsample", "two_by_three", [wide], {"scales": [2, 3]} | type_of))
    cases.append(("WidePad", "uneven", [wide], {"pads": [2, 1, 0, 3]} | type_of))
    cases += [
        ("WideHardSwish", name, [narrow], {"shift": shift, "fraction": fraction} | type_of)
        for name, shift, fraction in (("fine", 0, 20), ("moved_up", 9, 16))
    ]
    cases += _activations(narrow)
    cases += [("WideMultiply", name, [narrow >> 8, narrow[::-1] >> 9], {"shift": shift} | type_of)
              for name, shift in (("exact", 0), ("rounded", 3), ("far", 30))]  # fmt: skip
    kept = {"channels": 3, "width": 2, "lsb_exp": 0}
    cases += [("WideKeep", f"keep_{n}", [wide[..., :1] >> 3], kept | {"keep": n}) for n in (0, 1)]
    cases.append(("WideArgMax", "first_among_equals", [np.maximum(wide, 0)], type_of))
    cases += [("WideNorm", name, *_norm(center, bits)) for name, center, bits in (("layer", 1, 5), ("rms", 0, 3))]
    cases.append(("WideSlice", "inside", [wide], {"start": [1, 0, 1], "size": [1, 2, 2]} | type_of))
    cases.append(("WideSlice", "vector", [wide[:, 0, 0]], {"start": [0, 0, 1], "size": [1, 1, 2]} | type_of))
    table = softmax.exp2_table(4, 16)
    numbers = {"factor": 23637, "drop": 20, "distance_bits": 17, "fraction": 10, "segment_bits": 4, "exp_bits": 16}
    numbers |= {"reciprocal_bits": 17, "out_bits": 15, "width": 17, "lsb_exp": -15}
    masks = {"whole": np.ones(1, np.uint8), "some": np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], np.uint8)}
    cases += [("WideSoftmax", name, [wide, *table, mask], dict(numbers)) for name, mask in masks.items()]
    keys = np.array([[1, 0, 2], [-1, 3, 0]])
    cases.append(("WideMaskedSoftmax", "keys", [wide, keys, *table, masks["some"]], numbers | {"keep": 1}))
    inserted = {"group_size": 4, "steps": [2, 3], "more": [1, 0], "code_min": 17}
    cases.append(("MXInsert", "uneven", [codes, scales], inserted))
    cases += [("WideAdd", f"shift_{a}_{b}", [wide, wide[::-1].copy()], {"a_shift": a, "b_shift": b} | type_of)
              for a, b in ((0, 0), (3, 0), (0, 7))]  # fmt: skip
    for (name, window), pair in zip(kinds.items(), (("mxint8",) * 2, ("mxfp8_e4m3", "mxfp4_e2m1"), ("mxfp6_e3m2",) * 2),
                                    strict=True):  # fmt: skip
        given, attributes = [codes, scales], {"group_size": 4, "code_min": 90, "scale_offset": 200, "dilations": [1, 1]}
        shape = (window["kernel_shape"][0] * window["kernel_shape"][1], 3)
        for side, of in zip("xw", pair, strict=True):
            parameters = fixedpoint.element_parameters(get_format(of).element)
            attributes |= {f"{side}_{key}": parameters[key] for key in ("exponent_bits", "mantissa_bits")}
        x_bits, w_bits = (get_format(of).element.bits for of in pair)
        weights = [rng.integers(0, 2**w_bits, shape), rng.integers(110, 116, shape)]
        given = [codes % np.uint8(2 ** (x_bits - 1)), scales, *(w.astype(np.uint8) for w in weights), np.arange(3) - 1]
        cases.append(("MXDepthwise", name, given, attributes | window | type_of))
    for name in ("mxint8", "mxfp8_e4m3", "mxfp4_e2m1"):
        parameters = fixedpoint.element_parameters(get_format(name).element)
        element = {key: parameters[key] for key in ("exponent_bits", "mantissa_bits")}
        bits = get_format(name).element.bits
        given = [(np.arange(2 * 5 * 13) % 2**bits).astype(np.uint8).reshape(2, 5, 13), scales[..., :2, 0]]
        attributes = {"axis": 2, "group_size": 8, "scale_offset": 90} | element | type_of
        cases.append(("MXDequantize", name, given, attributes))
    return cases


def _activations(x: np.ndarray) -> list[Case]:
    """Every octave, both ends, curves of any sign, with and without gate, one for both signs and one for each."""
    cases, x = [], x.copy()
    x[0, :3, :, 0] = np.arange(-6, 6).reshape(3, 4) << np.arange(12).reshape(3, 4)
    base, slope = np.arange(48) * 97 % 500 - 60, np.arange(48) * 53 % 401 - 200
    common = {"segment_bits": 2, "position_bits": 3, "octaves": 5, "limit": 77, "width": 63, "lsb_exp": -3}
    for name, shift, gate, sides in (
        ("gated", -2, 1, 1), ("symmetric", 0, 0, 1), ("moved_up", 3, 1, 1), ("raised", -1, 2, 1),
        ("two_sides", 0, 1, 2),
    ):  # fmt: skip
        attributes = common | {"shift": shift, "sides": sides, "gate": gate, "offset": 0 if gate else 300}
        tables = [table[: 24 * sides] for table in (base, slope)]
        cases.append(("WideActivation", name, [x, *tables], attributes | {"low_limit": 77 * sides}))
    return cases


def _norm(center: int, segment_bits: int) -> tuple[list[np.ndarray], dict]:
    """Rows of five: zeros, all equal, one alone, the ends of 27 bits, and what is small beside its mean."""
    top = 2**26
    rows = [
        [0] * 5,
        [7] * 5,
        [-top] * 5,
        [top - 1] * 5,
        [-top, top - 1, 0, 1, -1],
        [0, 0, 1, 0, 0],
        [top - 1, 0, 0, 0, 0],
    ]
    x = np.array([*rows, [1000001, 1000000, 999999, 1000002, 1000000], [-top, -top, top - 1, top - 1, -top]], np.int64)
    numbers = [np.array([131071, -131072, 1, 0, 70000]), np.array([-(2**40), 2**15, -(2**15), 3 * 2**15, 2**39 + 1])]
    tables = normalization.root_table(segment_bits, 16)
    widths = {"segment_bits": segment_bits, "root_bits": 16, "fraction": 14, "shift": 16, "width": 33, "lsb_exp": -15}
    return [x.reshape(3, 3, 5), *numbers, *tables], {"center": center, "epsilon": 1 + 99 * center} | widths


def _products() -> list[Case]:
    cases = []
    pairs = ["e2m1 e2m1", "e3m2 e3m2", "int8 int8", "e4m3 e4m3", "int8 e2m3", "uint8 int8"]
    for x_name, w_name in map(str.split, pairs):
        arrays, kinds = [], {}
        for side, name, rows, step in (("x", x_name, 3, 3), ("w", w_name, 2, 5)):
            e, m = {"int8": (0, 6), "uint8": (0, 7)}.get(name) or (int(name[1]), int(name[3]))
            count = min(2 ** (1 + e + m + (e == 0)), 256)
            codes = (np.arange(rows * 39) * step % count).astype(np.uint8).reshape(rows, 39)  # 39: a short last group
            scales = (120 + np.arange(rows * 10) % 3).astype(np.uint8).reshape(rows, 10)
            arrays += [codes, scales]
            kinds |= {f"{side}_exponent_bits": e, f"{side}_mantissa_bits": m}
        bias = np.array([-9, 1000], np.int64)
        shared = {"group_size": 4, "scale_offset": 240, "width": 60, "lsb_exp": 0}
        case = x_name if x_name == w_name else f"{x_name}_{w_name}"
        cases.append(("MXMatMul", case, [*arrays, bias], kinds | shared))
    return cases + _dynamic_products()


def _dynamic_products() -> list[Case]:
    """One head, several, and heads that share those of the other side; a short last group."""
    cases = []
    shapes = {"int8_one_head": ((2, 3, 13), (2, 2, 13)), "e4m3_heads": ((2, 3, 2, 9), (2, 4, 2, 9)),
              "e2m1_shared_heads": ((1, 2, 4, 13), (1, 3, 2, 13))}  # fmt: skip
    for name, sides in shapes.items():
        element = get_format({"i": "mxint8", "4": "mxfp8_e4m3", "2": "mxfp4_e2m1"}[name[name[0] == "e"]]).element
        parameters = fixedpoint.element_parameters(element)
        arrays, kinds = [], {}
        for side, shape, step in zip("ab", sides, (3, 5), strict=True):
            codes = np.arange(np.prod(shape)) * step % (2 * parameters["max_code"] + 1)
            scaled = groups.contracted_shape(shape, len(shape) - 1, 4)
            arrays += [codes.astype(np.uint8).reshape(shape)]
            arrays += [(120 + np.arange(np.prod(scaled)) % 3).astype(np.uint8).reshape(scaled)]
            kinds |= {f"{side}_{key}": parameters[key] for key in ("exponent_bits", "mantissa_bits")}
        shared = {"group_size": 4, "scale_offset": 240, "width": 60, "lsb_exp": 0}
        cases.append(("MXProduct", name, arrays, kinds | shared))
    return cases


def cases() -> list[Case]:
    return _minifloats() + _float_scaled() + _integers() + _scales() + _dataflow()


def model_of(op_type: str, arrays: list[np.ndarray], results: tuple, attributes: dict) -> onnx.ModelProto:
    cls = ops.OPERATORS[op_type]
    inputs = list(zip(cls.inputs, arrays, strict=False))
    node = helper.make_node(op_type, [n for n, _ in inputs], list(cls.outputs), domain=ops.DOMAIN, **attributes)
    outputs = zip(cls.outputs, results, strict=True)
    ports = [
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in side]
        for side in (inputs, outputs)
    ]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    graph, functions = helper.make_graph([node], op_type, *ports), ops.functions_for([node], OPSET)
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def write(root: Path) -> None:
    """All cases below `root`, which has one folder per operator."""
    for op_type in ops.OPERATORS:
        shutil.rmtree(root / op_type / "vectors", ignore_errors=True)
    for op_type, name, arrays, attributes in cases():
        with np.errstate(all="ignore"):
            results = ops.OPERATORS[op_type].reference(*arrays, **attributes)
        data = root / op_type / "vectors" / f"test_{name}" / "test_data_set_0"
        data.mkdir(parents=True)
        model = model_of(op_type, arrays, results, attributes)
        (data.parent / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        for side, names, tensors in (("input", model.graph.input, arrays), ("output", model.graph.output, results)):
            for i, (value, array) in enumerate(zip(names, tensors, strict=True)):
                tensor = numpy_helper.from_array(array, value.name)
                (data / f"{side}_{i}.pb").write_bytes(tensor.SerializeToString(deterministic=True))


if __name__ == "__main__":
    write(ROOT)
