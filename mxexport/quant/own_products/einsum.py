"""Einsums of two tensors that are one product of matrices: `"bhid,bhjd->bhij"`."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

_ELLIPSIS = "..."


@dataclass(frozen=True)
class _Labels:
    """Axes by what they are: of both operands and the result, of one operand, and summed over."""

    batch: str
    rows: str
    columns: str
    summed: str
    result: str


def as_matmul(
    equation: str, a: Tensor, b: Tensor, matmul: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor | str | None:
    """The einsum as `matmul` of a [batch, M, K] and b [batch, K, N]; why it is none, in words.

    Without `matmul` nothing is computed: None where it is one.
    """
    terms = _terms(equation, a.ndim, b.ndim)
    labels = terms if isinstance(terms, str) else _labels(*terms)
    if isinstance(labels, str) or matmul is None:
        return labels if isinstance(labels, str) else None
    of_a, of_b, _ = terms
    sizes = dict(zip(of_a + of_b, (*a.shape, *b.shape), strict=True))
    left = _arranged(a, of_a, labels.batch, labels.rows, labels.summed)
    right = _arranged(b, of_b, labels.batch, labels.summed, labels.columns)
    product = matmul(left, right)
    made = labels.batch + labels.rows + labels.columns
    product = product.reshape([sizes[label] for label in made])
    return product.permute([made.index(label) for label in labels.result])


def _terms(equation: str, *ranks: int) -> tuple[str, ...] | str:
    """The labels of both operands and of the result, with letters for an ellipsis."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    spare = [letter for letter in string.ascii_letters if letter not in equation]
    most = max(rank - len(t.replace(_ELLIPSIS, "")) for t, rank in zip(terms, ranks, strict=True))
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        hidden = rank - len(term.replace(_ELLIPSIS, "")) if _ELLIPSIS in term else 0
        terms[i] = term.replace(_ELLIPSIS, "".join(spare[most - hidden : most]))
    if not arrow:
        joined = inputs.replace(",", "").replace(_ELLIPSIS, "")
        named = sorted(label for label in set(joined) if joined.count(label) == 1)
        result = (_ELLIPSIS if _ELLIPSIS in inputs else "") + "".join(named)
    shared = "".join(spare[:most]) if _ELLIPSIS in inputs else ""
    result = result.replace(_ELLIPSIS, shared)
    if any(len(set(term)) < len(term) for term in (*terms, result)):
        return "takes a diagonal"
    return (*terms, result)


def _labels(a: str, b: str, result: str) -> _Labels | str:
    summed = [label for label in a if label in b and label not in result]
    alone = [label for label in a + b if label not in result and not (label in a and label in b)]
    if alone:
        return f"sums over {alone[0]} of one operand alone"
    if len(summed) != 1:
        return f"sums over {len(summed)} axes; groups run along one"
    return _Labels(
        batch="".join(label for label in a if label in b and label in result),
        rows="".join(label for label in a if label not in b),
        columns="".join(label for label in b if label not in a),
        summed=summed[0],
        result=result,
    )


def _arranged(x: Tensor, labels: str, batch: str, first: str, second: str) -> Tensor:
    """`x` as [*batch, prod(first), prod(second)]."""
    x = x.permute([labels.index(label) for label in batch + first + second])
    shape, cut = list(x.shape), len(batch)
    middle = cut + len(first)
    if len(first) == len(second) == 1:
        return x
    return x.reshape(*shape[:cut], math.prod(shape[cut:middle]), math.prod(shape[middle:]))
