"""What `sensitivity` found: a table, JSON, and formats that follow from it. Ratios are in decibels."""

from __future__ import annotations

import glob
import json
import math
from dataclasses import asdict, dataclass, field

from mxexport.errors import FormatError
from mxexport.numbers.formats import GroupFormat, get_format
from mxexport.quant.quantizers.spec import Format, QuantSpec


@dataclass(frozen=True)
class LayerSensitivity:
    """layer_sqnr: of the layer's output, given its float input; output_sqnr: of the model's output, this layer alone
    quantized. weights: elements of the layer's weights. Layers that did not run have NaN."""

    name: str
    kind: str
    weight: str | None
    activation: str | None
    weights: int
    layer_sqnr: float
    output_sqnr: float


@dataclass
class Sensitivity:
    """Layers in the model's order; `output_sqnr`: of the model with all of them quantized."""

    layers: list[LayerSensitivity] = field(default_factory=list)
    output_sqnr: float = math.inf

    def worst(self) -> list[LayerSensitivity]:
        """The layers that ran, those that hurt the model's output most in front."""
        ran = [layer for layer in self.layers if not math.isnan(layer.output_sqnr)]
        return sorted(ran, key=lambda layer: (layer.output_sqnr, layer.layer_sqnr))

    def suggest(
        self, format: Format = "mxint8", *, count: int | None = None, share: float = 0.1, target: float | None = None
    ) -> dict[str, str | GroupFormat | QuantSpec | None]:
        """{layer: format}, which `quantize_model` takes as `formats=`: the layers that hurt most get `format`.

        Layers are taken from the worst on, past those that no longer fit: at most `count` of them and at most `share`
        of all weights. With `target` it ends once the noise left, as if the layers' noises added up, is `target` dB
        under the output. None as `format` keeps them in float.

        Raises:
            FormatError: unknown format, or `share` outside 0 .. 1.
        """
        if not 0 <= share <= 1:
            raise FormatError(f"suggest: share is {share!r}; expected a part of the weights, from 0 to 1")
        if isinstance(format, str):
            get_format(format)
        room, left, chosen = share * sum(layer.weights for layer in self.layers), self.worst(), {}
        noise = sum(_noise(layer.output_sqnr) for layer in left)
        for layer in left:
            if len(chosen) == count or (target is not None and noise <= _noise(target)):
                break
            if layer.weights <= room and layer.output_sqnr < math.inf:
                chosen[glob.escape(layer.name)], room = format, room - layer.weights
                noise -= _noise(layer.output_sqnr)
        return chosen

    def to_json(self) -> str:
        """Ratios as numbers; null where a layer did not run, "inf" where nothing differed."""
        return json.dumps(
            {"output_sqnr": _plain(self.output_sqnr), "layers": [_row(layer) for layer in self.layers]}, indent=2
        )

    def __str__(self) -> str:
        width = max([len("layer"), *(len(layer.name) for layer in self.layers)])
        lines = [f"{'layer':<{width}}  {'weight':>12}  {'activation':>12}  {'weights':>9}  layer dB  output dB"]
        lines += [
            f"{layer.name:<{width}}  {layer.weight or 'float':>12}  {layer.activation or 'float':>12}  "
            f"{layer.weights:>9}  {layer.layer_sqnr:>8.1f}  {layer.output_sqnr:>9.1f}"
            for layer in self.layers
        ]
        return "\n".join([*lines, f"all of them: {self.output_sqnr:.1f} dB"])


def _noise(decibels: float) -> float:
    return 10 ** (-decibels / 10)


def _row(layer: LayerSensitivity) -> dict:
    return {key: _plain(value) if isinstance(value, float) else value for key, value in asdict(layer).items()}


def _plain(value: float) -> float | str | None:
    """JSON has no NaN and no infinities."""
    return None if math.isnan(value) else value if math.isfinite(value) else str(value)
