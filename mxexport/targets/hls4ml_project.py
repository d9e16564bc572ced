"""From a file made by `convert(..., to="hls4ml")` to an hls4ml project with types wide enough for every value."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import MissingToolError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.numbers.grids import grid_of
from mxexport.running.executors import load_proto
from mxexport.running.guards import guarded_copy
from mxexport.targets._ranges import grids

IMAGE_OPERATORS = {"Conv", "MaxPool"}


def project(
    path: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    input_type: tuple[int, int] = (32, 16),
    backend: str = "Vitis",
    **options,
):
    """The hls4ml `ModelGraph` of a converted file, ready for `compile()` (C simulation, g++ only) and `predict(x)`.

    input_type: (bits, fraction bits) of the model's inputs; finer values are cut off before the first quantizer.
    Models with convolutions are turned to channels last by qonnx; their inputs and outputs keep their layout. Outputs
    keep their order.
    `options` go to `hls4ml.converters.convert_from_onnx_model`.

    Raises:
        MissingToolError: hls4ml is not installed.
        UnsupportedError: a tensor whose type is not known: the file was not converted for hls4ml; or a file that
            qonnx must not have, see `qonnx_guard`.
    """
    try:
        import hls4ml
    except ModuleNotFoundError as error:
        raise MissingToolError("hls4ml is not installed; pip install hls4ml==1.3.0") from error
    default, (bits, fraction) = default_precision(path, input_type), input_type
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it prints every layer, twice
        warnings.simplefilter("ignore")
        model = _prepared(path)
        config = hls4ml.utils.config_from_onnx_model(
            model, granularity="name", backend=backend, default_precision=default
        )
        for value in model.graph.input:
            config["LayerName"][value.name]["Precision"] = {"result": f"fixed<{bits},{bits - fraction}>"}
        made = hls4ml.converters.convert_from_onnx_model(
            model, output_dir=str(output_dir), backend=backend, hls_config=config, **options
        )
    made.outputs = _in_order(made.outputs, model)
    return made


def default_precision(path: str | os.PathLike, input_type: tuple[int, int] = (0, 0)) -> str:
    """hls4ml's name of a fixed-point type that holds every value of a converted file, its constants, and inputs of the
    type given.

    hls4ml gives it to layers whose type it does not derive; its own default, 16 bits, would cut off values there.
    """
    model = graph.load(path)
    known = [*grids(model).values()]
    if not known:
        raise UnsupportedError(f"{path}: no tensor of known type; convert it first: mxexport.convert(..., to='hls4ml')")
    known += [grid_of(array) for node in model.graph if node.op_type == "Mul" for array in _constants(node)]
    fraction = max(0, input_type[1], *(-grid.exponent for grid in known))
    whole = max(1, input_type[0] - input_type[1], *(grid.bits + grid.exponent for grid in known)) + 1
    return f"fixed<{whole + fraction},{whole}>"


def _constants(node: ir.Node) -> list[np.ndarray]:
    return [array for value in node.inputs if (array := constant_array(value)) is not None]


def _in_order(outputs: list[str], model) -> list[str]:
    """hls4ml lists outputs in the order of the nodes that make them."""
    wanted = [value.name for value in model.graph.output]
    order = [name for node in model.graph.node for name in node.output[:1] if name in wanted]
    return [outputs[order.index(name)] for name in wanted]


def check_channels_last(model: onnx.ModelProto, where: str) -> None:
    """Raises UnsupportedError where qonnx's conversion to channels last fails, or gives a graph of other values."""
    try:
        with _quiet():
            _channels_last(model, where)
    except UnsupportedError:
        raise
    except Exception as error:  # qonnx raises whatever a transformation stumbles over
        reason = (str(error).splitlines() or [""])[0]
        why = f"qonnx cannot turn it to channels last ({type(error).__name__}: {reason[:200]})"
        raise UnsupportedError(f"{where}: {why}, expected images that are read once; end the model earlier") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what qonnx's transformations and single nodes in onnxruntime say on the way: the result is checked."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _prepared(path: str | os.PathLike):
    return _channels_last(load_proto(path), path)


def _channels_last(proto: onnx.ModelProto, path):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    model = ModelWrapper(guarded_copy(proto))
    if any(node.op_type in IMAGE_OPERATORS for node in model.graph.node):
        before = cleanup_model(model)
        model = cleanup_model(before.transform(ConvertToChannelsLastAndClean()))
        _check_same(before, model, path)
    return model


def _check_same(before, after, path) -> None:
    """qonnx moves transpositions past nodes whose input others read, and so exchanges values in some graphs."""
    from qonnx.core.onnx_exec import execute_onnx

    draw, results = np.random.default_rng(0), []
    shapes = [before.get_tensor_shape(value.name) for value in before.graph.input]
    arrays = [(draw.standard_normal(shape) * 4).astype(np.float32) for shape in shapes]
    for model in (before, after):
        fed = dict(zip((value.name for value in model.graph.input), arrays, strict=True))
        found = execute_onnx(model, fed)
        results.append([found[value.name] for value in model.graph.output])
    if not all(np.array_equal(a, b) for a, b in zip(*results, strict=True)):
        why = "qonnx's conversion to channels last gives other values, expected the same"
        raise UnsupportedError(f"{path}: {why}; write the network without an image that is read more than once")
