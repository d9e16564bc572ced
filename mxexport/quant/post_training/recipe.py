"""`quantize_model(..., recipe="robust")`: what post-training quantization of depthwise networks needs, without data.

    formats     8-bit integers for convolutions of few input channels, depthwise ones, and layers of few weights
    rules       of power-of-two scales, by element
    batch norm  folded, as far as it can be
    bias        what rounding the weights adds on average is taken off (`bias_correction`)

What `formats`, `exclude`, `scale_rule` or a `QuantSpec` ask for stays. Measured in docs/accuracy.md.
"""

from __future__ import annotations

from torch import Tensor, nn

from mxexport.errors import FormatError
from mxexport.numbers.formats import GroupFormat
from mxexport.quant.layer_formats import FormatTable
from mxexport.quant.post_training.bias_correction import correct_bias, may_correct, observed_means
from mxexport.quant.post_training.moments import input_means
from mxexport.quant.post_training.recipe_formats import RobustTable, eight_bit_layers, is_depthwise
from mxexport.quant.report import ConversionReport, ConvertedLayer, RecipeChange

RECIPES = ("robust",)


class Robust:
    """The recipe for one model: looks at it before anything is folded, and ends when everything is quantized."""

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, list[str]],
        table: FormatTable,
        rule_asked: bool,
        calibration: object,
        pairs: list[tuple[str, str]],
    ):
        """`pairs`: (layer, batch norm) that will be folded."""
        modules = {name: model.get_submodule(name) for name in layers}
        self.names = layers
        self.table = RobustTable(
            table.defaults, table.entries, table.exclude, reasons=eight_bit_layers(modules), rule_asked=rule_asked
        )
        means = input_means(model, pairs)
        self.means: dict[str, Tensor] = {name: means[name] for name in layers if name in means}
        self.origin = dict.fromkeys(self.means, "the batch norm before it")
        if calibration is not None:
            observed = observed_means(model, [name for name in layers if name not in means], calibration)
            self.means |= observed
            self.origin |= dict.fromkeys(observed, "the calibration inputs")

    def finish(self, model: nn.Module, report: ConversionReport) -> None:
        """Correct biases, and list in the report what the recipe changed."""
        for layer in report.converted:
            changes = self.table.changes(self.names.get(layer.name, [layer.name]))
            report.changed += [c for c in changes if getattr(layer, c.what.partition(" ")[0]) is not None]
        for name, mean in self.means.items():
            layer = model.get_submodule(name)
            if may_correct(layer) and layer.weight_quant is not None and not layer.weight.is_meta:
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
    lost = "5% and more" if coarsest >= 6 else "25% and more" if coarsest >= 3 else "nearly all"
    return f"trained networks so quantized gave {lost} of their answers otherwise than in float"
