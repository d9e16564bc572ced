"""Executes ONNX files in onnxruntime, qonnx and the onnx reference evaluator; all three give numpy arrays."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from mxexport.errors import OptionError, UnsupportedError, foreign_errors
from mxexport.model import bodies, graph
from mxexport.model.calls import output_names
from mxexport.ops import check_nodes
from mxexport.running import preparing
from mxexport.running.feeding import feeds
from mxexport.running.preparing import ModelLike as ModelLike, check_names, load_proto, with_outputs
from mxexport.running.static_shapes import with_static_shapes

# --- onnxruntime ----------------------------------------------------------------------------------------------


def run(
    model: ModelLike,
    inputs: Any,
    outputs: list[str] | None = None,
    *,
    executor: str = "onnxruntime",
    flush_denormals: bool = False,
) -> dict[str, np.ndarray]:
    """Execute in onnxruntime on the CPU, our operators by compiled kernels or their bodies; output name -> array.

    `outputs` asks for tensors by name, intermediate ones included. `executor` names another: qonnx or reference.
    `flush_denormals` sets flush-to-zero, which onnxruntime then keeps for the whole process. A path is opened by
    onnxruntime itself, so files of any size do.

    Raises:
        InputFileError, ShapeError, OptionError: bad file, inputs or names of outputs.
        UnsupportedError, ShapeError: an operator of ours with attributes or scales that make no sense.
        UnsupportedError: onnxruntime refuses the model or fails.
    """
    if (execute := find_executor(executor)) is not run:
        if flush_denormals:
            raise OptionError(f"flush_denormals is for onnxruntime; executor {executor!r} has no such setting")
        return execute(model, inputs, outputs)
    return Session(model, outputs, flush_denormals=flush_denormals, weights="each").run(inputs)


class Session:
    """A model opened in onnxruntime once, for many calls.

    Our operators run as compiled kernels where there is a C compiler (`kernels` says so), else by their function
    bodies; the bits are the same.

    Args:
        model: a path, a proto or an onnx-ir model.
        outputs: names of the tensors to compute, intermediate ones included; None: the model's own.
        threads: of one node's computation; None: as many as onnxruntime takes (one a core).
        weights: "once": quantized weights are computed when the model is opened and kept, float32, which takes the
            memory of the float model and makes every call faster; "each": anew in every call, as `run` does. Quantizers
            give the same bits; onnxruntime may sum products with constant weights in another order.

    Raises:
        InputFileError, OptionError: a bad file, names of outputs, number of threads, or weights.
        UnsupportedError: an operator with attributes that make no sense, or onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: ModelLike,
        outputs: list[str] | None = None,
        *,
        threads: int | None = None,
        flush_denormals: bool = False,
        weights: str = "once",
    ):
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise OptionError(f"threads is {threads!r}; expected a whole number from 1 on")
        if weights not in ("once", "each"):
            raise OptionError(f"weights is {weights!r}; expected once or each")
        prepared = preparing.prepare(model, output_names(outputs), with_data=weights == "once")
        check_nodes(prepared.proto)
        self.kernels: str = preparing.kernels_of(prepared.proto)
        with _onnxruntimes_errors():
            if weights == "once":
                prepared = preparing.with_weights(prepared, flush_denormals, threads)
            self._proto = prepared.proto
            self._session = preparing.open_session(prepared, flush_denormals, threads)

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Output name -> array. Raises ShapeError for inputs that do not fit, UnsupportedError where it fails."""
        fed = feeds(self._proto, inputs)
        with _onnxruntimes_errors():
            return preparing.execute(self._session, fed)


@contextlib.contextmanager
def _onnxruntimes_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime has an exception type for each of its status codes
        own = type(error).__module__.startswith("onnxruntime")
        if not own and not isinstance(error, (RuntimeError, UnicodeDecodeError)):
            raise
        raise UnsupportedError(f"onnxruntime: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


# --- the other executors --------------------------------------------------------------------------------------


def run_reference(model: ModelLike, inputs: Any, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute in onnx's ReferenceEvaluator, our operators by their own function bodies.

    Raises:
        InputFileError, ShapeError, OptionError: bad file, inputs or names of outputs.
        UnsupportedError, ShapeError: an operator of ours with attributes or scales that make no sense.
        UnsupportedError: the evaluator refuses the model or fails.
    """
    from onnx.reference import ReferenceEvaluator

    proto, outputs = load_proto(model), output_names(outputs)
    if not bodies.are_ours(proto):
        proto = graph.to_proto(bodies.with_ours(ir.from_proto(proto)))
    proto = with_outputs(proto, outputs)
    check_nodes(proto)
    fed, names = feeds(proto, inputs), [output.name for output in proto.graph.output]
    with our_errors("onnx's reference evaluator"):
        return dict(zip(names, ReferenceEvaluator(proto).run(names, fed), strict=True))


def run_qonnx(model: ModelLike, inputs: Any, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute node by node in qonnx, our operators through their CustomOp classes. Open dimensions are fixed first.

    Raises:
        InputFileError, ShapeError, OptionError: bad file, inputs or names of outputs.
        UnsupportedError, ShapeError: an operator of ours with attributes or scales that make no sense.
        UnsupportedError: the file would make qonnx run more than its graph (see `qonnx_guard`), or qonnx fails.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    proto, outputs = load_proto(model), output_names(outputs)
    check_nodes(proto)
    fed = feeds(proto, inputs)
    if outputs is not None:
        check_names(proto.graph, outputs)
    with our_errors("qonnx"):
        wrapper = ModelWrapper(with_static_shapes(proto, {name: array.shape for name, array in fed.items()}))
        with warnings.catch_warnings():  # qonnx takes sizes that no inference knows for 0 and wonders at what it finds
            warnings.filterwarnings("ignore", r"(?s)Output shapes disagree .* vs expected \([^)]*\b0\b")
            context = execute_onnx(wrapper, fed, return_full_exec_context=outputs is not None)
    return {name: context[name] for name in outputs or [o.name for o in proto.graph.output]}


@contextlib.contextmanager
def our_errors(executor: str) -> Iterator[None]:
    """Executors written in Python raise whatever numpy and their own code do; ours name what went wrong."""

    def ours(error: Exception) -> UnsupportedError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UnsupportedError(f"{executor} cannot execute the model: {reason}")

    with foreign_errors(ours):
        yield


EXECUTORS = {"onnxruntime": run, "qonnx": run_qonnx, "reference": run_reference}


def find_executor(name: str):
    """The function of an executor. Raises OptionError for an unknown name."""
    if not isinstance(name, str) or name not in EXECUTORS:
        raise OptionError(f"executor {name!r}: expected one of {', '.join(EXECUTORS)}")
    return EXECUTORS[name]
