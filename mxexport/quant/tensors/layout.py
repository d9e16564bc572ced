"""Where the groups go when a quant tensor changes shape (shapes only, no data).

A quant tensor of shape (..., K, ...) stores (..., n, G, ...). An operation keeps the groups when every group of the
result is one whole group of the source; otherwise there is no layout, and the operation is done on plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Layout:
    """`shape` of the tensor, `axis` its groups run along (counted from the front), elements per group."""

    shape: tuple[int, ...]
    axis: int
    group_size: int

    @property
    def length(self) -> int:
        return self.shape[self.axis]

    @property
    def whole(self) -> bool:
        """True when no group is short, so that groups of neighbouring rows stay apart when rows are joined."""
        return self.length % self.group_size == 0

    def stored(self, per_group: int) -> tuple[int, ...]:
        """Contracted shape with `per_group` entries a group: group_size for values, 1 for scales."""
        count = -(-self.length // self.group_size)
        return (*self.shape[: self.axis], count, per_group, *self.shape[self.axis + 1 :])

    def stored_dim(self, dim: int) -> int:
        """Where dimension `dim`, other than the axis, lies in the contracted tensors."""
        return dim if dim < self.axis else dim + 1

    def stored_order(self, order: tuple[int, ...]) -> list[int]:
        """The permutation of the contracted tensors that permutes this tensor by `order`."""
        stored = []
        for dim in order:
            stored += [dim, dim + 1] if dim == self.axis else [self.stored_dim(dim)]
        return stored

    def viewed(self, shape: tuple[int, ...]) -> Layout | None:
        """The layout after a view as `shape` (no -1 in it), or None where the view cuts or joins groups.

        The axis may move by changes before or behind it; whole groups may also be split off it (K -> A, B with B a
        multiple of the group size) or joined to it.
        """
        behind = prod(self.shape[self.axis + 1 :])
        fits = [b for b in range(len(shape)) if prod(shape[b + 1 :]) == behind]
        same = [b for b in fits if shape[b] == self.length]
        if same:
            return Layout(shape, same[0], self.group_size)
        split = [b for b in fits if self.whole and shape[b] and shape[b] % self.group_size == 0]
        return Layout(shape, split[0], self.group_size) if split else None


def resolve_shape(shape: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """`shape` with its -1 (if any) replaced; the caller has checked that it fits."""
    if -1 not in shape:
        return tuple(shape)
    known = prod(size for size in shape if size != -1)
    return tuple(elements // known if size == -1 and known else max(size, 0) for size in shape)
