"""Products that a model's own code calls: of two activations (`q @ k.transpose(-2, -1)`, `torch.einsum`,
`F.scaled_dot_product_attention`), and of a quantized layer's weight (`F.linear(x, self.qkv.weight)`).

`ActivationProducts` is a mode that sees every torch function in a forward and knows which tensors come from parameters
and constants alone. Several of them may be active, one for each module around a call; a call is seen by that of the
innermost module only.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mxexport.quant.layers.activation import QuantMatMul
from mxexport.quant.layers.dot_product_attention import QuantScaledDotProductAttention
from mxexport.quant.layers.linear import QuantLinear
from mxexport.quant.layers.products import tensors_of
from mxexport.quant.own_products.einsum import as_matmul

KINDS: dict[str, type[QuantMatMul] | type[QuantScaledDotProductAttention]] = {
    "attention": QuantScaledDotProductAttention,
    "product": QuantMatMul,
}
"""Kind of a call -> the layer that computes it quantized."""
OF_A_LAYER = "layer"
"""Kind of a product with the weight of a layer that is there already."""


@dataclass(frozen=True)
class Call:
    """`name`: of the function. `why_float`: why it cannot be quantized, in words. `run`: computes it with a layer of
    its kind (`OF_A_LAYER`: with the one whose weight it takes, whatever is given)."""

    kind: str
    name: str
    why_float: str | None
    run: Callable[[nn.Module], Tensor]


class ActivationProducts(TorchFunctionMode):
    """Within it `multiply(call)` takes the place of products in the code of `owner` (None: of any module); where it
    returns None they are computed as they are."""

    def __init__(self, owner: nn.Module, multiply: Callable[[Call], Tensor | None], any_owner: bool = False):
        super().__init__()
        self.owner, self.multiply, self.any_owner = owner, multiply, any_owner
        self.constants: dict[int, Tensor] = {id(b): b for b in owner.buffers()}
        """Tensors made of parameters, buffers and constants alone; kept alive, so that no other takes their place."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _READERS and (self.any_owner or innermost() is self.owner):
            read, name = _READERS[function]
            call = read(name, args, kwargs, self)
            result = None if call is None else self.multiply(call)
            if result is not None:
                return result
        result = function(*args, **kwargs)
        self.follow(function, args, kwargs, result)
        return result

    def is_constant(self, x: Tensor) -> bool:
        return isinstance(x, nn.Parameter) or id(x) in self.constants

    def follow(self, function, args: tuple, kwargs: dict, result) -> None:
        """Numbers (indices, positions) are no activations, and what is looked up by them is one."""
        made = [t for t in tensors_of((result,), {}) if t.is_floating_point()]
        given = [t for t in tensors_of(args, kwargs) if t.is_floating_point()]
        given = given[: 1 if function in _AS_ANOTHER else 0 if function in _OF_ITS_SHAPE else None]
        if function is not F.embedding and all(map(self.is_constant, given)):
            self.constants.update((id(t), t) for t in made)
        else:
            for t in (*made, *(given[:1] if function in _WRITES else ())):
                self.constants.pop(id(t), None)


_WRITES = {Tensor.__setitem__, Tensor.copy_, torch.Tensor.index_copy_, Tensor.scatter_, Tensor.masked_scatter_}

_AS_ANOTHER = {Tensor.to, Tensor.type_as, Tensor.expand_as, Tensor.view_as, Tensor.reshape_as}
"""Functions that take values from their first argument alone."""
_OF_ITS_SHAPE = {
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.rand_like, torch.randn_like),
    *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor),
}
"""Functions that take no value from a tensor."""


# --- whose code runs ------------------------------------------------------------------------------------------

_running = threading.local()


def _owners() -> list[nn.Module]:
    if not hasattr(_running, "owners"):
        _running.owners = []
    return _running.owners


def innermost() -> nn.Module | None:
    """The module whose code runs now, of those that say so."""
    owners = _owners()
    return owners[-1] if owners else None


@contextlib.contextmanager
def code_of(module: nn.Module) -> Iterator[None]:
    """Within it products are those of `module`."""
    owners = _owners()
    owners.append(module)
    try:
        yield
    finally:
        owners.pop()


def say_whose_code(module: nn.Module) -> tuple:
    """From now on `module` says so when it runs, by hooks (returned)."""
    return (
        module.register_forward_pre_hook(_begin, prepend=True),
        module.register_forward_hook(_end, always_call=True),
    )


def _begin(module: nn.Module, args) -> None:
    _owners().append(module)


def _end(module: nn.Module, args, output) -> None:
    _owners().pop()


# --- reading calls --------------------------------------------------------------------------------------------

_SECOND = ("other", "mat2", "tensor2")


def _matmul(name: str, args: tuple, kwargs: dict, seen: ActivationProducts) -> Call | None:
    named = [kwargs[n] for n in ("input", "self", *_SECOND) if n in kwargs]
    operands = [*args, *named]
    if len(operands) != 2 or not all(isinstance(t, Tensor) for t in operands):
        return None
    a, b = operands
    why = "is written into a tensor given as out" if kwargs.get("out") is not None else _why_float(a, b, seen)
    return Call("product", name, why, lambda layer: layer(a, b))


def _matmul_from_behind(name: str, args: tuple, kwargs: dict, seen: ActivationProducts) -> Call | None:
    return _matmul(name, args[::-1], kwargs, seen)


def _baddbmm(name: str, args: tuple, kwargs: dict, seen: ActivationProducts) -> Call | None:
    given = dict(zip(("input", "batch1", "batch2"), args, strict=False)) | kwargs
    a, b, alpha, beta = given["batch1"], given["batch2"], given.get("alpha", 1), given.get("beta", 1)

    def run(layer: nn.Module) -> Tensor:
        product = layer(a, b) if alpha == 1 else layer(a, b) * alpha
        return product if beta == 0 else product + (given["input"] if beta == 1 else given["input"] * beta)

    return Call("product", name, _why_float(a, b, seen), run)


def _einsum(name: str, args: tuple, kwargs: dict, seen: ActivationProducts) -> Call | None:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    tensors = [t for t in tensors_of(tuple(operands), {}) if t.is_floating_point() and not seen.is_constant(t)]
    if len(tensors) < 2:
        return None
    if not isinstance(equation, str) or len(operands) != 2:
        return Call("product", name, "has no two operands behind an equation", lambda layer: None)
    a, b = operands
    why = as_matmul(equation, a, b)
    return Call("product", f"{name} {equation}", why, lambda layer: as_matmul(equation, a, b, layer))


def _attention(name: str, args: tuple, kwargs: dict, seen: ActivationProducts) -> Call:
    return Call("attention", name, None, lambda layer: layer(*args, **kwargs))


def _of_a_layer(name: str, args: tuple, kwargs: dict, seen: ActivationProducts) -> Call | None:
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    weight, bias = given["weight"], given.get("bias")
    if not isinstance(weight, nn.Parameter):  # what a quantized layer multiplies by is none
        return None
    layers = ((n, m) for n, m in seen.owner.named_modules() if isinstance(m, QuantLinear) and m.weight is weight)
    place, layer = next(layers, (None, None))
    if layer is None or layer is seen.owner:
        return None
    why = None
    if layer.bias is not None and bias is not layer.bias:
        why = f"takes the weight of {place} and {'no' if bias is None else 'another'} bias"

    def run(_: nn.Module | None) -> Tensor:
        with code_of(layer):
            product = layer(given["input"])
        return product if bias is layer.bias else product + bias

    return Call(OF_A_LAYER, name, why, run)


def _why_float(a: Tensor, b: Tensor, seen: ActivationProducts) -> str | None:
    if not (a.is_floating_point() and b.is_floating_point()):
        return "has no two floating-point operands"
    if seen.is_constant(a) or seen.is_constant(b):
        return "takes parameters or constants"
    return "takes a vector" if min(a.ndim, b.ndim) < 2 else None


_READERS: dict[Callable, tuple[Callable[..., Call | None], str]] = {
    **dict.fromkeys((torch.matmul, torch.linalg.matmul, Tensor.matmul, Tensor.__matmul__), (_matmul, "matmul")),
    Tensor.__rmatmul__: (_matmul_from_behind, "matmul"),
    **dict.fromkeys((torch.bmm, Tensor.bmm), (_matmul, "bmm")),
    **dict.fromkeys((torch.mm, Tensor.mm), (_matmul, "mm")),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), (_baddbmm, "baddbmm")),
    torch.einsum: (_einsum, "einsum"),
    F.scaled_dot_product_attention: (_attention, "scaled_dot_product_attention"),
    F.linear: (_of_a_layer, "linear"),
}
"""Function -> what reads a call of it (None where it is neither a product of two activations nor one with a layer's
weight), and its name."""

NAMES = frozenset(name for read, name in _READERS.values() if read is not _of_a_layer)
"""What code names that calls a product of two activations; operators have no name."""
