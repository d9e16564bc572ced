"""Published MX checkpoints as ours, without the tools that wrote them: see `reading`."""

from mxexport.frontends.checkpoints.reading import from_checkpoint

__all__ = ["from_checkpoint"]
