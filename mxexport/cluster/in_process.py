"""Tasks one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxexport.cluster.runner import Refused, Runner, Work, attempt


class InProcess(Runner):
    def completed(self, work: Work) -> Iterator[tuple[int, Any]]:
        for group in work.groups():
            result = _tried(work, group[0])
            if isinstance(result, Refused):
                raise result.error
            for i in group:
                yield i, result


def _tried(work: Work, i: int) -> Any:
    for left in range(work.retries, -1, -1):
        try:
            return attempt(work.function, work.shared, work.items[i])
        except Exception:  # any code may run here
            if not left:
                raise
    raise AssertionError("retries is negative")
