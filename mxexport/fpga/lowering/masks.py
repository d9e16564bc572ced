"""What stands between scores and their Softmax: masks, which are added or put in the place of scores to hide some keys,
constant or made of an input [batch, keys] (or [batch, 1, 1, keys]); and a factor.

Such an input holds zeros and ones, or is a mask to be added: zero where a key takes part, else -Inf or a number as low
as -1e4."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import MXExportError
from mxexport.model.editing import Editor, sole_user
from mxexport.model.rewriting import constant, is_op
from mxexport.running import executors

HIDDEN = -1e4
"""What is added to hide a key is -Inf or the lowest number of some type; no score is as far from others."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_MOST = 8
"""Masks and factors one behind the other."""


@dataclass(frozen=True)
class Keys:
    """An input of the graph that says which keys take part: those whose entries are zeros, or ones (`keep`); or, of one
    that is `added`, those of zeros, where other entries are as low as -1e4."""

    value: ir.Value
    keep: int
    added: bool

    @property
    def count(self) -> int:
        return count_of(self.value)

    def rows(self) -> np.ndarray:
        """Frames to look at, bool [n, keys], true where an entry is not zero: none, all, and two of some."""
        some = np.random.default_rng(0).integers(0, 2, (2, self.count), bool)
        return np.stack([np.zeros(self.count, bool), np.ones(self.count, bool), *some])

    def given(self, row: np.ndarray) -> np.ndarray:
        """A frame as the input holds it."""
        dtype, shape = self.value.dtype.numpy(), (1, *self.value.shape[1:])
        return np.where(row, -np.inf if self.added else 1, 0).astype(dtype).reshape(shape)

    def hidden(self, row: np.ndarray) -> np.ndarray:
        return row != bool(self.keep)


@dataclass(frozen=True, eq=False)
class Masked:
    """What a Softmax takes without its masks and its factor `scale`, and which keys take part: bool, of a shape that
    broadcasts to the scores; None: all do. `keys`: what an input of the graph says besides. `bias`: what a mask adds to
    the scores that it leaves, before they are scaled. `inner`: the nodes that hide the others, add and multiply."""

    scores: ir.Value
    scale: float
    mask: np.ndarray | None
    keys: Keys | None
    bias: np.ndarray | None
    inner: tuple[ir.Node, ...]


class Probe:
    """Computes tensors that depend on one input alone, of a model that is made ready once."""

    def __init__(self, model: ir.Model):
        self._model = model

    @functools.cached_property
    def _extractor(self) -> onnx.utils.Extractor:
        return onnx.utils.Extractor(executors.load_proto(self._model))

    def compute(self, value: ir.Value, keys: Keys, row: np.ndarray) -> np.ndarray | None:
        """A tensor for one frame of keys; None where more than keys is asked for."""
        feeds = {keys.value.name: keys.given(row)}
        for other in self._model.graph.inputs:  # what only shapes are asked of
            if other is not keys.value and other.shape is not None and all(isinstance(d, int) for d in other.shape[1:]):
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
    scores, scale, mask, inner, keys, bias = node.inputs[0], 1.0, None, [], None, None
    while len(inner) < _MOST and bias is None and sole_user(scores) is not None:
        maker = scores.producer()
        factor, step = _factor(maker), _step(maker)
        outside = _from_outside(maker, probe) if factor is None and step is None and keys is None else None
        if factor is not None:
            scores, scale = factor[0], scale * factor[1]
        elif step is not None:
            scores, more, bias = step
            mask = more if mask is None else mask & more
        elif outside is not None:
            scores, keys, more, bias = outside
            mask = more if mask is None else mask & more
        else:
            break
        inner.append(maker)
    return Masked(scores, scale, mask, keys, bias, tuple(inner))


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


def _step(node: ir.Node | None) -> tuple[ir.Value, np.ndarray, np.ndarray | None] | None:
    """What a node masks, which entries it leaves, and what it adds to these; None where it is no mask."""
    if is_op(node, "Add"):
        found = [constant(v) for v in node.inputs]
        which = next((i for i, c in enumerate(found) if c is not None), None)
        if which is None:
            return None
        added = found[which]
        hidden = added <= HIDDEN
        if not hidden.any() or not np.isfinite(added[~hidden]).all():
            return None
        return node.inputs[1 - which], ~hidden, _bias(added, hidden)
    if is_op(node, "Where"):
        chosen, *sides = (constant(v) for v in node.inputs)
        for side, other in ((0, 2), (1, 1)):
            value = sides[side]
            if chosen is not None and value is not None and value.size == 1 and value.reshape(-1)[0] <= HIDDEN:
                return node.inputs[other], ~chosen.astype(bool) if side == 0 else chosen.astype(bool), None
    return None


def _bias(added: np.ndarray, hidden: np.ndarray) -> np.ndarray | None:
    """What a mask adds to the scores that it leaves; None where that is nothing."""
    bias = np.where(hidden, 0, added)
    return bias if bias.any() else None


# --- masks that an input makes --------------------------------------------------------------------------------------


def added_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs of the graph that are masks to be added to scores."""
    if not any(value.dtype in _FLOATS and count_of(value) for value in model.graph.inputs):
        return []
    known = masked(model.graph, Probe(model)).values()
    return list(dict.fromkeys(m.keys.value for m in known if m.keys is not None and m.keys.added))


def settle_added(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """x -> Where(x <= -1e4, lowest, 0)  for every mask that is added, so that all its low entries say the same: -Inf
    where `inputs` hold some (or none is hidden), else their lowest. Gives the names of these masks."""
    editor, names = Editor(model), []
    for value in added_inputs(model):
        low = inputs[value.name][inputs[value.name] <= HIDDEN]
        lowest = low.min() if low.size and np.isfinite(low).all() else -np.inf
        names.append(value.name)
        first = next(n for n in model.graph if value in n.inputs)
        dtype, users = value.dtype.numpy(), list(value.uses())
        limit, end, zero = (
            editor.constant(f"{value.name}_{word}", np.array(number, dtype))
            for word, number in (("limit", HIDDEN), ("hidden", lowest), ("kept", 0))
        )
        low = editor.node("LessOrEqual", [value, limit], name=f"{value.name}.hides", like=value, before=first)
        low.type = ir.TensorType(ir.DataType.BOOL)
        kept = editor.node("Where", [low, end, zero], name=f"{value.name}.hidden", like=value, before=first)
        for user, index in users:
            user.replace_input_with(index, kept)
    editor.finish()
    return names


def spared(g: ir.Graph, found: Mapping[ir.Node, Masked], probe: Probe) -> dict[ir.Node, ir.Value]:
    """Every Where that puts zeros in the place of values as a mask from outside says, and changes none: rows of a
    Softmax of which nothing takes part are zeros already, and some masks hide no token. With the values."""
    result, kinds = {}, _kinds(found)
    for node, keys in _emptying(g, kinds):
        values = node.inputs[2]
        softmax, rows = found.get(values.producer()), keys.rows()
        chosen = [row for row in rows if _chosen(node.inputs[0], keys, row, probe)]
        nothing = softmax is not None and softmax.keys is not None and softmax.keys.value is keys.value
        if not chosen or (nothing and all(softmax.keys.hidden(row).all() for row in chosen)):
            result[node] = values
    return result


@dataclass(frozen=True)
class Emptied:
    """Zeros in the place of some entries of an axis of `values`: those that `keys` hide."""

    values: ir.Value
    axis: int
    keys: Keys


def emptied(
    g: ir.Graph, found: Mapping[ir.Node, Masked], spared: Mapping[ir.Node, ir.Value], probe: Probe
) -> dict[ir.Node, Emptied]:
    """Every Where that puts zeros in the place of tokens as a mask from outside says, of values that others make."""
    result = {}
    for node, keys in _emptying(g, _kinds(found)):
        if node in spared:
            continue
        rows = keys.rows()
        computed = [probe.compute(node.inputs[0], keys, row) for row in rows]
        if any(f is None for f in computed):
            continue
        rank = computed[0].ndim
        for axis, keep in itertools.product(range(-rank, 0), (0, 1)):
            one, shape = replace(keys, keep=keep), [keys.count if i == axis else 1 for i in range(-rank, 0)]
            if all(_same(f, one.hidden(row).reshape(shape)) for f, row in zip(computed, rows, strict=True)):
                result[node] = Emptied(node.inputs[2], axis, one)
    return result


def _same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a condition is `wanted` for all heads."""
    fits = all(n in (1, m) for n, m in zip(wanted.shape, found.shape, strict=True))
    return fits and bool((found == wanted).all())


def _kinds(found: Mapping[ir.Node, Masked]) -> dict[ir.Value, Keys]:
    """Inputs that mask scores, by value."""
    return {known.keys.value: known.keys for known in found.values() if known.keys is not None}


def _emptying(g: ir.Graph, kinds: Mapping[ir.Value, Keys]) -> Iterator[tuple[ir.Node, Keys]]:
    """Every Where that puts zeros in the place of values, as an input says that is no part of them."""
    for node in g:
        if not _empties(node) or constant(node.inputs[2]) is not None:  # the latter makes a mask
            continue
        value = _input_of(node.inputs[0])
        if value is not None and _input_of(node.inputs[2]) is None:
            yield node, kinds.get(value, Keys(value, 1, False))


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


def count_of(value: ir.Value) -> int:
    """Keys of an input [batch, keys], [batch, 1, keys], ...; 0 of others."""
    shape = value.shape
    if shape is None or len(shape) < 2 or value.dtype is None or not all(isinstance(d, int) for d in shape[1:]):
        return 0
    return math.prod(shape[1:]) if sum(d > 1 for d in shape[1:]) <= 1 else 0


def _chosen(condition: ir.Value, keys: Keys, row: np.ndarray, probe: Probe) -> bool:
    """Whether a condition holds anywhere, or cannot be computed."""
    found = probe.compute(condition, keys, row)
    return found is None or bool(found.any())


def _from_outside(node: ir.Node | None, probe: Probe) -> tuple[ir.Value, Keys, np.ndarray, np.ndarray | None] | None:
    """(scores, input, mask, bias) of a node that hides keys as an input says: found by computing the mask of some. None
    where it does not."""
    if is_op(node, "Add"):
        sides = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    elif is_op(node, "Where") and (value := constant(node.inputs[1])) is not None and value.size == 1:
        sides = [(node.inputs[2], node.inputs[0])]
    elif is_op(node, "Where") and (value := constant(node.inputs[2])) is not None and value.size == 1:
        sides = [(node.inputs[1], node.inputs[0])]
    else:
        return None
    for scores, mask in sides:
        value = _input_of(mask)
        for added in (False, True) if value is not None and value.dtype in _FLOATS else (False,):
            if value is not None and (read := _read(node, mask, value, added, probe)) is not None:
                return scores, *read
    return None


def _input_of(value: ir.Value) -> ir.Value | None:
    """The one input of the graph, of keys, that the numbers of `value` come from; shapes may come from others."""
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
    return only if only is not None and count_of(only) else None


_LARGEST = 64
"""Tensors between an input and the mask that it makes."""


def _read(
    node: ir.Node, mask: ir.Value, value: ir.Value, added: bool, probe: Probe
) -> tuple[Keys, np.ndarray, np.ndarray | None] | None:
    """(keys, the mask of what no key hides, bias) of a mask: hidden where a key has one of its two values, whatever
    else."""
    rows = Keys(value, 1, added).rows()
    read = [_hidden(node, mask, Keys(value, 1, added), row, probe) for row in rows]
    if any(r is None for r in read):
        return None
    hidden, biases = zip(*read, strict=True)
    for keep in (0,) if added else (0, 1):
        keys, own = Keys(value, keep, added), hidden[keep]  # of no key
        expected = [own | keys.hidden(row) for row in rows]
        pairs = [(h, e) for h, e in zip(hidden, expected, strict=True) if not (e.all() and not h.any())]
        if own.all() or len(pairs) < 3 or not all(np.array_equal(h, e) for h, e in pairs):
            continue
        if all((b == biases[keep])[~e].all() for b, e in zip(biases, expected, strict=True)):
            return keys, ~own, biases[keep] if biases[keep].any() else None
    return None


def _hidden(
    node: ir.Node, mask: ir.Value, keys: Keys, row: np.ndarray, probe: Probe
) -> tuple[np.ndarray, np.ndarray] | None:
    """Which entries a mask hides for one frame of keys, bool [1, ..., keys], and what it adds to others; None where it
    does anything else. One that would hide all may hide none: graphs that answer rows of which nothing takes part do so
    behind the Softmax."""
    found = probe.compute(mask, keys, row)
    if found is None:
        return None
    if is_op(node, "Add"):
        hidden = found <= HIDDEN
        return hidden, np.where(hidden, 0, found)
    first = constant(node.inputs[1])
    at_true = first is not None and first.size == 1
    value = first if at_true else constant(node.inputs[2])
    if value.reshape(-1)[0] > HIDDEN:
        return None
    return (found if at_true else ~found), np.zeros(found.shape)
