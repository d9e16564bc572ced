"""What quantized layers share: formats, quantizers, and taking over a float layer's parameters."""

from __future__ import annotations

from torch import Tensor, nn

from mxexport.formats import GroupFormat, get_format
from mxexport.quant.fake import Quantizer
from mxexport.quant.tensor import GroupwiseQuantTensor, quantize_with

Format = str | GroupFormat | None


def make_quantizer(fmt: Format, axis: int, scale_rule: str = "floor") -> Quantizer | None:
    """The quantizer of a format name or format; None keeps that side in float. Raises FormatError."""
    return None if fmt is None else Quantizer(get_format(fmt), axis, scale_rule)


def apply(quantizer: Quantizer | None, x: Tensor) -> Tensor:
    """`x` quantized; `x` itself where there is no quantizer."""
    return x if quantizer is None else quantizer(x)


class QuantLayer(nn.Module):
    """A layer with quantizers in front of its product, in attributes that end in `_quant`.

    Layers with weights subclass this and their float layer: they take the float layer's arguments and then, by name,
    `weight` and `activation` (a format, a format name, or None for float) and `scale_rule`. Parameter and state_dict
    names are the float layer's. Groups run along the axis that the product sums over.

    Raises:
        FormatError: unknown format or scale rule, or a rule the format cannot have.
    """

    weight_axis = 1
    input_axis = -1
    weight_names: tuple[str, ...] = ("weight",)
    parts: tuple[str, ...] = ()
    """Children that are layers of their own and are converted together with this one."""

    def __init__(
        self, *args, weight: Format = "mxint8", activation: Format = "mxint8", scale_rule: str = "floor", **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.set_formats(weight, activation, scale_rule)

    def set_formats(self, weight: Format, activation: Format, scale_rule: str = "floor") -> None:
        """Choose formats; None keeps that side in float."""
        self._hold(
            weight_quant=make_quantizer(weight, self.weight_axis, scale_rule),
            input_quant=make_quantizer(activation, self.input_axis, scale_rule),
        )

    def _hold(self, **quantizers: Quantizer | None) -> None:
        for name, quantizer in quantizers.items():
            self._modules.pop(name, None)  # one that is a module would refuse another in its place
            setattr(self, name, quantizer)

    def quantizers(self) -> dict[str, Quantizer]:
        """Attribute name -> quantizer, of this layer alone; sides in float are left out."""
        held = {**self.__dict__, **self._modules}
        return {name: q for name, q in held.items() if name.endswith("_quant") and q is not None}

    def quant_weight(self, name: str | None = None) -> GroupwiseQuantTensor | Tensor:
        """The weight as a quant tensor (contracted scales); the float weight where it is not quantized.

        `name`: which one, in layers that have several weights (by default the first of `weight_names`).
        """
        weight, q = getattr(self, name or self.weight_names[0]), self.weight_quant
        return weight if q is None else quantize_with(q, weight)

    def quant_bias(self) -> Tensor | None:
        """The bias as it is added to the product: in float.

        An integer bias has the step (input step * weight step), so it can be fixed before inputs are seen only where
        the input's scales are constants. Layers with such scales override this; scales found at run time keep float.
        """
        return self.bias

    def _quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return apply(self.input_quant, x), apply(self.weight_quant, self.weight)

    @classmethod
    def refusal(cls, layer: nn.Module) -> str | None:
        """Why this float layer has no quantized form; None when it has."""
        return None

    @classmethod
    def from_float(cls, layer: nn.Module, weight: Format, activation: Format, scale_rule: str = "floor") -> QuantLayer:
        """A quantized layer that shares the parameters, buffers and hooks of `layer`; `layer` stays as it is."""
        quantized = cls.__new__(cls)
        # Containers are copied so that what is registered later does not reach `layer`.
        quantized.__dict__.update({k: v.copy() if isinstance(v, (dict, set)) else v for k, v in layer.__dict__.items()})
        quantized.set_formats(weight, activation, scale_rule)
        return quantized

    def extra_repr(self) -> str:
        held = [getattr(self, name, None) for name in ("weight_quant", "input_quant")]
        names = [None if q is None else q.format.name for q in held]
        return ", ".join(filter(None, (super().extra_repr(), f"weight={names[0]}, activation={names[1]}")))
