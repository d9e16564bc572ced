"""The formats of `recipe="robust"`: which layers take 8 bits, and the scale rule of each element.

The choices are those that did best on the trained networks of docs/accuracy.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from mxexport.numbers.formats import GroupFormat, ScaleRule, get_format, rule_name
from mxexport.quant.layer_formats import FormatTable, LayerFormats
from mxexport.quant.quantizers.spec import QuantSpec
from mxexport.quant.report import RecipeChange, format_name

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
                found.append(
                    RecipeChange(names[0], f"{side} rule", *map(rule_name, rules), f"rule of {format_name(new)}")
                )
        return found


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


def _spec(side: GroupFormat | QuantSpec, rule: ScaleRule) -> QuantSpec:
    return replace(side, scale_rule=rule) if isinstance(side, QuantSpec) else QuantSpec(side, scale_rule=rule)


def _plain(side: GroupFormat | QuantSpec) -> GroupFormat:
    return side.format if isinstance(side, QuantSpec) else side


def _is_open(side: GroupFormat | QuantSpec | None) -> bool:
    return side is not None and _plain(side).is_mx and getattr(side, "scale_rule", None) is None


def rule_of(side: GroupFormat | QuantSpec, scale_rule: ScaleRule) -> ScaleRule:
    """The rule that a side's scales follow: its own, else the layer's; floor where the format has none to choose."""
    own = getattr(side, "scale_rule", None)
    return own if own is not None else scale_rule if _plain(side).is_mx else "floor"
