"""Products that a layer's own forward calls on its weight: `F.conv2d(pad(x), scaled(self.weight), self.bias)`.

`Products` is a mode that sees every torch function in a forward and knows which tensors come from the weight.
`observe(layer)` runs the forward of a copy on made-up inputs and says what it calls, or why that cannot be quantized.
"""

from __future__ import annotations

import copy
import dis
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

PRODUCTS: dict[str, Callable] = {
    "linear": F.linear,
    "conv1d": F.conv1d,
    "conv2d": F.conv2d,
    "conv3d": F.conv3d,
    "conv_transpose1d": F.conv_transpose1d,
    "conv_transpose2d": F.conv_transpose2d,
    "conv_transpose3d": F.conv_transpose3d,
}
"""Functions of (input, weight, bias, …) that are quantized where a layer's own code calls them."""

_NAME = {function: name for name, function in PRODUCTS.items()}


@dataclass(frozen=True)
class Observed:
    """What a forward calls on its weight.

    `product`: name of the function. `weight_shape`: of the weight as the call sees it, and whether that is the layer's
    own (`own_weight`), as it is for the bias (`own_bias`). `input_length`: size of the input's axis that is summed
    over. `returned`: the result of one product is what forward returns.
    """

    product: str
    weight_shape: torch.Size
    input_length: int
    own_weight: bool
    own_bias: bool
    returned: bool


class Products(TorchFunctionMode):
    """Within it `multiply(name, function, args, kwargs)` takes the place of products on what comes from `weight`."""

    def __init__(self, weight: Tensor, multiply: Callable):
        super().__init__()
        self.from_weight, self.multiply = {id(weight): weight}, multiply

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _NAME.get(function)
        if name and id(args[1] if len(args) > 1 else kwargs.get("weight")) in self.from_weight:
            return self.multiply(name, function, args, kwargs)
        result = function(*args, **kwargs)
        self.follow(function, args, kwargs, result)
        return result

    def follow(self, function, args: tuple, kwargs: dict, result) -> None:
        """Remember results that come from the weight; kept alive, so that no other tensor takes their place."""
        if any(id(t) in self.from_weight for t in tensors_of(args, kwargs)):
            self.from_weight |= {id(t): t for t in tensors_of((result,), {})}


def tensors_of(args: tuple, kwargs: dict) -> Iterator[Tensor]:
    for value in itertools.chain(args, kwargs.values()):
        yield from (t for t in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(t, Tensor))


@dataclass
class _Seen:
    """One run: (name, input, weight, bias) of the products, functions that mix weight and input, results, and the
    layer's own weight and bias."""

    calls: list[tuple] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)
    output: object = None
    weight: Tensor | None = None
    bias: Tensor | None = None


class _Watching(Products):
    def __init__(self, weight: Tensor, x: Tensor):
        super().__init__(weight, self._note)
        self.seen, self.from_input = _Seen(), {id(x): x}

    def _note(self, name: str, function, args: tuple, kwargs: dict) -> Tensor:
        result = function(*args, **kwargs)
        self.seen.calls.append((name, *product_arguments(args, kwargs)))
        self.seen.results.append(result)
        self.from_input[id(result)] = result
        return result

    def follow(self, function, args: tuple, kwargs: dict, result) -> None:
        given, made = list(tensors_of(args, kwargs)), {id(t): t for t in tensors_of((result,), {})}
        weight, x = (any(id(t) in known for t in given) for known in (self.from_weight, self.from_input))
        if weight and x and made:
            self.seen.mixed.append(getattr(function, "__name__", str(function)))
        if x:
            self.from_input |= made
        elif weight:
            self.from_weight |= made


def product_arguments(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor, Tensor | None]:
    """(input, weight, bias) of a call of one of `PRODUCTS`."""
    given = [*args[:3], None, None, None]
    return tuple(kwargs.get(name, value) for name, value in zip(("input", "weight", "bias"), given, strict=False))


def with_product_arguments(args: tuple, kwargs: dict, **new) -> tuple[tuple, dict]:
    """The call with these of its input, weight and bias."""
    places = {"input": 0, "weight": 1, "bias": 2}
    args, kwargs = list(args), dict(kwargs)
    for name, value in new.items():
        if len(args) > places[name]:
            args[places[name]] = value
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def observe(layer: nn.Module, forward: Callable | None = None) -> Observed | str:
    """What `layer` (a subclass of a linear layer or a convolution) calls, or why that cannot be quantized, in words.

    `forward`: the function to run in the place of that of its class.
    """
    seen = run_on_inputs(layer, forward)
    if isinstance(seen, str):
        return f"its forward does not run on inputs made for it ({seen})"
    if seen.mixed:
        return f"its weight meets the input in {seen.mixed[0]}; quantized are {', '.join(PRODUCTS)}"
    names = {name for name, *_ in seen.calls}
    if not names:
        return f"it calls no product on its weight that can be seen ({', '.join(PRODUCTS)})"
    if len(names) > 1:
        return f"it calls several kinds of products on its weight ({', '.join(sorted(names))})"
    (name,) = names
    _, x, weight, _ = seen.calls[0]
    own_weight, own_bias = (all(call[i] is own for call in seen.calls) for i, own in ((2, seen.weight), (3, seen.bias)))
    axis = -1 if name == "linear" else 1 - weight.ndim  # its channels, with a batch or without
    returned = len(seen.results) == 1 and seen.output is seen.results[0]
    return Observed(name, weight.shape, x.shape[axis], own_weight, own_bias, returned)


def run_on_inputs(layer: nn.Module, forward: Callable | None = None) -> _Seen | str:
    """One run of a copy of `layer` in eval mode on the first made-up input that it takes, or why it takes none."""
    failure = "no input known for it"
    with torch.inference_mode(False), torch.no_grad():
        copied = copy.deepcopy(layer).eval()
        for shape in _shapes(layer):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(copied.weight)
            weight = copied.weight
            watching = _Watching(weight, x)
            try:
                with watching:
                    output = (forward or type(copied).forward)(copied, x)
            except Exception as error:  # any code may run here
                failure = str(error).partition("\n")[0] or type(error).__name__
                continue
            watching.seen.output, watching.seen.weight, watching.seen.bias = output, weight, copied.bias
            return watching.seen
    return failure


def _shapes(layer: nn.Module) -> Iterator[tuple[int, ...]]:
    if isinstance(layer, nn.Linear):
        yield from ((2, layer.in_features), (2, 3, layer.in_features), (2, 3, 5, layer.in_features))
        return
    if not isinstance(layer, _ConvNd):
        return
    reach = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    for extra in (3, 4, 16, 64):
        yield (2, layer.in_channels, *(size + extra for size in reach))
    yield (2, *(size + 3 for size in reach), layer.in_channels)  # channels last


def mentions_of_product(layer: nn.Module, known: type) -> int:
    """How often the code of the classes before `known` names the weight, or a method of `known` that multiplies it."""
    classes = type(layer).__mro__[: type(layer).__mro__.index(known)]
    functions = [f for kind in classes for f in vars(kind).values() if isinstance(f, FunctionType)]
    named = [i.argval for f in functions if f.__name__ != "__init__" for i in dis.get_instructions(f)]
    return sum(name in ("weight", "forward", "_conv_forward") for name in named)
