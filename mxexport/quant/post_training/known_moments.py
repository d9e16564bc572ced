"""Mean and variance of channels, and what modules and functions make of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ACTIVATIONS = {
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
}
_KEEP_MEANS = {
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Upsample),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
}
_ACTIVATION_CALLS = {
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp, torch.clip, F.relu, F.relu6, F.hardtanh),
    *(F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.sigmoid, F.tanh),
    *("relu", "relu_", "sigmoid", "tanh", "clamp", "clamp_", "clip"),
}
_KEEPING_CALLS = {
    *(F.dropout, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.interpolate, "contiguous", "clone", "detach"),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
_ADD_CALLS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_FLATTEN_CALLS = {torch.flatten, "flatten"}
_MEAN_CALLS = {torch.mean, "mean"}
_RESHAPE_CALLS = {torch.reshape, "view", "reshape"}


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance (float64, [C]) of every channel; `last`: the channels are the last axis, else axis 1.

    `last` after a flattening stands for [C * positions], channels outermost.
    """

    mean: Tensor
    variance: Tensor
    last: bool = False

    def through(self, function: Callable[[Tensor], Tensor]) -> Moments:
        """Of function(x), elementwise, for Gaussian x."""
        z = torch.linspace(-8, 8, 4097, dtype=torch.float64, device=self.mean.device)
        density = torch.exp(-z * z / 2) * ((z[1] - z[0]) / math.sqrt(2 * math.pi))
        y = function(self.mean[:, None] + self.variance.sqrt()[:, None] * z)
        mean = (y * density).sum(1)
        return Moments(mean, ((y - mean[:, None]) ** 2 * density).sum(1), self.last)

    def __add__(self, other: Moments) -> Moments | None:
        if self.last != other.last or self.mean.shape != other.mean.shape:
            return None
        return Moments(self.mean + other.mean, self.variance + other.variance, self.last)

    def flattened(self) -> Moments:
        return Moments(self.mean, self.variance, True)


def after_module(module: nn.Module, x: Moments) -> Moments | None:
    """What a module without children makes of `x`."""
    if type(module) in _ACTIVATIONS:
        return x.through(lambda values: module(values.clone()))  # it may work in place
    if type(module) is nn.Flatten:
        return x.flattened() if module.start_dim == 1 else None
    return x if type(module) in _KEEP_MEANS else None


def after_call(target: object, args: tuple, kwargs: dict) -> Moments | None:
    """What a function, or the method of that name, makes of its arguments; those that are not known are None."""
    try:
        return _call(target, args, kwargs)
    except Exception:  # any function may be called with what is not known
        return None


def _call(target: object, args: tuple, kwargs: dict) -> Moments | None:
    """What a function, or the method of that name, returns."""
    x = args[0] if args else kwargs.get("input")
    if target in _ADD_CALLS and len(args) == 2 and not kwargs:
        return args[0] + args[1] if all(isinstance(arg, Moments) for arg in args) else None
    if target is torch.cat:
        return _concatenated(x, args[1] if len(args) > 1 else kwargs.get("dim", 0))
    if not isinstance(x, Moments):
        return None
    if target in _ACTIVATION_CALLS and not any(isinstance(arg, Moments) for arg in (*args[1:], *kwargs.values())):
        function = target if callable(target) else getattr(Tensor, target)
        rest = {name: value for name, value in kwargs.items() if name not in ("input", "inplace")}
        return x.through(lambda values: function(values.clone(), *args[1:], **rest))
    if target in _FLATTEN_CALLS:
        return x.flattened() if (*args[1:], *kwargs.values()) in ((1,), (1, -1)) else None
    if target in _RESHAPE_CALLS:
        return x.flattened() if len(args) == 3 and args[2] == -1 and not x.last else None  # view(x.size(0), -1)
    if target in _MEAN_CALLS:
        return _averaged(x, *args[1:], **kwargs)
    return x if target in _KEEPING_CALLS else None


def _averaged(x: Moments, dim: object = None, keepdim: bool = False, **_) -> Moments | None:
    if x.last or not isinstance(dim, (list, tuple)) or sorted(dim) not in ([2, 3], [-2, -1]):
        return None
    return x if keepdim else x.flattened()


def _concatenated(parts: object, dim: int) -> Moments | None:
    if dim != 1 or not isinstance(parts, (list, tuple)):
        return None
    if not all(isinstance(part, Moments) and not part.last for part in parts):
        return None
    return Moments(torch.cat([p.mean for p in parts]), torch.cat([p.variance for p in parts]))
