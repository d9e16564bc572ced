"""Factors and offsets moved and absorbed; the list is the registry."""

from __future__ import annotations

from mxexport.passes.streamline.absorb_affines import absorb_affines
from mxexport.passes.streamline.absorb_scales import absorb_scales
from mxexport.passes.streamline.merge_affines import merge_affines
from mxexport.passes.streamline.move_scales import move_scales
from mxexport.passes.streamline.normalize_affines import normalize_affines

STREAMLINE = (
    normalize_affines,
    move_scales,
    absorb_scales,
    merge_affines,
    absorb_affines,
)
"""Factors and offsets moved together and absorbed where that is exact or within the bound of the pass."""

__all__ = ["STREAMLINE", *(each.__name__ for each in STREAMLINE)]
