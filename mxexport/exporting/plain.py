"""What `forward` returns, as an exported program can hold it: tensors and None."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mxexport.errors import UnsupportedError
from mxexport.quant import GroupwiseQuantTensor


@contextlib.contextmanager
def plain_outputs(model: torch.nn.Module) -> Iterator[None]:
    """Within it, `model` returns its quant tensors dequantized and raises UnsupportedError for what no graph returns:
    Python numbers and strings, or no tensor at all."""
    handle = model.register_forward_hook(_plain)
    try:
        yield
    finally:
        handle.remove()


def _plain(model: torch.nn.Module, inputs: tuple, outputs: Any) -> Any:
    leaves, structure = pytree.tree_flatten(outputs)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, (bool, int, float, complex, str)):
            raise UnsupportedError(
                f"output {i} of forward is the {type(leaf).__name__} {leaf!r}; a graph returns tensors only, "
                "so return torch.tensor(...) or leave it out"
            )
    if all(leaf is None for leaf in leaves):
        raise UnsupportedError("forward returns no tensor, so the graph would have no output")
    plain = [leaf.dequantize() if isinstance(leaf, GroupwiseQuantTensor) else leaf for leaf in leaves]
    return pytree.tree_unflatten(plain, structure)
