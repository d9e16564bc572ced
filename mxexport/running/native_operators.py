"""Our operators as compiled kernels for onnxruntime: the C files that `mxexport/native/registration.c` puts together.

They take the place of the function bodies in a file and compute the same bits, several times to a hundred times faster.
Bodies remain what runs where there is no compiler, or MXEXPORT_NATIVE=0 is set.
"""

from __future__ import annotations

import ctypes
import itertools
from functools import cache

import onnxruntime

from mxexport.errors import UnsupportedError
from mxexport.native.building import HERE, Status, build, switched_off

SOURCES = [
    HERE / f"{name}.c"
    for name in ("registration", "quantization", "products", "codes", "wide_values", "wide_functions", "moving")
]


def status() -> Status:
    """What computes our operators in onnxruntime. Compiles the kernels if that has not been tried in this process."""
    return switched_off() or _load()[0]


def operators() -> frozenset[str]:
    """The op types that have a kernel; none where kernels are not in use."""
    return _load()[1] if status().active else frozenset()


def ort_library() -> str:
    """The path of a library with our operators, for onnxruntime without mxexport:

        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(mx.ort_library())
        session = onnxruntime.InferenceSession("model.onnx", options)

    It is compiled for the processor of this machine, once, and stays in the cache. onnxruntime takes its kernels in
    place of the bodies in the file; the bits are the same.

    Raises:
        UnsupportedError: no C compiler, or an onnxruntime before 1.17; the message says which.
    """
    found = status()
    if not found.active:
        raise UnsupportedError(
            f"no compiled operators for onnxruntime: {found.reason}; files run without them, by the function bodies "
            "that they bring"
        )
    return str(found.library)


@cache
def _load() -> tuple[Status, frozenset[str]]:
    built = build(*SOURCES)
    if built.library is None:
        return built, frozenset()
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(built.library))
        name = ctypes.CDLL(str(built.library)).mx_operator_name
    except (OSError, RuntimeError) as error:
        return Status(
            False, f"onnxruntime {onnxruntime.__version__} does not take {built.library}: {error}"
        ), frozenset()
    name.argtypes, name.restype = [ctypes.c_int64], ctypes.c_char_p
    names = itertools.takewhile(lambda found: found is not None, map(name, itertools.count()))
    return built, frozenset(found.decode() for found in names)
