"""What every layer reads on average, from the batch norms before it: no data needed.

A batch norm leaves every channel with mean beta and deviation |gamma|; a Gaussian of those goes through what follows:
activations by quadrature, sums of branches as sums of means and variances, averages and padding as they are. Where
that ends (products, maxima, reshapes, code that cannot be traced) nothing is said.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from mxexport.quant.folding.proof import plan_folds
from mxexport.quant.post_training.known_moments import Moments, after_call, after_module

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@torch.no_grad()
def input_means(model: nn.Module, pairs: Iterable[tuple[str, str]] | None = None) -> dict[str, Tensor]:
    """Layer name -> mean of each of its input channels, float64 [I]; layers of which it is not known are left out.

    `model` still has its batch norms; `pairs`: (layer, batch norm) proved to run along the same axis (None: those
    of `plan_folds`). Linear layers behind a flattened map get the mean of each input feature.
    """
    pairs = plan_folds(model).pairs if pairs is None else pairs
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    walk = _Walk(copy.deepcopy(model, tensors), pairs)  # a forward may keep what it saw
    return {
        name: torch.stack(means).mean(0)
        for name, means in walk.means.items()
        if all(mean is not None for mean in means)
    }


class _Walk:
    """Every module's own forward is traced with its children as black boxes, which are then walked in turn."""

    def __init__(self, model: nn.Module, pairs: Iterable[tuple[str, str]]):
        self.means: dict[str, list[Tensor | None]] = {}
        self.visited: set[str] = set()
        self.names = {module: name for name, module in model.named_modules()}  # shared modules by their first name
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
        return after_module(module, x) if isinstance(x, Moments) else None

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
                found[node] = after_call(node.target, _values(node.args, found), _values(node.kwargs, found))
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
