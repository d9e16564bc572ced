"""What a pass reports.

A pass is a function `verb_object(model: ir.Model) -> Outcome` that changes the model in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What one pass did: a line for every change, and (node name, reason) for every place it left alone.

    A reason completes the sentence "not done because …", names what was found and what was expected.
    """

    changed: list[str] = field(default_factory=list)
    declined: list[tuple[str, str]] = field(default_factory=list)

    @property
    def modified(self) -> bool:
        return bool(self.changed)
