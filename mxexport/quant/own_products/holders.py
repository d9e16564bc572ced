"""Modules whose own code multiplies: the same modules, their products computed by layers they hold.

    class Block(nn.Module):
        def forward(self, x):
            …
            return torch.softmax(q @ k.transpose(-2, -1), -1) @ v

A block becomes a `QuantBlock` that holds `product_1` and `product_2`, in the order of its calls.
"""

from __future__ import annotations

import functools
import types

from torch import Tensor, nn

from mxexport.errors import FormatError, UnsupportedError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant.layer_formats import FormatTable
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.own_products.calls import KINDS, OF_A_LAYER, ActivationProducts, Call, code_of
from mxexport.quant.quantizers.spec import QuantSpec


class ProductHolder(nn.Module):
    """What such modules become: a class made for each kind, that computes as the float module around its products.

    Layers are made when a product is first called, or beforehand where it is known what a forward calls.
    """

    float_kind: type[nn.Module]
    _product_table: FormatTable
    _product_names: tuple[str, ...]
    """The module's names in the model; entries of the table go by them."""
    _held: tuple[str, ...]
    multiplies_activations: bool
    """Whether products of two activations are computed by layers, too, and not those with layers' weights alone."""
    products_in_float: dict[str, str]
    """Product (the attribute, or the function) that stays as it is -> why."""

    def held_products(self) -> dict[str, QuantLayer]:
        """Attribute -> layer, in the order of calls."""
        return {name: self._modules[name] for name in self._held}

    def add_product(self, name: str, kind: str) -> QuantLayer:
        """Hold a layer for the product called `name`. Raises FormatError for a format that products cannot have."""
        if hasattr(self, name):
            raise UnsupportedError(
                f"{self._product_names[0]}: {type(self).__name__} has an attribute {name!r}, which is what its product "
                "is to be called; rename that attribute, or exclude the module"
            )
        names = self._names_of(name)
        formats, pattern = self._product_table.formats_of(names), self._product_table.excluding_pattern(names)
        activation = None if pattern is not None else formats.activation
        if activation is None:
            why = "no format" if pattern is None else f"excluded by {pattern!r}"
            self.products_in_float[name] = why
        try:
            layer = KINDS[kind](activation, scale_rule=formats.scale_rule)
        except FormatError as error:
            raise FormatError(f"{names[0]}: {error}") from None
        setattr(self, name, layer.train(self.training))
        self._held = (*self._held, name)
        return layer

    def scale_rule_of(self, name: str) -> ScaleRule:
        """The rule that was asked for the product called `name`."""
        return self._product_table.formats_of(self._names_of(name)).scale_rule

    def _names_of(self, product: str) -> list[str]:
        return [f"{name}.{product}".lstrip(".") for name in self._product_names]

    def __reduce__(self):
        """The class is made anew where a copy or a file is read."""
        return _rebuild, (self.float_kind,), self.__getstate__()


def hold_products(module: nn.Module, names: list[str], table: FormatTable, activations: bool = True) -> ProductHolder:
    """`module` itself, from now on of the class that its kind becomes."""
    module.__class__, module.multiplies_activations = _made(type(module)), activations
    module._product_table, module._product_names, module._held, module.products_in_float = table, tuple(names), (), {}
    return module


def forward_with_products(holder: ProductHolder, args: tuple, kwargs: dict):
    """The float module's forward; each product of activations is computed by the layer of its turn."""
    turns = dict.fromkeys(KINDS, 0)

    def multiply(call: Call) -> Tensor | None:
        if call.kind != OF_A_LAYER and not holder.multiplies_activations:
            return None
        if call.why_float is not None:
            holder.products_in_float[call.name] = call.why_float
            return None
        if call.kind == OF_A_LAYER:
            return call.run(None)
        turns[call.kind] += 1
        name = f"{call.kind}_{turns[call.kind]}"
        return call.run(holder._modules[name] if name in holder._held else _added_later(holder, name, call))

    with code_of(holder), ActivationProducts(holder, multiply):
        return holder.float_kind.forward(holder, *args, **kwargs)


def _added_later(holder: ProductHolder, name: str, call: Call) -> QuantLayer:
    formats = holder._product_table.formats_of(holder._names_of(name))
    if isinstance(formats.activation, QuantSpec) and formats.activation.source != "dynamic":
        raise UnsupportedError(
            f"{holder._product_names[0] or type(holder).__name__}: its forward calls {call.name} as {name}, which has "
            f"no {formats.activation.source} scales: give quantize_model example_inputs on which it calls all of its "
            "products"
        )
    return holder.add_product(name, call.kind)


@functools.cache
def _made(float_kind: type[nn.Module]) -> type[ProductHolder]:
    @functools.wraps(float_kind.forward)
    def forward(self, *args, **kwargs):
        return forward_with_products(self, args, kwargs)

    attributes = {"float_kind": float_kind, "forward": forward}
    attributes |= {"__module__": float_kind.__module__, "__doc__": float_kind.__doc__}
    return types.new_class(
        f"Quant{float_kind.__name__}", (ProductHolder, float_kind), {}, lambda n: n.update(attributes)
    )


def _rebuild(float_kind: type[nn.Module]) -> ProductHolder:
    kind = _made(float_kind)
    return kind.__new__(kind)
