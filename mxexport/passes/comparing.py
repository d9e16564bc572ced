"""Finds the first tensor in which two models that should compute the same do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.passes.exactness import Bound
from mxexport.passes.execution import execute
from mxexport.passes.rewriting import is_op, is_quantizer
from mxexport.verification import equal_bits


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
    return len(before) == len(after) and all(_distance(a, b) == 0 for a, b in pairs)


def compare(before: ir.Model, after: ir.Model, inputs: Mapping[str, np.ndarray], bound: Bound | None) -> Comparison:
    """Compare all tensors of equal name in the main graphs, in the order `after` computes them."""
    names = {v.name for node in before.graph for v in node.outputs if v.name}
    common = [v.name for node in after.graph for v in node.outputs if v.name in names]
    old, new = execute(before, inputs, common), execute(after, inputs, common)
    allowed = bound.ulp if bound else 0.0
    loose: set[ir.Value] = set()  # tensors that a moved code may have reached
    equal = within = behind = 0
    for node in after.graph:
        freed = any(value in loose for value in node.inputs)
        for value in node.outputs:
            if value.name not in new or value.name not in old:
                if freed:
                    loose.add(value)
                continue
            distance = _distance(old[value.name], new[value.name])
            if distance == 0:
                equal += 1
            elif distance is not None and distance <= allowed:
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


def _distance(a: np.ndarray, b: np.ndarray) -> float | None:
    """0 for equal bits; else in units in the last place of the largest magnitude; None where shapes or kinds differ."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return None
    if a.dtype == object or np.all(equal_bits(a, b)):
        return 0.0 if a.dtype != object or (a == b).all() else None
    if not np.issubdtype(a.dtype, np.floating):
        return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    largest = np.max(np.abs(a[finite]), initial=0).astype(a.dtype)
    step = float(np.spacing(largest))
    return float(np.max(np.abs(a[finite].astype(np.float64) - b[finite].astype(np.float64)), initial=0)) / step


def _describe(a: np.ndarray, b: np.ndarray) -> str:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} before, {b.dtype}{list(b.shape)} after"
    different = ~equal_bits(a, b)
    where = tuple(int(i) for i in np.argwhere(different)[0]) if a.ndim else ()
    return (
        f"{int(different.sum())} of {a.size} values differ, first at {where}: {a[where]!s} before, {b[where]!s} after"
    )
