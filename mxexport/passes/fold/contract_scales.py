from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import attribute, constant, label, static_shape
from mxexport.numbers import groups
from mxexport.ops import DOMAIN, VERSION, qonnx_general
from mxexport.ops._body import LOWEST_OPSET
from mxexport.passes.exactness import approximate


@approximate(
    ulp=0,
    reason="values are equal; where a QONNX Quant becomes ours, a negative value that rounds to zero gives +0, not -0",
)
def contract_scales(model: ir.Model) -> Outcome:
    """Q(x, one scale per element) -> Q(x, one scale per group)  when constant inside every group; zero points alike.

    GroupwiseQuant and MXFloatQuant keep their group size (one of 1 becomes the largest that fits). A QONNX Quant whose
    scale is one per group becomes GroupwiseQuant; one whose scale does not vary along an axis keeps 1 entry there.
    """
    editor = Editor(model)
    for node in list(editor.nodes()):
        if graph.is_ours(node, graph.QUANTIZERS):
            verdict = _contract_ours(editor, node)
        elif node.domain == qonnx_general.DOMAIN and node.op_type == "Quant":
            verdict = _contract_qonnx(editor, node)
        else:
            continue
        if verdict:
            editor.declined(node, verdict)
    return editor.finish()


@dataclass(frozen=True)
class _Parameter:
    """A constant scale or zero point at an input of a node."""

    index: int
    value: ir.Value
    array: np.ndarray


def _parameters(node: ir.Node, count: int) -> list[_Parameter] | None:
    """Scale and zero point; None where one is not constant."""
    given = [(i, v) for i, v in enumerate(node.inputs[1:count], 1) if v is not None]
    found = [_Parameter(i, v, constant(v)) for i, v in given]
    return None if any(p.array is None for p in found) else found


# --- ours -----------------------------------------------------------------------------------------------------


def _contract_ours(editor: Editor, node: ir.Node) -> str | None:
    parameters, shape = _parameters(node, 3), static_shape(node.inputs[0])
    if parameters is None or shape is None:
        return None
    a = graph.attributes(node)
    axis, size = groups.normalize_axis(a["axis"], len(shape), label(node)), a["group_size"]
    contracted = groups.contracted_shape(shape, axis, size)
    wide = [p for p in parameters if p.array.shape == shape and (shape != contracted or size == 1)]
    if not wide or shape[axis] == 1:
        return None
    if size == 1:
        size = gcd(*(_group_size(p.array, axis) for p in parameters))
        if size == 1 or len(wide) < len(parameters):
            return "its scale changes between neighbours, so there are no larger groups"
    for p in wide:
        if not np.array_equal(_expanded(p.array, axis, size), p.array, equal_nan=True):
            return f"`{p.value.name}` varies inside groups of {size} on axis {axis}"
    for p in wide:
        editor.replace_input(node, p.index, editor.constant(p.value.name, _contracted(p.array, axis, size)))
    node.attributes["group_size"] = ir.AttrInt64("group_size", size)
    editor.changed(f"scale of `{label(node)}` contracted to groups of {size} on axis {axis}")
    return None


def _contracted(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    return np.take(array, np.arange(0, array.shape[axis], size), axis=axis)


def _expanded(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    return groups.expand(_contracted(array, axis, size), axis, size, array.shape[axis])


def _group_size(array: np.ndarray, axis: int) -> int:
    """The largest group size whose groups are constant: the largest divisor of all places where a value changes."""
    moved = np.moveaxis(array, axis, 0)
    changes = (moved[1:] != moved[:-1]).any(axis=tuple(range(1, moved.ndim)))
    return gcd(*(np.flatnonzero(changes) + 1).tolist()) or moved.shape[0]


# --- QONNX Quant ----------------------------------------------------------------------------------------------


def _contract_qonnx(editor: Editor, node: ir.Node) -> str | None:
    shape = static_shape(node.inputs[0])
    parameters = _parameters(node, 3)
    if parameters is None or shape is None or parameters[0].array.shape != shape or parameters[0].array.size < 2:
        return None
    flat = [axis for axis, n in enumerate(shape) if n > 1 and _common_size(parameters, axis, n) == n]
    if flat:
        for p in parameters:
            if p.array.shape == shape:
                narrow = p.array[tuple(slice(0, 1) if axis in flat else slice(None) for axis in range(len(shape)))]
                editor.replace_input(node, p.index, editor.constant(p.value.name, narrow))
        editor.changed(f"scale of `{label(node)}` contracted: it does not vary along axis {', '.join(map(str, flat))}")
        return None
    sizes = {axis: _common_size(parameters, axis, n) for axis, n in enumerate(shape)}
    grouped = {axis: size for axis, size in sizes.items() if size > 1}
    if not grouped:
        return "its scale changes between neighbours on every axis, so there are no groups"
    axis = max(grouped, key=grouped.get)
    return _to_groupwise(editor, node, parameters, shape, axis, grouped[axis])


def _common_size(parameters: list[_Parameter], axis: int, length: int) -> int:
    """The largest group size on `axis` that fits scale and zero point; `length` when neither varies."""
    rank = parameters[0].array.ndim
    varying = [p.array for p in parameters if p.array.ndim == rank and p.array.shape[axis] == length]
    sizes = [_group_size(array, axis) for array in varying]
    return length if all(size == length for size in sizes) else gcd(*(s for s in sizes if s != length))


def _to_groupwise(
    editor, node: ir.Node, parameters: list[_Parameter], shape: tuple, axis: int, size: int
) -> str | None:
    found = _element(node)
    if isinstance(found, str):
        return f"its scale has groups of {size} on axis {axis}, but {found}"
    if (opset := editor.model.opset_imports.get("", LOWEST_OPSET)) < LOWEST_OPSET:
        return f"GroupwiseQuant needs opset {LOWEST_OPSET} and the model has {opset}; export it at {LOWEST_OPSET}"
    expanded = [np.broadcast_to(p.array, shape) for p in parameters]
    arrays = [_contracted(array, axis, size).astype(np.float32) for array in expanded]
    if len(arrays) > 1 and not arrays[1].any():
        del arrays[1]
    inputs = [node.inputs[0]]
    inputs += [editor.constant(p.value.name, a) for p, a in zip(parameters, arrays, strict=False)]
    made = editor.node(
        "GroupwiseQuant", inputs, {"axis": axis, "group_size": size, **found}, name=label(node),
        like=node.outputs[0], domain=DOMAIN, before=node,
    )  # fmt: skip
    made.shape = node.inputs[0].shape
    editor.model.opset_imports[DOMAIN] = VERSION
    fmt = graph.quantizer_format(made.producer())
    made.producer().metadata_props[graph.FORMAT_KEY] = fmt.name
    editor.take_over(node.outputs[0], made)
    editor.changed(f"Quant `{label(node)}` is GroupwiseQuant with groups of {size} on axis {axis} ({fmt.name})")
    editor.drop(node)
    return None


def _element(node: ir.Node) -> dict | str:
    """Element attributes of GroupwiseQuant that mean what the Quant node means, or why there are none."""
    bits = constant(node.inputs[3])
    signed, narrow = attribute(node, "signed", 1), attribute(node, "narrow", 0)
    mode = qonnx_general.rounding_mode_of(node)
    if bits is None or bits.size != 1 or float(bits.reshape(())) not in range(2, 9):
        return "GroupwiseQuant takes constant bit widths of 2 to 8"
    if mode != "ROUND":
        return f"GroupwiseQuant rounds half to even and it says {mode}"
    if narrow and not signed:
        return "it is narrow and unsigned, which GroupwiseQuant is not"
    return {"bit_width": int(bits.reshape(())), "signed": int(signed), "narrow": int(narrow)}
