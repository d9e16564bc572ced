"""Which ONNX type carries which element, and which scale."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mxexport.numbers.bits import equal_bits
from mxexport.numbers.formats import Element, FloatElement, IntElement

NATIVE_OPSET = 24
"""FLOAT4E2M1 (23) and FLOAT8E8M0 (24) may be used from here on."""

_T = ir.DataType
FLOAT_ELEMENTS: dict[ir.DataType, FloatElement] = {
    _T.FLOAT8E4M3FN: FloatElement(4, 3, "nan"),
    _T.FLOAT8E5M2: FloatElement(5, 2, "ieee"),
    _T.FLOAT8E4M3FNUZ: FloatElement(4, 3, "fnuz"),
    _T.FLOAT8E5M2FNUZ: FloatElement(5, 2, "fnuz"),
    _T.FLOAT4E2M1: FloatElement(2, 1),
}
INT_TYPES: dict[ir.DataType, tuple[int, bool]] = {
    _T.INT2: (2, True),
    _T.INT4: (4, True),
    _T.INT8: (8, True),
    _T.UINT2: (2, False),
    _T.UINT4: (4, False),
    _T.UINT8: (8, False),
}
"""Type -> (bits, signed)."""
IR_VERSION = {_T.INT4: 10, _T.UINT4: 10, _T.FLOAT4E2M1: 11, _T.FLOAT8E8M0: 12, _T.INT2: 13, _T.UINT2: 13}
_SINCE = {_T.FLOAT4E2M1: NATIVE_OPSET, _T.INT2: 25, _T.UINT2: 25}
"""Types that onnxruntime does not run, or runs from a later opset on; they are used on request only."""


def type_range(dtype: ir.DataType) -> tuple[int, int]:
    bits, signed = INT_TYPES[dtype]
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def bits_of(dtype: ir.DataType) -> int:
    return FLOAT_ELEMENTS[dtype].bits if dtype in FLOAT_ELEMENTS else INT_TYPES[dtype][0]


def offered(native_opset: int | None) -> list[ir.DataType]:
    """The types in use: those every runtime has, and those that `native_opset` brings."""
    return [t for t in (*FLOAT_ELEMENTS, *INT_TYPES) if t not in _SINCE or (native_opset or 0) >= _SINCE[t]]


def own_type(element: Element | None, native_opset: int | None) -> ir.DataType | None:
    """The floating-point type that is this very element."""
    found = [t for t in offered(native_opset) if FLOAT_ELEMENTS.get(t) == element]
    return found[0] if element is not None and found else None


def carry_floats(values: np.ndarray, element: Element | None, native_opset: int | None):
    """(type, typed array) that holds the float32 `values` bit for bit, or None.

    The element's own type comes first; FP6 and FP4 go into FLOAT8E4M3FN, which has all their values.
    """
    own = own_type(element, native_opset)
    wider = [t for t in (_T.FLOAT8E4M3FN, _T.FLOAT8E5M2, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2FNUZ) if t != own]
    for dtype in ([own] if own else []) + wider:
        with np.errstate(all="ignore"):
            typed = values.astype(dtype.numpy())
        if equal_bits(typed.astype(np.float32), values).all():
            return dtype, typed
    return None


def carry_ints(values: np.ndarray, zero: np.ndarray | None, element: IntElement, native_opset: int | None):
    """(type, typed array, typed zero point or None) for whole float32 `values`, or None where no type holds them."""
    every = values.ravel() if zero is None else np.concatenate([values.ravel(), zero.ravel()])
    if not np.isfinite(every).all() or (every != np.rint(every)).any():
        return None
    for dtype in offered(native_opset):
        bits, signed = INT_TYPES.get(dtype, (0, False))
        low, high = type_range(dtype) if bits else (0, -1)
        if (
            bits >= element.bits
            and signed == element.signed
            and low <= every.min(initial=0)
            and every.max(initial=0) <= high
        ):
            as_type = dtype.numpy()
            return (
                dtype,
                values.astype(np.int32).astype(as_type),
                None if zero is None else zero.astype(np.int32).astype(as_type),
            )
    return None


def e8m0(scale: np.ndarray) -> np.ndarray | None:
    """Power-of-two scales as FLOAT8E8M0 (2**-127 .. 2**127, NaN), or None where one does not fit."""
    mantissa, exponent = np.frexp(scale)
    if not (np.isnan(scale) | ((mantissa == 0.5) & (exponent >= -126) & (exponent <= 128))).all():
        return None
    codes = np.where(np.isnan(scale), 255, exponent.astype(np.int32) + 126).astype(np.uint8)
    return codes.view(ml_dtypes.float8_e8m0fnu)
