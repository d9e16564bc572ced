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

from mxexport import fixedpoint, ops, packing
from mxexport.formats import FloatElement, get_format, round_bias

ROOT = Path(__file__).resolve().parent.parent / "ops"
OPSET = 20
Case = tuple[str, str, list[np.ndarray], dict]  # operator, name of the case, inputs, attributes


def edges(rank: int = 2) -> np.ndarray:
    """Float32 [6, 10], or [6, 10, 2] and [1, 6, 10, 2]: zeros, -0, subnormals, just below 2**k, huge, NaN and Inf."""
    below = np.nextafter(np.exp2(np.arange(-4, 6)).astype(np.float32), np.float32(0))
    special = np.array([1, np.nan, 2, 3, 0.5, np.inf, -1, -2, 0.25, -np.inf])
    huge = np.array([3.4e38, -3.4e38, 1e30, -1.0, 0, 1, 2, 3, 4, 5])
    ramp = np.arange(-5, 5) * 0.3125
    zeros = np.where(np.arange(10) < 4, 0.0, -0.0)
    x = np.array([zeros, np.arange(10) * 1e-41, below, special, huge, ramp], np.float32)
    return x if rank == 2 else np.stack([x, x[::-1]], axis=-1).reshape((1,) * (rank - 3) + (6, 10, 2))


def _minifloats() -> list[Case]:
    cases = []
    for name, rank in (("e4m3", 2), ("e5m2", 2), ("e3m2", 3), ("e2m3", 4), ("e2m1", 2)):
        bits = {"e4m3": 8, "e5m2": 8, "e3m2": 6, "e2m3": 6, "e2m1": 4}[name]
        fmt, x, axis = get_format(f"mxfp{bits}_{name}_g4"), edges(rank), max(rank - 2, 1)
        common = {"axis": axis, "group_size": 4}
        scale_attributes = common | _scale_attributes(fmt)
        (scale,) = ops.MXScale.reference(x, **scale_attributes)
        cases += [
            ("MXScale", name, [x], scale_attributes),
            ("MXFloatQuant", name, [x, scale], common | ops.MXFloatQuant.attributes_of(fmt.element)),
            ("MXFloatDequant", name, *_packed(fmt.element.bits, ops.MXFloatDequant.attributes_of(fmt.element))),
        ]
    return cases


def _fnuz() -> list[Case]:
    element, common = FloatElement(4, 3, "fnuz"), {"axis": 1, "group_size": 4}
    (scale,) = ops.GroupwiseScale.reference(edges(), **common, levels=float(element.max_val), asymmetric=0)
    return [
        ("MXFloatQuant", "e4m3_fnuz", [edges(), scale], common | ops.MXFloatQuant.attributes_of(element)),
        ("MXFloatDequant", "e4m3_fnuz", *_packed(8, ops.MXFloatDequant.attributes_of(element))),
    ]


def _scale_attributes(fmt, rule: str = "floor") -> dict:
    rounding = {"emax": fmt.element.emax, "round_bias": round_bias(fmt.element, rule)}
    return rounding | {"frac_bits": fmt.step_frac_bits, "code_min": 0, "code_max": 254}


def _packed(bits: int, element: dict, zero_point: bool = False) -> tuple[list[np.ndarray], dict]:
    """Inputs and attributes of a decoder: every code once, on the inner axis of rank 3, last group short."""
    codes = (np.arange(260) % 2**bits).astype(np.uint8).reshape(2, 65, 2)
    scale = np.exp2(np.arange(2 * 17 * 2) % 7 - 3.0).astype(np.float32).reshape(2, 17, 2)
    arrays = [packing.pack_codes(codes, bits, 1, 4), scale] + ([np.full_like(scale, 3)] if zero_point else [])
    return arrays, element | {"axis": 1, "group_size": 4, "shape": [2, 65, 2]}


def _integers() -> list[Case]:
    cases = []
    for name, bits, signed, rank in (("int8", 8, 1, 2), ("int4", 4, 1, 3), ("uint4_zero_point", 4, 0, 2)):
        x, axis, levels = edges(rank), 1, float(2**bits - 1 if not signed else 2 ** (bits - 1) - 1)
        common = {"axis": axis, "group_size": 4}
        ranged = common | {"levels": levels}
        (scale,) = ops.GroupwiseScale.reference(x, **ranged, asymmetric=1 - signed)
        (zero,) = ops.GroupwiseZeroPoint.reference(x, scale, **ranged)
        element = {"bit_width": bits, "signed": signed}
        arrays = [x, scale] if signed else [x, scale, zero]
        cases += [
            ("GroupwiseScale", name, [x], ranged | {"asymmetric": 1 - signed}),
            ("GroupwiseZeroPoint", name, [x, scale], ranged),
            ("GroupwiseQuant", name, arrays, common | element | {"narrow": signed}),
            ("GroupwiseDequant", name, *_packed(bits, element, not signed)),
        ]
    return cases


def _scales() -> list[Case]:
    codes, common = np.arange(256, dtype=np.uint8).reshape(4, 64), {"axis": 1, "group_size": 4}
    step = common | _scale_attributes(get_format("mxint8_g4"), "ceil")
    cases = [("MXScale", "int8_ceil", [edges()], step)]
    cases += [("MXScaleDequant", f"frac_bits_{n}", [codes], {"frac_bits": n}) for n in (0, 6)]
    cases += [("NVFP4Scale", f"rank_{rank}", [edges(rank)], common) for rank in (2, 3)]
    tensor_scales = {"one": 1.0, "subnormal": 1e-40}
    return cases + [
        ("NVFP4ScaleDequant", name, [codes, np.array(s, np.float32)], {}) for name, s in tensor_scales.items()
    ]


def _dataflow() -> list[Case]:
    x = np.array([[0] * 7, [1, -1, 2, 3, -7, 0, 5], [2**40, -(2**40), 2**33 - 1, 1, 0, 9, -4]], np.int64)
    cases = [("Eltwise", f"relu_{r}", [x], {"relu": r, "width": 64, "lsb_exp": -3}) for r in (0, 1)]
    for name in ("mxfp4_e2m1", "mxfp8_e4m3", "mxint8"):
        element = get_format(name).element
        attributes = {"axis": 1, "group_size": 4, "width": 63, "lsb_exp": -40, "emax": element.emax}
        attributes |= fixedpoint.element_parameters(element) | {"round_bias": round_bias(element, "floor")}
        cases.append(("MXQuantize", name, [x], attributes | {"code_min": 100, "code_max": 140}))
    for name, e, m in (("e2m1", 2, 1), ("e3m2", 3, 2)):
        n = 2 ** (1 + e + m)
        codes = [(np.arange(rows * 7) * step % n).astype(np.uint8).reshape(rows, 7) for rows, step in ((3, 3), (2, 5))]
        scales = [np.array([[120, 121]] * rows, np.uint8) for rows in (3, 2)]
        arrays = [codes[0], scales[0], codes[1], scales[1], np.array([-9, 1000], np.int64)]
        kinds = {f"{s}_{k}_bits": v for s in "xw" for k, v in (("exponent", e), ("mantissa", m))}
        shared = {"group_size": 4, "scale_offset": 240, "width": 60, "lsb_exp": 0}
        cases.append(("MXMatMul", name, arrays, kinds | shared))
    return cases


def cases() -> list[Case]:
    return _minifloats() + _fnuz() + _integers() + _scales() + _dataflow()


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
