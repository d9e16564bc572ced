"""What `quantize_model` did with every module, and why it left some in float."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

from torch import nn

from mxexport.errors import UnsupportedError
from mxexport.numbers import groups
from mxexport.numbers.formats import GroupFormat, ScaleRule, rule_name
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.own_products.holders import ProductHolder
from mxexport.quant.quantizers.spec import QuantSpec
from mxexport.reporting.cells import html_table

_ATTRIBUTE = "_mxexport_conversion_report"


@dataclass(frozen=True)
class ConvertedLayer:
    """A layer now quantized. `padding_percent`: zeros among the stored weight elements, from short last groups."""

    name: str
    kind: str
    weight: str | None
    activation: str | None
    scale_rule: str
    padding_percent: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class FloatLayer:
    """A module with parameters left as it is, mostly in float; `expected` where asked for or without a product."""

    name: str
    kind: str
    reason: str
    expected: bool

    @property
    def place(self) -> str:
        return self.name or "the model itself"


@dataclass(frozen=True)
class RecipeChange:
    """What a recipe changed of a layer; `what`: weight or activation (formats), weight rule, activation rule, bias."""

    layer: str
    what: str
    before: str
    after: str
    reason: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.what} {self.before} -> {self.after} (recipe: {self.reason})"


@dataclass(repr=False)
class ConversionReport:
    """`folded`: (batch norm, layer it went into) pairs; `not_folded`: (batch norm, why) if folding was asked for;
    `changed`: where a recipe departed from what was asked. `products_in_float`: module -> products of two activations
    in its own code that stay in float, and why; `products_to_come`: modules that quantize theirs and have called none
    so far."""

    converted: list[ConvertedLayer] = field(default_factory=list)
    left: list[FloatLayer] = field(default_factory=list)
    folded: list[tuple[str, str]] = field(default_factory=list)
    not_folded: list[tuple[str, str]] = field(default_factory=list)
    changed: list[RecipeChange] = field(default_factory=list)
    products_in_float: dict[str, str] = field(default_factory=dict)
    products_to_come: list[str] = field(default_factory=list)

    def follow(self, model: nn.Module) -> None:
        """Take what the modules of `model` have called since: layers of products are made when one is first called."""
        known, self.products_to_come = {entry.name for entry in self.converted}, []
        for name, module in model.named_modules():
            if not isinstance(module, ProductHolder):
                continue
            for child, layer in module.held_products().items():
                place = f"{name}.{child}".lstrip(".")
                if place not in known and child not in module.products_in_float:
                    self.converted.append(describe(place, layer, module.scale_rule_of(child)))
            if module.products_in_float:
                told = [f"{product} in float: {why}" for product, why in module.products_in_float.items()]
                self.products_in_float[name] = "; ".join(told)
            elif module.multiplies_activations and not module.held_products():
                self.products_to_come.append(name)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def __repr__(self) -> str:
        return f"<ConversionReport: {len(self.converted)} layers quantized, {len(self.left)} left as they are>"

    def _repr_html_(self) -> str:
        """What became of every module as a table, for notebooks."""
        rows = [(c.name, c.kind, c.weight, c.activation, c.note) for c in self.converted]
        rows += [(f.place, f.kind, "float", "float", f.reason) for f in self.left]
        rows += [(place, "products", "-", "-", what) for place, what in self._products()]
        return html_table(repr(self), ("module", "kind", "weight", "activation", "note"), rows)

    def __str__(self) -> str:
        lines = [
            f"{c.name}: {c.kind} weight={c.weight} activation={c.activation} ({c.scale_rule})"
            + (f", {c.padding_percent:.0f}% of the weight is padding" if c.padding_percent else "")
            + (f"; {c.note}" if c.note else "")
            for c in self.converted
        ]
        lines += [f"{norm}: folded into {layer}" for norm, layer in self.folded]
        lines += [f"{norm or 'the model itself'}: not folded: {why}" for norm, why in self.not_folded]
        lines += [str(change) for change in self.changed]
        lines += [f"{f.place}: {f.kind} left as it is: {f.reason}" for f in self.left]
        lines += [f"{place}: {what}" for place, what in self._products()]
        return "\n".join(lines)

    def _products(self) -> list[tuple[str, str]]:
        """(place, what is to be said) of products of activations that are not quantized, or not yet."""
        to_come = "products of activations are quantized where its code calls them; it has called none so far"
        said = [*self.products_in_float.items(), *((name, to_come) for name in self.products_to_come)]
        return [(name or "the model itself", what) for name, what in said]


def in_short(notes: list[tuple[str, str]]) -> str:
    """The first three of some (place, what) in words, and how many more there are."""
    shown = "; ".join(f"{place}: {what}" for place, what in notes[:3])
    more = f"; and {len(notes) - 3} more, see mxexport.conversion_report" if len(notes) > 3 else ""
    return shown + more


def conversion_report(model: nn.Module) -> ConversionReport:
    """The report of the `quantize_model` call that made `model`. Raises UnsupportedError for any other model."""
    report = getattr(model, _ATTRIBUTE, None)
    if report is None:
        raise UnsupportedError(
            f"conversion_report: this {type(model).__name__} does not come from mxexport.quantize_model (of a model "
            "that does, ask the outermost module)"
        )
    report.follow(model)
    return report


def attach(report: ConversionReport, model: nn.Module) -> None:
    setattr(model, _ATTRIBUTE, report)


def describe(name: str, layer: QuantLayer, scale_rule: ScaleRule) -> ConvertedLayer:
    """The report's entry of a converted layer."""
    q, x = getattr(layer, "weight_quant", None), getattr(layer, "input_quant", None)
    return ConvertedLayer(
        name,
        type(layer).__name__,
        _name(q),
        _name(x),
        _rules(layer) or rule_name(scale_rule),
        _padding_percent(layer),
        _note(layer),
    )


def _rules(layer: QuantLayer) -> str:
    """The rule of the layer's power-of-two scales; of weight/activation where they differ."""
    held = (getattr(layer, name, None) for name in ("weight_quant", "input_quant"))
    return "/".join(dict.fromkeys(rule_name(q.scale_rule) for q in held if q is not None and q.format.is_mx))


def _name(quantizer) -> str | None:
    """The format, and what differs from one dynamic scale per group."""
    if quantizer is None:
        return None
    special = [getattr(quantizer, "source", "dynamic"), quantizer.scaling_per_output]
    return " ".join([quantizer.format.name, *(word for word in special if word not in ("dynamic", "group"))])


def format_name(side: GroupFormat | QuantSpec | None) -> str:
    return "float" if side is None else side.name


def _padding_percent(layer: QuantLayer) -> float:
    q = getattr(layer, "weight_quant", None)
    if q is None or not q.format.group_size:
        return 0.0
    stored = used = 0
    for name in layer.weight_names:
        shape = layer.weight_shape(name)
        grouped = groups.grouped_shape(tuple(shape), q.axis, q.format.group_size)
        used += shape.numel()
        stored += math.prod(grouped)
    return round(100 * (stored - used) / stored, 2) if stored else 0.0


def _note(layer: QuantLayer) -> str:
    """States of a recurrent layer; where blocks of the input and of a grouped convolution's weight do not line up."""
    if states := getattr(layer, "states", None):
        return ", ".join(f"{what} {_name(quantizer) or 'float'}" for what, quantizer in states.items())
    count, x = getattr(layer, "groups", 1), getattr(layer, "input_quant", None)
    if count == 1 or x is None or not x.format.group_size:
        return ""
    channels, size = layer.in_channels // count, x.format.group_size
    if channels % size == 0 or size % channels == 0:
        return ""
    return f"groups of {size} input channels cross the borders of its {count} convolution groups of {channels}"
