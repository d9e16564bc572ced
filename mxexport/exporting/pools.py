"""Global average pools as the mean they are.

Torch computes `adaptive_avg_pool2d(x, 1)` as a mean over the last two axes and then restores the strides of a
channels-last `x` (one that was permuted) with `as_strided`. A graph has no strides: exported, that becomes a Gather of
indices made at run time, which says nothing about shapes to whoever reads the file.
"""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode

_AXES = {
    torch.nn.functional.adaptive_avg_pool2d: (-1, -2),
    torch.nn.functional.adaptive_avg_pool3d: (-1, -2, -3),
}


class GlobalPoolsAsMeans(TorchFunctionMode):
    """Within it `adaptive_avg_pool2d(x, 1)` and its sister in 3d call the mean themselves; other sizes as before."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        axes = _AXES.get(function)
        if axes and _all_one(*args[1:], **{name: value for name, value in kwargs.items() if name != "input"}):
            return (args[0] if args else kwargs["input"]).mean(axes, keepdim=True)
        return function(*args, **kwargs)


def _all_one(output_size) -> bool:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    return all(size == 1 for size in sizes)
