"""What stands between scores and their Softmax: masks, which are added or put in the place of scores to hide some keys,
constant or made of an input [batch, keys]; and a factor."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import MXExportError
from mxexport.model.editing import sole_user
from mxexport.model.rewriting import constant, is_op
from mxexport.running import executors

_HIDDEN = -1e4
"""What is added to hide a key is -Inf or the lowest number of some type; no score is as far from others."""
_MOST = 8
"""Masks and factors one behind the other."""


@dataclass(frozen=True, eq=False)
class Masked:
    """What a Softmax takes without its masks and its factor `scale`, and which keys take part: bool, of a shape that
    broadcasts to the scores; None: all do. `keys`: an input of the graph [batch, keys] whose zeros, or whose ones
    (`keep`), say which keys take part besides. `inner`: the nodes that hide the others and multiply."""

    scores: ir.Value
    scale: float
    mask: np.ndarray | None
    keys: ir.Value | None
    keep: int
    inner: tuple[ir.Node, ...]


class Probe:
    """Computes tensors that depend on one input alone, of a model that is made ready once."""

    def __init__(self, model: ir.Model):
        self._model = model

    @functools.cached_property
    def _extractor(self) -> onnx.utils.Extractor:
        return onnx.utils.Extractor(executors.load_proto(self._model))

    def compute(self, value: ir.Value, keys: ir.Value, row: np.ndarray) -> np.ndarray | None:
        """A tensor for one frame of keys; None where more than keys is asked for."""
        feeds = {keys.name: row[None]}
        for other in self._model.graph.inputs:  # what only shapes are asked of
            if other is not keys and other.shape is not None and all(isinstance(d, int) for d in other.shape[1:]):
                feeds[other.name] = np.zeros((1, *other.shape[1:]), other.dtype.numpy())
        try:
            part = self._extractor.extract_model(list(feeds), [value.name])
            used = {v.name for v in part.graph.input}
            return executors.run(part, {k: v for k, v in feeds.items() if k in used}, [value.name])[value.name]
        except (ValueError, MXExportError):
            return None


def masked(g: ir.Graph, probe: Probe) -> dict[ir.Node, Masked]:
    """Every Softmax whose scores are scaled or masked, and by what."""
    found = {}
    for node in g:
        if is_op(node, "Softmax"):
            known = _at(node, probe)
            if known.inner:
                found[node] = known
    return found


def _at(node: ir.Node, probe: Probe) -> Masked:
    scores, scale, mask, inner, keys, keep = node.inputs[0], 1.0, None, [], None, 1
    while len(inner) < _MOST and sole_user(scores) is not None:
        maker = scores.producer()
        factor, step = _factor(maker), _step(maker)
        outside = _from_outside(maker, probe) if factor is None and step is None and keys is None else None
        if factor is not None:
            scores, scale = factor[0], scale * factor[1]
        elif step is not None:
            scores, more = step
            mask = more if mask is None else mask & more
        elif outside is not None:
            scores, keys, keep, more = outside
            mask = more if mask is None else mask & more
        else:
            break
        inner.append(maker)
    return Masked(scores, scale, mask, keys, keep, tuple(inner))


def _factor(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """What a node multiplies by one positive number, and that; None of others."""
    if not is_op(node, "Mul", "Div"):
        return None
    found = [constant(v) for v in node.inputs]
    which = 1 if node.op_type == "Div" or found[1] is not None else 0
    if found[which] is None or found[which].size != 1:
        return None
    number = float(found[which].reshape(-1)[0])
    number = 1 / number if node.op_type == "Div" and number else number
    return (node.inputs[1 - which], number) if 0 < number < np.inf else None


def _step(node: ir.Node | None) -> tuple[ir.Value, np.ndarray] | None:
    """What a node masks, and which entries it leaves; None where it is no mask."""
    if is_op(node, "Add"):
        found = [constant(v) for v in node.inputs]
        which = next((i for i, c in enumerate(found) if c is not None), None)
        if which is None:
            return None
        added = found[which]
        hidden = added <= _HIDDEN
        return (node.inputs[1 - which], ~hidden) if hidden.any() and not added[~hidden].any() else None
    if is_op(node, "Where"):
        chosen, *sides = (constant(v) for v in node.inputs)
        for side, other in ((0, 2), (1, 1)):
            value = sides[side]
            if chosen is not None and value is not None and value.size == 1 and value.reshape(-1)[0] <= _HIDDEN:
                return node.inputs[other], ~chosen.astype(bool) if side == 0 else chosen.astype(bool)
    return None


# --- masks that an input makes --------------------------------------------------------------------------------------


def spared(g: ir.Graph, found: Mapping[ir.Node, Masked], probe: Probe) -> dict[ir.Node, ir.Value]:
    """Every Where that puts zeros in the place of values as a mask from outside says, and changes none: rows of a
    Softmax of which nothing takes part are zeros already, and some masks hide no token. With the values."""
    result = {}
    for node in g:
        if not _empties(node):
            continue
        keys, values = _input_of(node.inputs[0]), node.inputs[2]
        if keys is None or not isinstance(keys.shape[1], int) or _input_of(values) is not None:
            continue  # a part of the mask itself
        softmax, rows = found.get(values.producer()), _rows(keys)
        chosen = [row for row in rows if _chosen(node.inputs[0], keys, row, probe)]
        nothing = softmax is not None and softmax.keys is keys
        if not chosen or (nothing and not any(((row > 0) == bool(softmax.keep)).any() for row in chosen)):
            result[node] = values
    return result


@dataclass(frozen=True)
class Emptied:
    """Zeros in the place of some entries of an axis of `values`: those whose `keys` (an input [batch, entries]) are
    zeros, or ones (`keep`: 0)."""

    values: ir.Value
    axis: int
    keys: ir.Value
    keep: int


def emptied(g: ir.Graph, spared: Mapping[ir.Node, ir.Value], probe: Probe) -> dict[ir.Node, Emptied]:
    """Every Where that puts zeros in the place of tokens as a mask from outside says, of values that others make."""
    result = {}
    for node in g:
        if node in spared or not _empties(node):
            continue
        keys, values = _input_of(node.inputs[0]), node.inputs[2]
        if keys is None or not isinstance(keys.shape[1], int) or _input_of(values) is not None:
            continue
        rows = _rows(keys)
        found = [probe.compute(node.inputs[0], keys, row) for row in rows]
        if any(f is None or f.size != keys.shape[1] for f in found):
            continue
        axis = next((i - found[0].ndim for i, n in enumerate(found[0].shape) if n > 1), -1)
        for keep in (0, 1):
            if all(np.array_equal(f.reshape(-1), (row > 0) != bool(keep)) for f, row in zip(found, rows, strict=True)):
                result[node] = Emptied(values, axis, keys, keep)
    return result


def _empties(node: ir.Node) -> bool:
    """Whether a node puts zeros in the place of entries by a computed condition."""
    zeros = constant(node.inputs[1]) if is_op(node, "Where") else None
    return zeros is not None and not zeros.any() and constant(node.inputs[0]) is None


def nodes_beside(found: Iterable[Masked], spared: Mapping[ir.Node, ir.Value], g: ir.Graph) -> set[ir.Node]:
    """The nodes that nobody is asked about: those that mask, and what makes masks."""
    masking = {node for known in found for node in known.inner}
    data = {known.scores for known in found} | set(spared.values())
    taken = masking | set(spared)
    for node in reversed(list(g)):
        users = {user for value in node.outputs for user in value.consumers()}
        inside = users and users <= taken and not any(v.is_graph_output() for v in node.outputs)
        if inside and data.isdisjoint(node.outputs):
            taken.add(node)
    return taken - set(spared)


def _rows(keys: ir.Value) -> np.ndarray:
    """Frames of keys to look at: none, all, and two of some."""
    count = keys.shape[1]
    some = np.random.default_rng(0).integers(0, 2, (2, count))
    return np.stack([np.zeros(count), np.ones(count), *some]).astype(keys.dtype.numpy())


def _chosen(condition: ir.Value, keys: ir.Value, row: np.ndarray, probe: Probe) -> bool:
    """Whether a condition holds anywhere, or cannot be computed."""
    found = probe.compute(condition, keys, row)
    return found is None or bool(found.any())


def _from_outside(node: ir.Node | None, probe: Probe) -> tuple[ir.Value, ir.Value, int, np.ndarray] | None:
    """(scores, input, keep, mask) of a node that hides keys as an input [batch, keys] of zeros and ones says: found by
    computing the mask of some. None where it does not."""
    if is_op(node, "Add"):
        sides = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    elif is_op(node, "Where") and (value := constant(node.inputs[1])) is not None and value.size == 1:
        sides = [(node.inputs[2], node.inputs[0])]
    elif is_op(node, "Where") and (value := constant(node.inputs[2])) is not None and value.size == 1:
        sides = [(node.inputs[1], node.inputs[0])]
    else:
        return None
    for scores, mask in sides:
        keys = _input_of(mask)
        if keys is not None and (read := _read(node, mask, keys, probe)) is not None:
            return scores, keys, *read
    return None


def _input_of(value: ir.Value) -> ir.Value | None:
    """The one input of the graph, [batch, keys], that the numbers of `value` come from; shapes may come from others."""
    found, todo, seen = set(), [value], set()
    while todo:
        v = todo.pop()
        if v in seen or v is None or constant(v) is not None:
            continue
        seen.add(v)
        maker = v.producer()
        if maker is None:
            found.add(v)
        elif len(seen) > _LARGEST or maker.domain != "" or is_op(maker, "Softmax", "MatMul", "Gemm", "Conv"):
            return None
        elif not is_op(maker, "Shape"):
            todo += maker.inputs
    (only,) = found if len(found) == 1 else (None,)
    return only if only is not None and only.shape is not None and len(only.shape) == 2 else None


_LARGEST = 64
"""Tensors between an input and the mask that it makes."""


def _read(node: ir.Node, mask: ir.Value, keys: ir.Value, probe: Probe) -> tuple[int, np.ndarray] | None:
    """(keep, the mask of what no key hides) of a mask: hidden where a key has one of its two values, whatever else."""
    if not isinstance(keys.shape[1], int):
        return None
    given = _rows(keys)
    hidden = [_hidden(node, mask, keys, row, probe) for row in given]
    if any(h is None for h in hidden):
        return None
    for keep in (0, 1):
        own = hidden[keep]  # of no key
        expected = [own | ((row > 0) != bool(keep)) for row in given]
        pairs = [(h, e) for h, e in zip(hidden, expected, strict=True) if not (e.all() and not h.any())]
        if not own.all() and len(pairs) > 2 and all(np.array_equal(h, e) for h, e in pairs):
            return keep, ~own
    return None


def _hidden(node: ir.Node, mask: ir.Value, keys: ir.Value, row: np.ndarray, probe: Probe) -> np.ndarray | None:
    """Which entries a mask hides for one frame of keys, bool [1, ..., keys]; None where it does anything else. One that
    would hide all may hide none: graphs that answer rows of which nothing takes part do so behind the Softmax."""
    found = probe.compute(mask, keys, row)
    if found is None:
        return None
    if is_op(node, "Add"):
        hidden = found <= _HIDDEN
        return None if np.abs(found[~hidden]).max(initial=0) else hidden
    first = constant(node.inputs[1])
    at_true = first is not None and first.size == 1
    value = first if at_true else constant(node.inputs[2])
    if value.reshape(-1)[0] > _HIDDEN:
        return None
    return found if at_true else ~found
