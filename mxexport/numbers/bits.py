"""What "the same bits" means for arrays (numpy only)."""

from __future__ import annotations

import numpy as np


def equal_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Element by element: equal bit patterns, any NaN equal to any NaN (arrays of equal shape and dtype)."""
    if a.dtype != b.dtype or not is_float(a.dtype):
        return a == b
    bits = np.dtype(f"u{a.dtype.itemsize}")
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return ((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).reshape(a.shape)


def is_float(dtype: np.dtype) -> bool:
    """ml_dtypes' floats have kind V; all of them know NaN."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))
