"""Which layers of a model quantization hurts: signal-to-noise ratios layer by layer.

SQNR = 10 log10(sum y**2 / sum (y - yq)**2) in decibels over all values of all calls; inf where nothing differs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant.calling import call_in_eval, calls, floats
from mxexport.quant.convert import quantize_model
from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.post_training.sensitivity_table import LayerSensitivity, Sensitivity
from mxexport.quant.quantizers.spec import Format


def sensitivity(
    model: nn.Module,
    inputs: object,
    weight: Format = "mxint8",
    activation: Format = "mxint8",
    *,
    exclude: str | Sequence[str] = (),
    scale_rule: ScaleRule | None = None,
    formats: Mapping | str | os.PathLike | None = None,
    fold_batch_norm: bool = False,
    attention: bool = False,
) -> Sensitivity:
    """How much each layer of `model` loses by `quantize_model` with these arguments; the model given is left as it is.

    The model runs in eval mode once in float, once for all layers together and once for each, so few inputs go far.

    Args:
        inputs: a tensor, a tuple of positional arguments, a dict of them by name, or a list of these (several calls).

    All else is as in `quantize_model`.

    Raises:
        UnsupportedError: inputs of another kind, or a model without floating outputs; and what `quantize_model` raises.
    """
    options = {"exclude": exclude, "scale_rule": scale_rule, "formats": formats, "fold_batch_norm": fold_batch_norm}
    if attention:  # what a model multiplies is known once it has run
        args, keywords = calls(inputs)[0]
        options |= {"attention": True, "example_inputs": keywords or args}
    quantized, report = quantize_model(model, weight, activation, **options, return_report=True)
    layers = {entry.name: quantized.get_submodule(entry.name) for entry in report.converted}
    switches = {name: _Switch(layer, layers.values()) for name, layer in layers.items()}
    full = _run(quantized, inputs)
    for switch in switches.values():
        switch.off()
    own = {name: _Ratio() for name in layers}
    with _compared(layers, switches, own):
        reference = _run(quantized, inputs)
    found = Sensitivity(output_sqnr=_sqnr(reference, full))
    for entry in report.converted:
        alone, itself = math.nan, own[entry.name]
        if itself.ran:
            with switches[entry.name].turned_on():
                alone = _sqnr(reference, _run(quantized, inputs))
        what = (entry.name, entry.kind, entry.weight, entry.activation, _weights(layers[entry.name]))
        found.layers.append(LayerSensitivity(*what, itself.decibels(), alone))
    return found


class _Switch:
    """A layer's quantizers, put away and back; without them it computes what the float layer does.

    Products inside the layer (attention) are its own unless they are `listed` as layers themselves.
    """

    def __init__(self, layer: QuantLayer, listed: Iterable[QuantLayer]):
        others = set(listed) - {layer}
        parts = [m for m in layer.modules() if isinstance(m, QuantLayer) and m not in others]
        self.held = [(part, part.quantizers()) for part in parts]

    def off(self) -> None:
        for part, quantizers in self.held:
            part._hold(**dict.fromkeys(quantizers))

    @contextmanager
    def turned_on(self):
        for part, quantizers in self.held:
            part._hold(**quantizers)
        try:
            yield
        finally:
            self.off()


class _Ratio:
    """Energies of a signal and of its error, in float64, over several tensors."""

    def __init__(self):
        self.signal = self.noise = 0.0
        self.ran = False

    def add(self, exact: Tensor, found: Tensor) -> None:
        exact, self.ran = exact.double(), True
        self.signal += float((exact**2).sum())
        self.noise += float(((exact - found.double()) ** 2).sum())

    def decibels(self) -> float:
        if not self.ran:
            return math.nan
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


@contextmanager
def _compared(layers: dict[str, nn.Module], switches: dict[str, _Switch], ratios: dict[str, _Ratio]):
    """While the model runs in float, every layer's output also quantized, from the same input."""

    def hook_of(name: str):
        def hook(layer: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            with switches[name].turned_on():
                again = type(layer).forward(layer, *args, **kwargs)
            for exact, found in zip(floats(output), floats(again), strict=True):
                ratios[name].add(exact, found)

        return hook

    hooks = [layer.register_forward_hook(hook_of(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: nn.Module, inputs: object) -> list[Tensor]:
    outputs = [tensor for call in call_in_eval(model, inputs) for tensor in call]
    if not outputs:
        raise UnsupportedError(f"sensitivity: {type(model).__name__} returns no floating-point tensor to compare")
    return outputs


def _sqnr(exact: list[Tensor], found: list[Tensor]) -> float:
    ratio = _Ratio()
    for a, b in zip(exact, found, strict=True):
        ratio.add(a, b)
    return ratio.decibels()


def _weights(layer: QuantLayer) -> int:
    return sum(getattr(layer, name).numel() for name in layer.weight_names if getattr(layer, name, None) is not None)
