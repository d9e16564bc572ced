"""Parameters that hold NaN or Inf: a checkpoint that went wrong, which a file would carry on without a word."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def not_finite(module: torch.nn.Module) -> list[tuple[str, str]]:
    """(layer, what it holds) for every parameter with NaN or Inf and every buffer with NaN, in the order of the model.

    Inf in a buffer is left alone: masks of attention hold it on purpose.
    """
    notes = []
    for layer, name, tensor, is_buffer in _tensors(module):
        values = tensor.detach()
        nan, inf = int(values.isnan().sum()), 0 if is_buffer else int(values.isinf().sum())
        if nan or inf:
            held = " and ".join(f"{count:,} {kind}" for count, kind in ((nan, "NaN"), (inf, "Inf")) if count)
            what = f"{name} holds {held} among its {values.numel():,} values, and so does the file"
            notes.append((layer or "model", f"{what}; look at the checkpoint that was loaded"))
    return notes


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, str, torch.Tensor, bool]]:
    seen: set[int] = set()
    for layer, owner in module.named_modules():
        for tensors, is_buffer in ((owner._parameters, False), (owner._buffers, True)):
            for name, tensor in tensors.items():
                known = tensor is None or id(tensor) in seen or tensor.is_meta
                if known or not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
                    continue
                seen.add(id(tensor))
                yield layer, name, tensor, is_buffer
