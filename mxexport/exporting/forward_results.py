"""What `forward` returns, as an exported program can hold it: tensors and None."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mxexport.errors import UnsupportedError
from mxexport.exporting.outputs import leaf_paths
from mxexport.quant import GroupwiseQuantTensor

_PASSED_ON = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, type(None))


@contextlib.contextmanager
def plain_outputs(model: torch.nn.Module) -> Iterator[list[tuple[str, str]]]:
    """Within it, `model` returns its quant tensors dequantized and raises UnsupportedError for what no graph returns:
    Python numbers and strings, or no tensor at all. Other objects (the key-value cache of a decoder) become None, which
    is left out; the list given holds (output, why) for each."""
    left_out: list[tuple[str, str]] = []
    handle = model.register_forward_hook(functools.partial(_plain, left_out))
    try:
        yield left_out
    finally:
        handle.remove()


def _plain(left_out: list, model: torch.nn.Module, inputs: tuple, outputs: Any) -> Any:
    leaves, structure = pytree.tree_flatten(outputs)
    plain, left_out[:] = [], []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, (bool, int, float, complex, str)):
            raise UnsupportedError(
                f"output {i} of forward is the {type(leaf).__name__} {leaf!r}; a graph returns tensors only, "
                "so return torch.tensor(...) or leave it out"
            )
        if not isinstance(leaf, _PASSED_ON):
            left_out.append(
                (_name(i, structure), f"this output is a {type(leaf).__name__}; a graph returns tensors only")
            )
            leaf = None
        plain.append(leaf.dequantize() if isinstance(leaf, GroupwiseQuantTensor) else leaf)
    if all(leaf is None for leaf in plain):
        raise UnsupportedError("forward returns no tensor, so the graph would have no output")
    return pytree.tree_unflatten(plain, structure)


def _name(i: int, structure: pytree.TreeSpec) -> str:
    """`past_key_values` or `output 1`: where the i-th leaf stands."""
    paths = dict(leaf_paths(pytree.tree_unflatten(list(range(structure.num_leaves)), structure)))
    return ".".join(map(str, paths.get(i, ()))) or f"output {i}"
