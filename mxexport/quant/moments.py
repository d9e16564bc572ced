"""What every layer reads on average, from the batch norms before it: no data needed.

A batch norm leaves every channel with mean beta and deviation |gamma|; a Gaussian of those goes through what follows:
activations by quadrature, sums of branches as sums of means and variances, averages and padding as they are. Where
that ends (products, maxima, reshapes, code that cannot be traced) nothing is said.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mxexport.quant import batch_norm

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
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


@torch.no_grad()
def input_means(model: nn.Module) -> dict[str, Tensor]:
    """Layer name -> mean of each of its input channels, float64 [I]; layers of which it is not known are left out.

    `model` still has its batch norms; linear layers behind a flattened map get the mean of each input feature.
    """
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    walk = _Walk(copy.deepcopy(model, tensors))  # a forward may keep what it saw
    return {
        name: torch.stack(means).mean(0)
        for name, means in walk.means.items()
        if all(mean is not None for mean in means)
    }


class _Walk:
    """Every module's own forward is traced with its children as black boxes, which are then walked in turn."""

    def __init__(self, model: nn.Module):
        self.means: dict[str, list[Tensor | None]] = {}
        self.visited: set[str] = set()
        self.names = {module: name for name, module in model.named_modules()}  # shared modules by their first name
        pairs = batch_norm.find_pairs(model)
        self.on_features = {norm for layer, norm in pairs if isinstance(model.get_submodule(layer), nn.Linear)}
        for name, module in model.named_modules():
            if module._modules and name not in self.visited:
                self.inside(module, name, ())

    def module(self, module: nn.Module, name: str, args: tuple) -> object:
        """What `module` returns, as far as it is known."""
        x = args[0] if args else None
        if isinstance(module, _NORMS):
            return self.norm(module, name)
        if isinstance(module, _LAYERS):
            self.means.setdefault(self.names[module], []).append(_as_read(module, x))
            return None
        if module._modules:
            return self.inside(module, name, args)
        if not isinstance(x, Moments):
            return None
        if type(module) in _ACTIVATIONS:
            return x.through(_not_in_place(module))
        if type(module) is nn.Flatten:
            return x.flattened() if module.start_dim == 1 else None
        return x if type(module) in _KEEP_MEANS else None

    def norm(self, norm: nn.Module, name: str) -> Moments:
        if norm.affine:
            mean, variance = norm.bias.double(), norm.weight.double() ** 2
        else:
            variance = torch.ones(norm.num_features, dtype=torch.float64)
            mean = torch.zeros_like(variance)
        return Moments(mean, variance, last=name in self.on_features)

    def inside(self, module: nn.Module, prefix: str, args: tuple) -> object:
        self.visited.add(prefix)
        try:
            graph = _ChildrenAreLeaves().trace(module)
        except Exception:  # any code may run here: a forward that does not trace says nothing
            return None
        found, given = {}, list(args)
        for node in graph.nodes:
            if node.op == "placeholder":
                found[node] = given.pop(0) if given else None
            elif node.op == "call_module":
                child = f"{prefix}.{node.target}".lstrip(".")
                found[node] = self.module(module.get_submodule(node.target), child, _values(node.args, found))
            elif node.op in ("call_function", "call_method"):
                found[node] = _known(node.target, _values(node.args, found), _values(node.kwargs, found))
            elif node.op == "output":
                return _values(node.args[0], found)
        return None


class _ChildrenAreLeaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _values(structure: object, found: dict[fx.Node, object]) -> object:
    return fx.node.map_arg(structure, lambda node: found.get(node))


def _as_read(layer: nn.Module, x: object) -> Tensor | None:
    """The mean of each input channel, where channels lie on the axis that the layer sums over."""
    if not isinstance(x, Moments) or x.last != isinstance(layer, nn.Linear):
        return None
    inputs, channels = getattr(layer, "in_features", getattr(layer, "in_channels", 0)), len(x.mean)
    if inputs == channels:
        return x.mean
    return x.mean.repeat_interleave(inputs // channels) if x.last and inputs % channels == 0 else None


def _not_in_place(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: activation(x.clone())


def _known(target: object, args: tuple, kwargs: dict) -> Moments | None:
    try:
        return _call(target, args, kwargs)
    except Exception:  # arguments that are not known stand as None, and any function may be called with them
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
