"""Models that hold live quantized modules of other tools, as ours: see `reading`."""

from mxexport.frontends.live.reading import from_fake_quantized, is_fake_quantized

__all__ = ["from_fake_quantized", "is_fake_quantized"]
