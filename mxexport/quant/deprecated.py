"""The old boolean `scaling_per_output_channel`, which the public doors still take."""

from __future__ import annotations

import sys
import warnings

from mxexport.errors import FormatError


def resolve_scaling(scaling_per_output: str | None, scaling_per_output_channel: bool | None) -> str | None:
    """The granularity asked for; the deprecated boolean wins where it is set (True: channel, False: tensor).

    Raises:
        FormatError: a boolean that is none.
    """
    if scaling_per_output_channel is None:
        return scaling_per_output
    if not isinstance(scaling_per_output_channel, bool):
        raise FormatError(f"scaling_per_output_channel {scaling_per_output_channel!r}: expected True or False")
    chosen = "channel" if scaling_per_output_channel else "tensor"
    warnings.warn(
        f"scaling_per_output_channel is deprecated; write scaling_per_output={chosen!r}",
        DeprecationWarning,
        stacklevel=_levels_to_caller(),
    )
    return chosen


def _levels_to_caller() -> int:
    """Frames from the function that calls this one up to the first outside this package: whose code a warning names."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == __package__.split(".")[0]:
        level, frame = level + 1, frame.f_back
    return level
