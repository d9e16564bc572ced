"""One choice for each of many units so that the sum of their costs, and of costs between neighbours, is least: exact,
by dynamic programming (variable elimination; R. Dechter, Bucket elimination, 1999)."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping

import numpy as np

_Table = tuple[tuple, np.ndarray]  # units, costs of their choices
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
    order = {name: i for i, name in enumerate(own)}
    holds: dict[Hashable, list[_Table]] = {name: [] for name in own}  # unit -> the tables that depend on it
    around: dict[Hashable, set] = {name: set() for name in own}  # unit -> its neighbours

    def put(table: _Table) -> None:
        for name in table[0]:
            holds[name].append(table)
            around[name].update(n for n in table[0] if n != name)

    for names, costs in [*(((name,), costs) for name, costs in own.items()), *between.items()]:
        put((names, np.asarray(costs, np.float64)))
    waiting = [(_entries(around[name], sizes), order[name], name) for name in own]
    heapq.heapify(waiting)
    solved: list[tuple[Hashable, tuple, np.ndarray]] = []
    while waiting:
        entries, _, name = heapq.heappop(waiting)
        if name not in holds or entries != _entries(around[name], sizes):
            continue  # solved, or pushed again since
        mine, near = holds.pop(name), tuple(sorted(around.pop(name), key=order.__getitem__))
        for other in near:
            holds[other] = [t for t in holds[other] if name not in t[0]]
            around[other].discard(name)
        if entries * sizes[name] > _MOST:
            best = int(np.argmin(own[name]))
            solved.append((name, (), np.array(best)))
            for names, costs in mine:
                if len(names) > 1:
                    put(_fixed(names, costs, name, best))
        else:
            joint = sum(_spread(names, costs, (*near, name)) for names, costs in mine)
            solved.append((name, near, joint.argmin(-1)))
            if near:
                put((near, joint.min(-1)))
        for other in near:
            heapq.heappush(waiting, (_entries(around[other], sizes), order[other], other))
    chosen: dict[Hashable, int] = {}
    for name, near, best in reversed(solved):
        chosen[name] = int(best[tuple(chosen[n] for n in near)])
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
