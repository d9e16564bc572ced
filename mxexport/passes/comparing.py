"""Finds the first tensor in which two models that should compute the same do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.passes.exactness import Bound
from mxexport.passes.execution import execute
from mxexport.passes.rewriting import is_op, is_quantizer


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
    """Compare all tensors of equal name in the main graphs, in the order `after` computes them."""
    names = {v.name for node in before.graph for v in node.outputs if v.name}
    common = [v.name for node in after.graph for v in node.outputs if v.name in names]
    old, new = execute(before, inputs, common), execute(after, inputs, common)
    loose: set[ir.Value] = set()  # tensors that a moved code may have reached
    equal = within = behind = 0
    for node in after.graph:
        freed = any(value in loose for value in node.inputs)
        for value in node.outputs:
            if value.name not in new or value.name not in old:
                if freed:
                    loose.add(value)
                continue
            if _identical(old[value.name], new[value.name]):
                equal += 1
                continue
            distance = _distance(old[value.name], new[value.name])
            if bound and distance is not None and distance <= bound.ulp:
                within += 1
            elif bound and distance is not None and (freed or _rounds(node)):
                behind += 1
                loose.add(value)
            else:
                detail = _describe(old[value.name], new[value.name])
                return Comparison(equal, within, behind, Difference(value.name, node.name or "", detail, distance))
    return Comparison(equal, within, behind)


def _rounds(node: ir.Node) -> bool:
    """Where a small change of the input may move the output by a whole step."""
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
