"""Conversions to what other tools take: one module per target, found by its name (see `conversion`).

Nothing is imported before it is asked for: `mxexport.targets.finn_steps` runs where the rest cannot be imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxexport.targets.conversion import (
        TARGETS as TARGETS,
        Converted as Converted,
        ConvertReport as ConvertReport,
        convert as convert,
        convert_model as convert_model,
    )

__all__ = ["TARGETS", "ConvertReport", "Converted", "convert", "convert_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.conversion"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
