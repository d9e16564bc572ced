"""Layers that only subclass a linear layer or a convolution and compute in a forward of their own.

    class Same(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(pad(x), scaled(self.weight), self.bias, self.stride)

Their forward stays as it is; the products that it calls on the weight take their input and the weight, as the call
sees them, quantized.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mxexport.errors import FormatError, UnsupportedError
from mxexport.quant.layers.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
)
from mxexport.quant.layers.layer import QuantLayer, apply
from mxexport.quant.layers.linear import QuantLinear
from mxexport.quant.layers.products import (
    Observed,
    Products,
    observe,
    product_arguments,
    run_on_inputs,
    with_product_arguments,
)

_LIKE: dict[str, type[QuantLayer]] = {
    "linear": QuantLinear,
    "conv1d": QuantConv1d,
    "conv2d": QuantConv2d,
    "conv3d": QuantConv3d,
    "conv_transpose1d": QuantConvTranspose1d,
    "conv_transpose2d": QuantConvTranspose2d,
    "conv_transpose3d": QuantConvTranspose3d,
}
"""Product -> the layer whose axes it has."""

FUNCTIONS: dict[type[nn.Module], str] = {
    base: product for product, kind in _LIKE.items() for base in kind.__bases__ if not issubclass(base, QuantLayer)
}
"""Float layer -> the product it calls."""

_QUANTIZE_THEMSELVES = {"brevitas", "torchao", "mxexport"}
"""Packages whose layers are no float layers."""


class FunctionalLayer(QuantLayer):
    """What such layers become: a class made for each kind, that computes as the float layer around its products."""

    float_kind: type[nn.Module]
    observed: Observed
    computed: tuple[str, ...] = ()
    """While the model is exported: buffers that hold the weights its products see, in order."""
    watcher: Callable[[Tensor], None] | None = None
    """Told of the weight of every product before it is quantized."""

    def forward(self, *args, **kwargs):
        calls = iter(self.computed)

        def multiply(name: str, function, args: tuple, kwargs: dict) -> Tensor:
            x, weight, bias = product_arguments(args, kwargs)
            if name != self.observed.product:
                raise UnsupportedError(
                    f"{type(self).__name__}: its forward calls {name} on its weight, and it was converted as one that "
                    f"calls {self.observed.product}; write two layers, or exclude it from quantize_model"
                )
            if self.watcher is not None:
                self.watcher(weight)
            if (stored := next(calls, None)) is not None:
                weight = getattr(self, stored)
            new = {"input": apply(self.input_quant, x), "weight": apply(self.weight_quant, weight)}
            if bias is not None and bias is self.bias:
                new["bias"] = self.quant_bias()
            args, kwargs = with_product_arguments(args, kwargs, **new)
            return function(*args, **kwargs)

        with Products(self.weight, multiply):
            return super().forward(*args, **kwargs)

    def seen_weights(self) -> list[Tensor]:
        """The weights as the products of one forward see them, without gradient."""
        if self.observed.own_weight:
            return [self.weight]
        seen = run_on_inputs(self, self.float_kind.forward)
        if isinstance(seen, str):
            raise UnsupportedError(f"{type(self).__name__}: its forward does not run on inputs made for it ({seen})")
        return [weight for _, _, weight, _ in seen.calls]

    def weight_of(self, name: str) -> Tensor:
        return self.seen_weights()[0]

    def weight_shape(self, name: str) -> torch.Size:
        return self.observed.weight_shape

    def _input_length(self) -> int:
        return self.observed.input_length

    def _set_bias_format(self, bias_format: str) -> None:
        if bias_format == "int32" and not (self.observed.own_weight and self.observed.own_bias):
            raise FormatError(
                f"an integer bias needs the weight and the bias of the layer itself, and {self.float_kind.__name__} "
                'computes its own; give this layer bias_format="float"'
            )
        super()._set_bias_format(bias_format)

    @classmethod
    def from_float(cls, layer: nn.Module, *formats) -> QuantLayer:
        observed = observe(layer)
        with_observed = cls.__new__(cls)
        with_observed.__dict__.update(layer.__dict__, observed=observed)
        return super().from_float(with_observed, *formats)

    def __reduce__(self):
        """The class is made anew where a copy or a file is read."""
        return _rebuild, (self.float_kind, self.observed.product), self.__getstate__()


def may_be_functional(layer: nn.Module) -> bool:
    """Whether this is a user's own subclass of a linear layer or a convolution."""
    libraries = {kind.__module__.partition(".")[0] for kind in type(layer).__mro__ if kind.__module__ != "builtins"}
    own = type(layer).__module__.partition(".")[0] != "torch" and not libraries & _QUANTIZE_THEMSELVES
    return isinstance(layer, (nn.Linear, _ConvNd)) and own and "forward" not in vars(layer)


def functional_kind(layer: nn.Module) -> type[FunctionalLayer] | str:
    """What such a layer becomes, or why it cannot, in words."""
    observed = observe(layer)
    return observed if isinstance(observed, str) else _made(type(layer), observed.product)


@functools.cache
def _made(float_kind: type[nn.Module], product: str) -> type[FunctionalLayer]:
    like = _LIKE[product]
    attributes = {name: getattr(like, name) for name in ("weight_axis", "input_axis", "channel_axis")}
    attributes |= {"float_kind": float_kind, "__module__": float_kind.__module__, "__doc__": float_kind.__doc__}
    return types.new_class(
        f"Quant{float_kind.__name__}", (FunctionalLayer, float_kind), {}, lambda n: n.update(attributes)
    )


def _rebuild(float_kind: type[nn.Module], product: str) -> FunctionalLayer:
    kind = _made(float_kind, product)
    return kind.__new__(kind)
