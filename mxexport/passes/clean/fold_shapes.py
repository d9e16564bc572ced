"""Arithmetic on shapes of which some dimensions are open: what torch leaves behind for a dynamic batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import new_initializer
from mxexport.model.names import Names
from mxexport.model.outcome import Outcome

Entries = np.ndarray
"""An integer tensor, dtype object: numbers, names of open dimensions, None where nothing is known."""
_MOST = 64
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def fold_shapes(model: ir.Model) -> Outcome:
    """Gather(Shape(x), i) -> initializer  when dimension i of x is known, and what is computed from such entries;
    Reshape(x, Concat(batch, 4, 16)) -> Reshape(x, [0, 4, 16])  when open entries are x's own dimensions.

    A 0 copies the dimension of x in that place; where one entry alone is open and no dimension is copied, -1 stands
    for it. Dimensions of one name are equal, as ONNX says. Shape of static shapes is left to fold_constants.
    """
    outcome, names, known = Outcome(), None, {}
    for graph, node in rw.nodes(model):
        if rw.is_op(node, "Reshape") and node.inputs[1] in known and not rw.is_constant(node.inputs[1]):
            target = _target(node, known[node.inputs[1]])
            if isinstance(target, str):
                outcome.declined.append((rw.label(node), target))
            else:
                names = names or Names(rw.value_names(model))
                shape = new_initializer(graph, names.unique(f"{rw.label(node)}.shape"), np.array(target, np.int64))
                node.replace_input_with(1, shape)
                if 0 in target:
                    node.attributes.pop("allowzero", None)  # 0 copies now; the shape held none
                outcome.changed.append(f"{rw.label(node)}: Reshape to {target}")
        entries = _entries(node, known)
        if entries is None or entries.size > _MOST:
            continue
        output = node.outputs[0]
        known[output] = entries
        if _is_folded(node, entries):
            dtype = np.int64 if output.dtype is None else output.dtype.numpy()
            name, output.name = output.name, f"{output.name}_folded"
            output.replace_all_uses_with(new_initializer(graph, name, np.array(entries.tolist(), dtype)))
            outcome.changed.append(f"{rw.label(node)}: {node.op_type} of known dimensions is {entries.tolist()}")
    return outcome


def _is_folded(node: ir.Node, entries: Entries) -> bool:
    """All is known, something uses it, and fold_constants would not see it."""
    output = node.outputs[0]
    if not output.uses() or output.is_graph_output() or node.op_type in ("Shape", "Size"):
        return False
    return all(isinstance(e, int) for e in entries.flat) and not all(
        v is None or rw.is_constant(v) for v in node.inputs
    )


def _target(node: ir.Node, entries: Entries) -> list[int] | str:
    """The shape to write in place of `entries`, or why there is none."""
    x = node.inputs[0]
    dims = [] if x is None or x.shape is None else [d if isinstance(d, int) else str(d) for d in x.shape]
    target, given = [], entries.tolist()
    copying = not (rw.attribute(node, "allowzero", 0) and 0 in given)
    for i, entry in enumerate(given):
        copies = copying and isinstance(entry, str) and i < len(dims) and dims[i] == entry
        target.append(0 if copies else entry if isinstance(entry, int) else None)
    if None not in target:
        return target
    if target.count(None) == 1 and not {0, -1} & set(target):
        return [-1 if entry is None else entry for entry in target]
    shown = ["?" if entry is None else entry for entry in given]
    return f"its shape {shown} is known at run time only, and no dimensions of its input"


# --- entry by entry -------------------------------------------------------------------------------------------


def _entries(node: ir.Node, known: dict[ir.Value, Entries]) -> Entries | None:
    if not rw.is_op(node, *_RULES) or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type in ("Shape", "Size"):
        return _RULES[node.op_type](node, [])
    given = [None if v is None else known[v] if v in known else _constant(v) for v in node.inputs]
    tracked = any(v in known for v in node.inputs)
    if not tracked or any(g is None and v is not None for g, v in zip(given, node.inputs, strict=True)):
        return None
    try:
        return _RULES[node.op_type](node, given)
    except (ValueError, IndexError, TypeError):  # a node that would fail when it runs, or entries in odd places
        return None


def _constant(value: ir.Value) -> Entries | None:
    if not rw.is_constant(value) or value.const_value.dtype not in _INTEGERS or value.const_value.size > _MOST:
        return None
    return _objects(value.const_value.numpy().tolist(), tuple(value.const_value.shape))


def _objects(items, shape: tuple[int, ...] | None = None) -> Entries:
    made = np.empty(shape if shape is not None else (len(items),), object)
    made[...] = items
    return made


def _shape(node: ir.Node, _) -> Entries | None:
    shape = node.inputs[0].shape
    if shape is None:
        return None
    dims = [d if isinstance(d, int) else None if str(d) == "None" else str(d) for d in shape]
    return _objects(dims[rw.attribute(node, "start", 0) : rw.attribute(node, "end")])


def _gather(node: ir.Node, given: list) -> Entries:
    return _objects(np.take(given[0], given[1].astype(np.int64), axis=rw.attribute(node, "axis", 0)), given[1].shape)


def _slice(node: ir.Node, given: list) -> Entries | None:
    start, end, *rest = (None if g is None else g.astype(np.int64) for g in given[1:])
    axes, steps = (*rest, None, None)[:2]
    if given[0].ndim != 1 or (axes is not None and axes.tolist() not in ([0], [-1])):
        return None
    return given[0][int(start[0]) : int(end[0]) : 1 if steps is None else int(steps[0])]


def _concat(node: ir.Node, given: list) -> Entries:
    return np.concatenate(given, axis=rw.attribute(node, "axis"))


def _unsqueeze(node: ir.Node, given: list) -> Entries | None:
    return given[0].reshape(1) if given[0].ndim == 0 else None


def _squeeze(node: ir.Node, given: list) -> Entries | None:
    return given[0].reshape(()) if given[0].shape == (1,) else None


def _reshape(node: ir.Node, given: list) -> Entries | None:
    return given[0].reshape(-1) if given[1].tolist() == [-1] else None


def _cast(node: ir.Node, given: list) -> Entries | None:
    return given[0] if rw.attribute(node, "to") == ir.DataType.INT64 else None


def _same(node: ir.Node, given: list) -> Entries:
    return given[0]


def _by_numbers(function: Callable[[int, int], int | None]) -> Callable:
    def pair(a, b):
        return function(a, b) if isinstance(a, int) and isinstance(b, int) else None

    def rule(node: ir.Node, given: list) -> Entries:
        result = np.frompyfunc(pair, 2, 1)(given[0], given[1])
        return result if isinstance(result, np.ndarray) else _objects(result, ())

    return rule


def _quotient(a: int, b: int) -> int | None:
    return a // b if a >= 0 and b > 0 else None  # runtimes round others towards zero


_RULES: dict[str, Callable] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "Identity": _same,
    "Add": _by_numbers(lambda a, b: a + b),
    "Sub": _by_numbers(lambda a, b: a - b),
    "Mul": _by_numbers(lambda a, b: a * b),
    "Div": _by_numbers(_quotient),
}
