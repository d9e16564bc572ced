"""Which modules hold their products of activations quantized, and what is to be said of those that do not."""

from __future__ import annotations

from collections import Counter

from torch import nn

from mxexport.quant.layer_formats import FormatTable
from mxexport.quant.layers.activation import QuantMatMul
from mxexport.quant.layers.functional import FunctionalLayer
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.layers.linear import QuantLinear, QuantTransposedLinear
from mxexport.quant.own_products.calls import say_whose_code
from mxexport.quant.own_products.holders import ProductHolder, hold_products
from mxexport.quant.own_products.observed import ObservedProducts
from mxexport.quant.own_products.scan import may_multiply_weights, products_named, why_not_watched

_MULTIPLY = (QuantMatMul, QuantTransposedLinear, FunctionalLayer)
"""Quantized layers that call products in their own code."""


class ProductConversion:
    """What becomes of the products in the code of a model's modules.

    names: module -> its names, before anything was converted. observed: name -> what it called on example inputs; None
    where there were none, so that its code has to say what it may call.
    """

    def __init__(self, names: dict[nn.Module, list[str]], observed: dict[str, ObservedProducts] | None):
        self.names, self.observed = names, observed

    def left_in_float(self) -> dict[str, str]:
        """Module -> what is to be said where no products are quantized."""
        return {name: f"{what} in float; attention=True quantizes them" for name, what in self._found().items()}

    def convert(self, model: nn.Module, table: FormatTable) -> dict[str, str]:
        """Change the modules of `model` that multiply activations into holders; returns what stays in float, and why.

        Raises:
            FormatError: a format that products cannot have.
        """
        kept = set(model.modules())
        found, left = self._found(), {}
        for module, names in self.names.items():
            if names[0] not in found:
                continue
            if (why := _why_left(module, names, table, module in kept)) is not None:
                left[names[0]] = f"{found[names[0]]} in float: {why}"
                continue
            holder = hold_products(module, names, table)
            for kind, count in self._kinds(names[0]).items():
                for number in range(count):
                    holder.add_product(f"{kind}_{number + 1}", kind)
        return left

    def hold_weights(self, model: nn.Module, table: FormatTable) -> None:
        """Let modules whose own code multiplies by the weights of layers they hold do so by these layers."""
        for module in list(model.modules()):
            if isinstance(module, (ProductHolder, QuantLayer)) or not may_multiply_weights(module):
                continue
            if any(isinstance(m, QuantLinear) for m in module.modules()) and why_not_watched(module) is None:
                hold_products(module, self.names[module], table, activations=False)
        _tell_apart(model)

    def _kinds(self, name: str) -> Counter[str]:
        return Counter() if self.observed is None else self.observed[name].kinds

    def _found(self) -> dict[str, str]:
        """Module -> its products in words."""
        if self.observed is not None:
            quantized = {names[0] for module, names in self.names.items() if isinstance(module, QuantLayer)}
            return {n: _counted(p) for n, p in self.observed.items() if p.names and n not in quantized}
        named = {names[0]: products_named(module) for module, names in self.names.items()}
        what = "products of activations, if its code calls any ({}), are"
        return {name: what.format(", ".join(found)) for name, found in named.items() if found}


def _counted(products: ObservedProducts) -> str:
    total = sum(products.names.values())
    counts = ", ".join(f"{count} {name}" if count > 1 else name for name, count in products.names.items())
    return f"{total} product{'s' if total > 1 else ''} of activations ({counts})"


def _why_left(module: nn.Module, names: list[str], table: FormatTable, kept: bool) -> str | None:
    if (pattern := table.excluding_pattern(names)) is not None:
        return f"excluded by {pattern!r}"
    if not kept:
        return "its layer is quantized at the weight; write a module of its own for them"
    return why_not_watched(module)


def _tell_apart(model: nn.Module) -> None:
    """Modules that multiply for themselves inside a holder: what they call is not the holder's."""
    holders = [module for module in model.modules() if isinstance(module, ProductHolder)]
    inside = {m: None for holder in holders for m in holder.modules() if not isinstance(m, ProductHolder)}
    made = {layer for holder in holders for layer in holder.held_products().values()}
    for module in inside:
        own = isinstance(module, _MULTIPLY) or (isinstance(module, QuantLinear) and module.weight_quant is None)
        if module not in made and (own or _has_own_code(module)):
            say_whose_code(module)


def _has_own_code(module: nn.Module) -> bool:
    return not isinstance(module, QuantLayer) and bool(products_named(module))
