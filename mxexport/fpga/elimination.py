"""One choice for each of many units so that the sum of their costs, and of costs between neighbours, is least: exact,
by dynamic programming (variable elimination; R. Dechter, Bucket elimination, 1999)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

_MOST = 1_000_000
"""Entries of the largest table. Networks are chains with a few branches, whose tables have two or three axes; where a
table would be larger, one of its units takes what is best for itself alone."""


def least(
    own: Mapping[Hashable, np.ndarray], between: Mapping[tuple[Hashable, Hashable], np.ndarray]
) -> dict[Hashable, int]:
    """Unit -> index of its choice.

    Args:
        own: unit -> cost of each choice, float64 [n].
        between: (a, b) -> cost of each pair of choices, float64 [n of a, n of b]; each pair of units once at most.
    """
    sizes = {name: len(costs) for name, costs in own.items()}
    tables = [((name,), np.asarray(costs, np.float64)) for name, costs in own.items()]
    tables += [(pair, np.asarray(costs, np.float64)) for pair, costs in between.items()]
    solved = []
    todo = set(own)
    order = {name: i for i, name in enumerate(own)}
    while todo:
        neighbours = {name: {n for names, _ in tables if name in names for n in names} - {name} for name in todo}
        name = min(todo, key=lambda v: (_entries(neighbours[v], sizes), order[v]))
        mine, tables = [t for t in tables if name in t[0]], [t for t in tables if name not in t[0]]
        around = tuple(sorted(neighbours[name], key=order.__getitem__))
        if _entries(around, sizes) * sizes[name] > _MOST:
            best = int(own[name].argmin())
            solved.append((name, (), np.array(best)))
            tables += [_fixed(names, costs, name, best) for names, costs in mine if len(names) > 1]
        else:
            joint = sum(_spread(names, costs, (*around, name)) for names, costs in mine)
            solved.append((name, around, joint.argmin(-1)))
            if around:
                tables.append((around, joint.min(-1)))
        todo.remove(name)
    chosen: dict[Hashable, int] = {}
    for name, around, best in reversed(solved):
        chosen[name] = int(best[tuple(chosen[n] for n in around)])
    return chosen


def _entries(names, sizes: Mapping[Hashable, int]) -> int:
    count = 1
    for name in names:
        count *= sizes[name]
    return count


def _spread(names: tuple, costs: np.ndarray, axes: tuple) -> np.ndarray:
    """A table with its axes in the order of `axes`, of length 1 where it does not depend on one."""
    order = sorted(range(len(names)), key=lambda i: axes.index(names[i]))
    shape = [costs.shape[names.index(a)] if a in names else 1 for a in axes]
    return costs.transpose(order).reshape(shape)


def _fixed(names: tuple, costs: np.ndarray, name: Hashable, choice: int) -> tuple[tuple, np.ndarray]:
    axis = names.index(name)
    return (*names[:axis], *names[axis + 1 :]), costs.take(choice, axis)
