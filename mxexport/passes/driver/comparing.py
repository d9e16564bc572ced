"""Finds the first tensor in which two models that should compute the same do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.model.rewriting import is_op, is_quantizer
from mxexport.passes.exactness import Bound
from mxexport.running.execution import execute


@dataclass(frozen=True)
class Difference:
    """`distance`: largest difference in units in the last place of the largest magnitude; None if not comparable."""

    tensor: str
    node: str
    detail: str
    distance: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Tensors of equal name: bit-equal, within the bound, and behind a quantizer whose input moved (not bounded)."""

    equal: int = 0
    within_bound: int = 0
    behind_quantizer: int = 0
    difference: Difference | None = None


def same_outputs(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> bool:
    """Output by output in order: equal bits."""
    pairs = list(zip(before.values(), after.values(), strict=False))
    return len(before) == len(after) and all(_identical(a, b) for a, b in pairs)


def compare(before: ir.Model, after: ir.Model, inputs: Mapping[str, np.ndarray], bound: Bound | None) -> Comparison:
    """Compare all tensors of equal name in the main graphs, in the order `after` computes them, and every output of
    the graph with the one in its place, whatever it is called."""
    outputs = [list(model.graph.outputs) for model in (before, after)]
    if len(outputs[0]) != len(outputs[1]):
        return Comparison(difference=_other_outputs(*outputs))
    former = {b.name: a.name for a, b in zip(*outputs, strict=True)}
    names = {v.name for node in before.graph for v in node.outputs if v.name}
    partners = {v.name: v.name for node in after.graph for v in node.outputs if v.name in names} | former
    old = execute(before, inputs, list(dict.fromkeys(partners.values())))
    new = execute(after, inputs, list(partners))
    loose: set[ir.Value] = set()  # tensors that a moved code may have reached
    equal = within = behind = 0
    for node, value in _tensors(after.graph):
        freed = node is not None and any(v in loose for v in node.inputs)
        if value.name not in partners:
            if freed:
                loose.add(value)
            continue
        a, b = old[partners[value.name]], new[value.name]
        if _identical(a, b):
            equal += 1
            continue
        distance = _distance(a, b)
        if bound and distance is not None and distance <= bound.ulp:
            within += 1
        elif bound and distance is not None and (freed or _rounds(node)):
            behind += 1
            loose.add(value)
        else:
            by = "" if node is None else node.name or ""
            return Comparison(equal, within, behind, Difference(value.name, by, _describe(a, b), distance))
    return Comparison(equal, within, behind)


def _tensors(graph: ir.Graph) -> Iterator[tuple[ir.Node | None, ir.Value]]:
    """What nodes make, with the node, in order; then outputs that no node makes."""
    yield from ((node, value) for node in graph for value in node.outputs)
    yield from ((None, value) for value in dict.fromkeys(graph.outputs) if value.producer() is None)


def _other_outputs(before: list[ir.Value], after: list[ir.Value]) -> Difference:
    names = [[value.name for value in outputs] for outputs in (before, after)]
    odd = next((name for name in names[0] if name not in names[1]), names[1][-1] if names[1] else "")
    maker = next((v.producer() for v in before if v.name == odd), None)
    node = "" if maker is None else maker.name or ""
    return Difference(odd, node, f"the graph had the outputs {', '.join(names[0])}, now {', '.join(names[1])}")


def _rounds(node: ir.Node | None) -> bool:
    """Where a small change of the input may move the output by a whole step."""
    if node is None:
        return False
    scales = node.domain == "mxexport.ops"
    return (
        scales
        or is_quantizer(node)
        or is_op(node, "Round", "Floor", "Ceil", "Cast", "Sign", "Greater", "Less", "Equal")
    )


def _same_kind(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Element by element for arrays of one kind: equal bits, any NaN equal to any NaN."""
    if not np.issubdtype(a.dtype, np.floating):
        return np.asarray(a == b)
    bits = f"u{a.dtype.itemsize}"
    return (np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)).reshape(a.shape) | (
        np.isnan(a) & np.isnan(b)
    )


def _identical(a: np.ndarray, b: np.ndarray) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return _same_kind(a, b) and bool(np.all(_equal(a, b)))


def _distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """In units in the last place of the largest magnitude; None where shapes or kinds differ or there are none."""
    a, b = np.asarray(a), np.asarray(b)
    if not _same_kind(a, b) or not np.issubdtype(a.dtype, np.number):
        return None
    if not np.issubdtype(a.dtype, np.floating):
        return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.all(_equal(a, b) | finite):
        return float("inf")
    largest = np.max(np.abs(a[finite]), initial=0).astype(a.dtype)
    change = np.abs(a[finite].astype(np.float64) - b[finite].astype(np.float64))
    return float(np.max(change, initial=0)) / float(np.spacing(largest))


def _describe(a: np.ndarray, b: np.ndarray) -> str:
    a, b = np.asarray(a), np.asarray(b)
    if not _same_kind(a, b):
        return f"{a.dtype}{list(a.shape)} before, {b.dtype}{list(b.shape)} after"
    different = ~_equal(a, b)
    where = tuple(int(i) for i in np.argwhere(different)[0]) if a.ndim else ()
    return (
        f"{int(different.sum())} of {a.size} values differ, first at {where}: {a[where]!s} before, {b[where]!s} after"
    )
