"""What a runner of tasks promises, and one task of it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mxexport.errors import MXExportError

RETRIES = 2


@dataclass(frozen=True)
class Work:
    """`function(*shared, item)` for every item; `shared` goes to a worker once, not with every task.

    `keys`: one for each item; items of equal keys are computed once. `resources` is what a task takes of those that
    workers declare (`dask worker --resources synth=4`); where none of them declares any of these, tasks run anywhere.
    `retries`: how often a task that fails is tried again. Errors of ours are answers and no failures: they are raised
    at once.
    """

    function: Callable[..., Any]
    items: Sequence[Any]
    shared: tuple = ()
    keys: Sequence[Hashable] | None = None
    resources: Mapping[str, float] | None = None
    retries: int = RETRIES

    def groups(self) -> list[list[int]]:
        """Positions of items that are computed together, in order."""
        if self.keys is None:
            return [[i] for i in range(len(self.items))]
        found: dict[Hashable, list[int]] = {}
        for i, key in zip(range(len(self.items)), self.keys, strict=True):
            found.setdefault(key, []).append(i)
        return list(found.values())


@dataclass(frozen=True)
class Refused:
    """What a task answers that raised one of our errors."""

    error: MXExportError


def attempt(function: Callable[..., Any], shared: tuple, item: Any, retries: int) -> Any:
    """What a task answers, tried again where it fails."""
    while True:
        try:
            return function(*shared, item)
        except MXExportError as error:
            return Refused(error)
        except Exception:  # any code may run here
            if retries < 1:
                raise
            retries -= 1


class Runner(abc.ABC):
    """Runs tasks."""

    @abc.abstractmethod
    def completed(self, work: Work) -> Iterator[tuple[int, Any]]:
        """(position of the item, result) as results come. Raises what a task raised."""

    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        *,
        shared: tuple = (),
        keys: Iterable[Hashable] | None = None,
        resources: Mapping[str, float] | None = None,
        retries: int = RETRIES,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> list[Any]:
        """Results in the order of `items`; see `Work`. `progress` is called with how many are done of how many."""
        given = list(items)
        work = Work(function, given, shared, None if keys is None else list(keys), resources, retries)
        found: dict[int, Any] = {}
        for i, result in self.completed(work):
            found[i] = result
            progress(len(found), len(given))
        return [found[i] for i in range(len(given))]

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the runner holds. What was given to it stays open."""
