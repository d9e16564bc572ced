"""Trained torchao models as ours: see `reading`."""

from mxexport.frontends.torchao.reading import activation_differences, from_torchao, is_torchao

__all__ = ["activation_differences", "from_torchao", "is_torchao"]
