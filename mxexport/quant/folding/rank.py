"""Which rank an activation has, as far as a traced graph proves it.

BatchNorm1d takes [N, C] and [N, C, L], a linear layer any rank, Conv1d [N, C, L] and [C, L]. So the norm runs along
the outputs of the linear layer only if they have rank 2, along those of the convolution only if they have rank 3.

    rank_before(node)      from what made the value: flatten, view, permute, BatchNorm2d, …
    fails_otherwise(...)   from what becomes of it: with another rank a later layer would refuse the shape
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_KEEP_RANK = (
    *(nn.Linear, nn.Identity, nn.Dropout, nn.LayerNorm, nn.GroupNorm, _ConvNd, _BatchNorm, nn.Softmax),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.PReLU),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.CELU, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample),
)
_EXACT = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
_SAME = {
    *("relu", "relu_", "relu6", "gelu", "silu", "leaky_relu", "elu", "selu", "mish", "hardswish", "hardsigmoid"),
    *("sigmoid", "tanh", "softmax", "log_softmax", "dropout", "contiguous", "float", "half", "to", "abs", "exp"),
    *("sqrt", "neg", "clamp", "normalize", "layer_norm", "linear", "transpose", "swapaxes", "detach", "clone"),
    *("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
}
"""Functions and methods whose result has the rank of their first argument."""
_BINARY = {operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div}
_REDUCE = {"mean", "sum", "amax", "amin", "logsumexp"}


def input_of(node: fx.Node):
    """What a call is given, by position or as `input`; None where it is given more."""
    given = [*node.args, *node.kwargs.values()]
    return given[0] if len(given) == 1 and {*node.kwargs} <= {"input"} else None


def rank_before(node) -> int | None:
    """The rank of a node's value as what made it tells; None where that is not known."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "call_module":
        return _rank_of_module(node)
    if node.op not in ("call_function", "call_method"):
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    first = node.args[0] if node.args else node.kwargs.get("input")
    if node.target in _BINARY:
        ranks = [rank_before(a) for a in node.args if isinstance(a, fx.Node)]
        return max(ranks) if ranks and None not in ranks else None
    if name in ("cat", "concat", "concatenate") and isinstance(first, (list, tuple)):
        ranks = {rank_before(part) for part in first}
        return ranks.pop() if len(ranks) == 1 else None
    if name in _SAME:
        return rank_before(first)
    if name in ("view", "reshape", "permute"):
        sizes = node.args[1:]
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        return len(sizes) if not any(isinstance(size, fx.Node) and not _is_size(size) for size in sizes) else None
    if name == "flatten":
        start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
        to_end = len(node.args) < 3 and node.kwargs.get("end_dim", -1) == -1
        return start + 1 if to_end and isinstance(start, int) and start >= 0 else None
    if name in _REDUCE:
        return _rank_of_reduction(node, first)
    if name == "unsqueeze":
        return None if rank_before(first) is None else rank_before(first) + 1
    return None


def _is_size(node: fx.Node) -> bool:
    """One size of a shape: `x.size(0)`, `x.shape[0]`, or arithmetic of such."""
    if node.op == "call_method" and node.target == "size":
        return len(node.args) + len(node.kwargs) == 2
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return isinstance(node.args[1], int) and _is_shape(node.args[0])
    arithmetic = (operator.mul, operator.add, operator.sub, operator.floordiv)
    return node.target in arithmetic and all(_is_size(a) for a in node.args if isinstance(a, fx.Node))


def _is_shape(node) -> bool:
    if not isinstance(node, fx.Node):
        return False
    of_attribute = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    return of_attribute or (node.op == "call_method" and node.target == "size" and len(node.args) == 1)


def _rank_of_module(node: fx.Node) -> int | None:
    module = node.meta["module"]
    if type(module) in _EXACT:
        return _EXACT[type(module)]
    if type(module) is nn.Flatten:
        return module.start_dim + 1 if module.end_dim == -1 and module.start_dim >= 0 else None
    if type(module) is nn.Embedding:
        return None if rank_before(input_of(node)) is None else rank_before(input_of(node)) + 1
    return rank_before(input_of(node)) if isinstance(module, _KEEP_RANK) else None


def _rank_of_reduction(node: fx.Node, first) -> int | None:
    rank, dims = rank_before(first), node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if rank is None or dims is None:
        return None
    if len(node.args) > 2 or "keepdim" in node.kwargs:
        keep = node.args[2] if len(node.args) > 2 else node.kwargs["keepdim"]
        return (rank if keep else None) if isinstance(keep, bool) else None
    return rank - (len(dims) if isinstance(dims, (tuple, list)) else 1)


# --- what becomes of it -------------------------------------------------------------------------------------------


def fails_otherwise(node: fx.Node) -> bool:
    """Whether the model refuses every input of the rank that would put the norm behind this layer on another axis.

    The layer's value is given that rank, with sizes that its norm accepts, and what follows from it alone is run on
    shapes; all of it must take the rank that is hoped for. An earlier layer with a norm of its own may settle it, too.
    """
    linear = isinstance(node.meta["module"], nn.Linear)
    alike = [n for n in (node, *_same_rank_before(node)) if isinstance(n.meta["module"], nn.Linear) == linear]
    return any(_goes_to_norm(earlier) and _only_as_hoped(earlier) for earlier in alike)


def _same_rank_before(node: fx.Node) -> Iterator[fx.Node]:
    while node.op == "call_module" and isinstance(input_of(node), fx.Node):
        node = input_of(node)
        if node.op != "call_module" or not isinstance(node.meta["module"], _KEEP_RANK):
            return
        yield node


def _goes_to_norm(node: fx.Node) -> bool:
    layer, users = node.meta["module"], [u.meta["module"] for u in node.users if u.op == "call_module"]
    known = isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and len(layer.kernel_size) == 1)
    return known and any(isinstance(user, nn.BatchNorm1d) for user in users)


def _only_as_hoped(node: fx.Node) -> bool:
    layer = node.meta["module"]
    if not any(_refused(node, shape) is None for shape in _hoped(layer)):
        return False
    return all(_refused(node, shape) is not None for shape in _feared(layer))


def _hoped(layer: nn.Module) -> Iterator[tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        yield (2, layer.out_features)
    else:
        yield from ((2, layer.out_channels, length) for length in (64, 63, 128, 1000, 1024, 16, 8, 1))


def _feared(layer: nn.Module) -> Iterator[tuple[int, ...]]:
    if isinstance(layer, nn.Linear):  # [batch, sequence, features] with as many in the sequence as features
        yield from ((batch, layer.out_features, layer.out_features) for batch in (1, 2, 3, 8, layer.out_features))
    else:  # [channels, length] without a batch, as long as it has channels
        yield (layer.out_channels, layer.out_channels)


def _refused(start: fx.Node, shape: tuple[int, ...]) -> fx.Node | None:
    """The first node that cannot take what follows if `start` gives `shape`."""
    values = {start: torch.empty(shape, device="meta")}
    after = False
    for node in start.graph.nodes:
        after = after or node is start
        if not after or node is start or node.op in ("placeholder", "output", "get_attr"):
            continue
        inputs = node.all_input_nodes
        if not inputs or any(n not in values for n in inputs):
            continue
        try:
            values[node] = _shape_of(node, values)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return node
    return None


def _shape_of(node: fx.Node, values: dict):
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        if node.op == "call_module":
            module = node.meta["module"]
            tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            tensors = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
            return torch.func.functional_call(module, tensors, args, kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)
