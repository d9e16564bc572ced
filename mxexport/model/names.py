"""Names that are still free: `fc`, `fc_1`, `fc_2`, …"""

from __future__ import annotations

from collections.abc import Container, Iterable


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or the first of `name_1`, `name_2`, … that is not among `taken`."""
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


class Names:
    """Hands out names, each once; for thousands of the same name it does not begin to count anew."""

    def __init__(self, taken: Iterable[str] = ()):
        self.taken = set(taken)
        self._next: dict[str, int] = {}

    def unique(self, name: str) -> str:
        candidate, count = name, self._next.get(name, 1)
        while candidate in self.taken:
            candidate, count = f"{name}_{count}", count + 1
        self._next[name] = count
        self.taken.add(candidate)
        return candidate
