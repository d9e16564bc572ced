"""What users give as numbers, as numpy arrays that lose nothing on the way."""

from __future__ import annotations

import numpy as np

from mxexport.errors import ShapeError


def on_host(given):
    """A torch tensor as a numpy array, whatever its device, gradient or quantization; anything else as it is.

    bfloat16, which numpy has not, becomes float32.
    """
    if not hasattr(given, "detach"):
        return given
    tensor = given.detach().cpu()
    tensor = tensor.dequantize() if hasattr(tensor, "scale_") else tensor
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def real_array(given, what: str) -> np.ndarray:
    """Real numbers as an array of any rank but 0. Raises ShapeError, which `what` begins, for anything else."""
    try:
        array = np.asarray(on_host(given))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{what}: {type(given).__name__} that makes no array: {error}") from None
    if array.dtype.kind == "c":
        raise ShapeError(f"{what}: {array.dtype} values; their imaginary part would be lost, so give real numbers")
    if not is_real(array.dtype):
        raise ShapeError(f"{what}: {array.dtype} values; expected real numbers")
    if array.ndim == 0:
        raise ShapeError(f"{what}: a single number; expected an array with one row per frame")
    return array


def is_real(dtype: np.dtype) -> bool:
    """Numbers without an imaginary part: numpy's own and the small floats of ml_dtypes, which have kind V."""
    return dtype.kind in "biuf" or dtype.name.startswith(("bfloat", "float", "int", "uint"))
