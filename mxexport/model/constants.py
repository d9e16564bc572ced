"""The one reader of constants: what a value holds when it depends on no input of the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import FormatError, ShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.model.constant_layouts import LAYOUTS, laid_out
from mxexport.model.rewriting import constant
from mxexport.numbers import numerics
from mxexport.ops import DOMAIN, OPERATORS, qonnx_general

_FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_INTEGERS = {ir.DataType.INT32, ir.DataType.INT64}


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a value that depends on no input; None for anything else.

    Looks through every operator of ours (quantizers, packed weights, stored scales), QONNX's quantizers, Constant,
    Cast, Mul and what only gives another shape or order (`LAYOUTS`). Nothing is kept: each call computes anew.

    Raises:
        ShapeError, FormatError: a node whose inputs or attributes do not fit together, by name.
        UnsupportedError: a node of ours that lacks an attribute, or one of QONNX that cannot be computed.
    """
    known = constant(value)
    if known is not None or value is None or (node := value.producer()) is None:
        return known
    if node.domain == DOMAIN and node.op_type in OPERATORS:
        results = evaluate_node(node)
        return None if results is None else results[node.outputs.index(value)]
    if node.domain == qonnx_general.DOMAIN and node.op_type in _QONNX:
        return _of_qonnx(node)
    return _STANDARD[node.op_type](node) if node.domain == "" and node.op_type in _STANDARD else None


def evaluate_node(node: ir.Node) -> tuple[np.ndarray, ...] | None:
    """Outputs of a node of our domain whose inputs are all constant, else None."""
    arrays = _inputs(node)
    if arrays is None:
        return None
    arrays += [None] * (len(OPERATORS[node.op_type].inputs) - len(arrays))
    attributes = graph.attributes(node)
    try:
        return OPERATORS[node.op_type].reference(*arrays, **attributes)
    except (ShapeError, FormatError) as error:
        raise type(error)(f"node {node.name!r}: {error}") from None


def _inputs(node: ir.Node) -> list[np.ndarray | None] | None:
    """The inputs as arrays (None: left out), where all of them are constant."""
    arrays = []
    for value in node.inputs:
        array = constant_array(value)
        if array is None and value is not None:
            return None
        arrays.append(array)
    return arrays


# --- QONNX ----------------------------------------------------------------------------------------------------


def _of_qonnx(node: ir.Node) -> np.ndarray | None:
    arrays = _inputs(node)
    if arrays is None:
        return None
    a = {name: attribute.value for name, attribute in node.attributes.items()}
    try:
        with np.errstate(all="ignore"):
            return _QONNX[node.op_type](a, *arrays)
    except _MALFORMED as error:
        found = f"inputs of shapes {', '.join(str(np.shape(array)) for array in arrays)}, attributes {a}"
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}) cannot be computed: {error}; {found}") from None


_MALFORMED = (ArithmeticError, AssertionError, AttributeError, TypeError, ValueError)  # numpy's and qonnx's own


def _quant(a: dict, *arrays: np.ndarray) -> np.ndarray:
    """By qonnx itself."""
    from qonnx.custom_op.general.intquant import int_quant

    mode = a.get("rounding_mode", "ROUND")
    return int_quant(*arrays, a.get("signed", 1), a.get("narrow", 0), mode).astype(np.float32)


def _float_quant(a: dict, x, scale, exponent_bits, mantissa_bits, bias, largest) -> np.ndarray | None:
    """As its body (`ops.qonnx_general`); qonnx's own finds exponents by a float32 log2, which misrounds below 2**k."""
    if qonnx_general.rounding_mode(a.get("rounding_mode", "ROUND"), "FloatQuant") != "ROUND":
        return None
    exponent, mantissa, bias = (int(array.item()) for array in (exponent_bits, mantissa_bits, bias))
    magnitude = np.abs(x) / scale
    grid = numerics.round_to_float(magnitude, exponent, mantissa, bias, largest.item())
    grid = np.where(np.isfinite(magnitude), grid, np.float32(np.nan))
    return grid * np.where(np.signbit(x), -scale, scale)


def _bipolar_quant(a: dict, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, np.float32(1), np.float32(-1)) * scale


_QONNX = {"Quant": _quant, "FloatQuant": _float_quant, "BipolarQuant": _bipolar_quant}


# --- standard operators ---------------------------------------------------------------------------------------


def _cast(node: ir.Node) -> np.ndarray | None:
    """Casts that mean the same everywhere: to floats, and of whole numbers in range to integers."""
    array, to = constant_array(node.inputs[0]), node.attributes["to"].value if "to" in node.attributes else None
    if array is None or to not in _FLOATS | _INTEGERS:
        return None
    dtype = ir.DataType(to).numpy()
    if to in _INTEGERS and not np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(dtype)
        values = array.astype(np.float64)
        if not ((values >= limits.min) & (values < limits.max)).all():
            return None
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _mul(node: ir.Node) -> np.ndarray | None:
    """One rounded product, the same everywhere. Zero points of packed symmetric weights are `scale * 0`."""
    arrays = _inputs(node)
    if arrays is None or any(array.dtype != np.float32 for array in arrays):
        return None
    try:
        with np.errstate(all="ignore"):
            return arrays[0] * arrays[1]
    except ValueError:
        found = " and ".join(str(array.shape) for array in arrays)
        raise ShapeError(f"node {node.name!r} (Mul): shapes {found} do not fit") from None


def _layout(node: ir.Node) -> np.ndarray | None:
    arrays = _inputs(node)
    return None if not arrays or arrays[0] is None else laid_out(node, arrays[0], arrays[1] if arrays[1:] else None)


def _gather(node: ir.Node) -> np.ndarray | None:
    """Rows of a constant: positions, mostly."""
    arrays = _inputs(node)
    if arrays is None or not np.issubdtype(arrays[1].dtype, np.integer):
        return None
    axis = node.attributes["axis"].value if "axis" in node.attributes else 0
    try:
        return np.take(arrays[0], arrays[1], axis=axis)
    except IndexError as error:
        raise ShapeError(f"node {node.name!r} (Gather): {error}") from None


_STANDARD = {
    "Cast": _cast,
    "Gather": _gather,
    "Mul": _mul,
} | dict.fromkeys(LAYOUTS, _layout)
