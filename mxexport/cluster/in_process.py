"""Tasks one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxexport.cluster.runner import Refused, Runner, Work, attempt


class InProcess(Runner):
    def completed(self, work: Work) -> Iterator[tuple[int, Any]]:
        for group in work.groups():
            result = attempt(work.function, work.shared, work.items[group[0]], work.retries)
            if isinstance(result, Refused):
                raise result.error
            for i in group:
                yield i, result
