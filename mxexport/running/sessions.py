"""onnxruntime's sessions: every one is opened here, for speed or for equal bits."""

from __future__ import annotations

import os
from collections.abc import Mapping

import onnxruntime

DISABLED_OPTIMIZERS = ("ConstantFolding",)
"""onnxruntime would compute every quantized weight when it loads a file and keep the steps, at several times the memory
and time of the first run. Quantizers keep their bits; a product may sum in another order, because onnxruntime packs
only constant weights. Beside it, `enable_mem_reuse` is off: onnxruntime would hold the buffers of one weight's
quantizer for every later weight of the same shape, and so those of all shapes at once. See docs/running.md."""


def open_fast(
    source: bytes | str,
    *,
    has_bodies: bool = False,
    library: str | os.PathLike[str] | None = None,
    given: Mapping[str, onnxruntime.OrtValue] | None = None,
    data_directory: str | os.PathLike[str] | None = None,
    flush_denormals: bool = False,
    threads: int | None = None,
) -> onnxruntime.InferenceSession:
    """With onnxruntime's optimizer and threads.

    Args:
        source: a serialized model, or the path of a file.
        has_bodies: whether operators of the model run by their function bodies.
        library: kernels of operators (`native_operators`).
        given: large initializers, which stay where they lie in memory.
        data_directory: where data files of a serialized model lie.
        flush_denormals: onnxruntime then keeps it for the whole process.
        threads: of one node's computation; None: onnxruntime's own choice.
    """
    options = _options(3, library)
    if threads is not None:
        options.intra_op_num_threads = threads
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if given:
        options.add_external_initializers(list(given), list(given.values()))
    if data_directory:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(data_directory))
    if has_bodies:
        options.enable_mem_reuse = False
    session = _opened(source, options, DISABLED_OPTIMIZERS if has_bodies else ())
    session.mxexport_keeps = given  # onnxruntime reads them where they lie
    return session


def open_plain(
    source: bytes | str | os.PathLike[str], library: str | os.PathLike[str] | None = None
) -> onnxruntime.InferenceSession:
    """Plain kernels, no fusion, one thread, nothing packed ahead of time: equal graphs give equal bits.

    library: kernels of operators (`native_operators`).
    """
    options = _options(4, library)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    return _opened(source, options)


def _options(severity: int, library: str | os.PathLike[str] | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = severity
    if library:
        options.register_custom_ops_library(str(library))
    return options


def _opened(
    source: bytes | str | os.PathLike[str], options: onnxruntime.SessionOptions, disabled: tuple[str, ...] = ()
) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
