"""`quantize_model(..., recipe="robust")`: what post-training quantization of depthwise networks needs, without data.

    formats     8-bit integers for convolutions of few input channels, depthwise ones, and layers of few weights
    rules       of power-of-two scales, by element: see `RULES`
    batch norm  folded, as far as it can be
    bias        what rounding the weights adds on average is taken off (`bias_correction`)

What `formats`, `exclude`, `scale_rule` or a `QuantSpec` ask for stays. Measured in docs/accuracy.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from mxexport.errors import FormatError
from mxexport.formats import GroupFormat, get_format
from mxexport.quant.bias_correction import CORRECTED, correct_bias, observed_means
from mxexport.quant.layer_formats import FormatTable, LayerFormats
from mxexport.quant.moments import input_means
from mxexport.quant.report import ConversionReport, ConvertedLayer, RecipeChange, format_name
from mxexport.quant.spec import QuantSpec

RECIPES = ("robust",)
RULES = {"e4m3": "rceil", "e2m3": "rceil", "e5m2": "even", "e3m2": "even", "e2m1": "even"}
"""Element -> rule of its power-of-two scales; `floor` for the others."""
FEW_CHANNELS = 8
_SIDES = ("weight", "activation")


@dataclass(frozen=True)
class RobustTable(FormatTable):
    """A table whose formats the recipe changes where nobody asked for them by name.

    reasons: layer name -> why it takes 8 bits. rule_asked: the caller chose the rule of all layers.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    rule_asked: bool = False

    def formats_of(self, names: Sequence[str]) -> LayerFormats:
        plain, asked = super().formats_of(names), self._asked(names)
        sides = {side: getattr(plain, side) for side in _SIDES}
        if self.reason(names):
            sides |= {side: eight_bits(sides[side]) for side in _SIDES if side not in asked}
        chosen = replace(plain, **sides)
        return chosen if self.rule_asked or "scale_rule" in asked else _with_rules(chosen)

    def reason(self, names: Sequence[str]) -> str | None:
        return next((self.reasons[name] for name in names if name in self.reasons), None)

    def _asked(self, names: Sequence[str]) -> set[str]:
        return {key for keys in self.entries_of(names) for key in keys}

    def changes(self, names: Sequence[str]) -> list[RecipeChange]:
        before, after, found = super().formats_of(names), self.formats_of(names), []
        for side in _SIDES:
            old, new = getattr(before, side), getattr(after, side)
            if old is None:
                continue
            if format_name(old) != format_name(new):
                found.append(RecipeChange(names[0], side, format_name(old), format_name(new), self.reason(names)))
            rules = rule_of(old, before.scale_rule), rule_of(new, after.scale_rule)
            if rules[0] != rules[1]:
                found.append(RecipeChange(names[0], f"{side} rule", *rules, f"rule of {format_name(new)}"))
        return found


class Robust:
    """The recipe for one model: looks at it before anything is folded, and ends when everything is quantized."""

    def __init__(
        self, model: nn.Module, layers: dict[str, list[str]], table: FormatTable, rule_asked: bool, calibration: object
    ):
        modules = {name: model.get_submodule(name) for name in layers}
        self.names = layers
        self.table = RobustTable(
            table.defaults, table.entries, table.exclude, reasons=eight_bit_layers(modules), rule_asked=rule_asked
        )
        means, self.origin = input_means(model), {}
        self.means: dict[str, Tensor] = {name: means[name] for name in layers if name in means}
        self.origin = dict.fromkeys(self.means, "the batch norm before it")
        if calibration is not None:
            observed = observed_means(model, [name for name in layers if name not in means], calibration)
            self.means |= observed
            self.origin |= dict.fromkeys(observed, "the calibration inputs")

    def finish(self, model: nn.Module, report: ConversionReport) -> None:
        """Correct biases, and list in the report what the recipe changed."""
        for layer in report.converted:
            report.changed += self.table.changes(self.names.get(layer.name, [layer.name]))
        for name, mean in self.means.items():
            layer = model.get_submodule(name)
            if isinstance(layer, CORRECTED) and layer.weight_quant is not None and not layer.weight.is_meta:
                before = "none" if layer.bias is None else "float"
                change = correct_bias(layer, mean)
                after, why = f"corrected by up to {change:.3g}", f"mean of {self.origin[name]}"
                report.changed.append(RecipeChange(name, "bias", before, after, why))


def check_recipe(recipe: str | None, calibration: object) -> None:
    """Raise FormatError unless the recipe exists and `calibration` has a use."""
    if recipe is not None and recipe not in RECIPES:
        raise FormatError(f"unknown recipe {recipe!r}; expected None or one of {', '.join(map(repr, RECIPES))}")
    if recipe is None and calibration is not None:
        raise FormatError("calibration: only a recipe uses it; give recipe='robust' (static scales: run the model)")


# --- layers that take 8 bits ----------------------------------------------------------------------------------


def is_depthwise(layer: nn.Module) -> bool:
    """A convolution that filters every channel by itself: its groups of inputs are groups across channels."""
    return getattr(layer, "in_channels", 0) == getattr(layer, "groups", 1) > 1


def eight_bit_layers(layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Name -> reason, of those of `layers` that are depthwise, read few channels, or hold few of all weights.

    Few: under 1% of the weights, and less than half of what a layer holds on average, so that a large network of
    equal layers has none.
    """
    sizes = {name: _weights(layer) for name, layer in layers.items()}
    limit = sum(sizes.values()) / max(100, 2 * len(sizes))
    found = {}
    for name, layer in layers.items():
        if is_depthwise(layer):
            found[name] = "depthwise"
        elif getattr(layer, "in_channels", FEW_CHANNELS) < FEW_CHANNELS:
            found[name] = f"reads {layer.in_channels} channels"
        elif sizes[name] < limit:
            found[name] = f"holds {sizes[name] / sum(sizes.values()):.2%} of the weights"
    return found


def _weights(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer._parameters.values() if p is not None and p.ndim > 1)


def depthwise_warning(model: nn.Module, report: ConversionReport, table: FormatTable) -> str | None:
    """What quantizing the depthwise layers of `report` costs, in one line; None where nothing has to be said.

    Layers that `formats` names got what was asked for.
    """
    found = [
        c for c in report.converted if is_depthwise(model.get_submodule(c.name)) and not table.entries_of([c.name])
    ]
    if not found:
        return None
    shown = ", ".join(c.name for c in found[:3]) + (", …" if len(found) > 3 else "")
    what = f"{len(found)} depthwise layer{'s take' if len(found) > 1 else ' takes'} {_both(found[0])} ({shown})"
    return f'{what}: {_cost(model.get_submodule(found[0].name))}; after training use recipe="robust" (docs/accuracy.md)'


def _both(layer: ConvertedLayer) -> str:
    return f"{layer.weight or 'float'}/{layer.activation or 'float'}"


def _fraction_bits(fmt: GroupFormat) -> int:
    """Bits behind the leading one of the largest elements."""
    return fmt.element.mantissa_bits if fmt.is_float else fmt.element.bits - 1 - fmt.element.signed


def _cost(layer: nn.Module) -> str:
    """Measured on the trained networks of docs/accuracy.md, by the bits of the coarser side."""
    coarsest = min(_fraction_bits(q.format) for q in layer.quantizers().values())
    lost = "about 5%" if coarsest >= 6 else "25% and more" if coarsest >= 3 else "nearly all"
    return f"trained networks so quantized gave {lost} of their answers otherwise than in float"


# --- formats --------------------------------------------------------------------------------------------------


def eight_bits(side: GroupFormat | QuantSpec | None) -> GroupFormat | QuantSpec | None:
    """The integer format of 8 bits with the same groups; integers stay in their family, and wider ones as they are."""
    if side is None:
        return None
    if isinstance(side, QuantSpec):
        wide = eight_bits(side.format)
        return replace(side, format=wide, signed=side.signed or wide.element.signed)
    if not side.is_float:
        return side if side.element.bits >= 8 else get_format(re.sub(r"int\d", "int8", side.name))
    family = "int8" if side.scale == "float32" else "mxint8"
    return get_format(family if side.group_size is None else f"{family}_g{side.group_size}")


def _with_rules(formats: LayerFormats) -> LayerFormats:
    """With the rule of each side's element, where it has a scale rule and nobody chose one."""
    open_sides = {side: _plain(getattr(formats, side)) for side in _SIDES if _is_open(getattr(formats, side))}
    rules = {side: RULES.get(fmt.element.name, "floor") for side, fmt in open_sides.items()}
    if len(rules) == sum(getattr(formats, side) is not None for side in _SIDES) and len(set(rules.values())) == 1:
        return replace(formats, scale_rule=next(iter(rules.values())))
    specs = {side: _spec(getattr(formats, side), rule) for side, rule in rules.items()}
    return replace(formats, **specs)


def _spec(side: GroupFormat | QuantSpec, rule: str) -> QuantSpec:
    return replace(side, scale_rule=rule) if isinstance(side, QuantSpec) else QuantSpec(side, scale_rule=rule)


def _plain(side: GroupFormat | QuantSpec) -> GroupFormat:
    return side.format if isinstance(side, QuantSpec) else side


def _is_open(side: GroupFormat | QuantSpec | None) -> bool:
    return side is not None and _plain(side).is_mx and getattr(side, "scale_rule", None) is None


def rule_of(side: GroupFormat | QuantSpec, scale_rule: str) -> str:
    """The rule that a side's scales follow: its own, else the layer's; floor where the format has none to choose."""
    return getattr(side, "scale_rule", None) or (scale_rule if _plain(side).is_mx else "floor")
