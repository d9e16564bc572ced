"""Straight-through gradients written as arithmetic, for torch.func (grad, jvp, vmap, …) and forward-mode autograd.

The operators and autograd functions of this package have gradients for backward passes, which is what training needs
and is fast; torch's other transforms cannot use those. There the same value and the same gradient come from

    y - ((m' - m) + (s' - s) * slope)        m = x where it was not clipped, else 0;   ' = without gradient

whose brackets are exactly +0, so that y keeps its bits, the sign of zero included.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def active() -> bool:
    """Whether a transform of torch.func, or forward-mode autograd, is going on."""
    return in_torch_func() or forward_ad._current_level >= 0


def in_torch_func() -> bool:
    return torch._C._are_functorch_transforms_active()


def straight_through(
    y: Tensor, x: Tensor, inside: Tensor | None = None, scale: Tensor | None = None, slope: Tensor | None = None
) -> Tensor:
    """`y` with the gradient of `x` (finite; or where `inside`), and `slope` times that of `scale`, all of one shape."""
    passed = x if inside is None else torch.where(inside, x, 0.0)
    nothing = passed.detach() - passed
    if scale is not None:
        nothing = nothing + ((scale.detach() - scale) * slope).to(nothing.dtype)
    return y.detach() - nothing
