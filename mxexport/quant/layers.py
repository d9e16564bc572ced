"""QAT layers: the float layer's parameters and state_dict names, quantized on the way into the product."""

from __future__ import annotations

from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.formats import GroupFormat, get_format
from mxexport.quant.fake import Quantizer
from mxexport.quant.tensor import GroupwiseQuantTensor, quantize_with


class QuantLayer(nn.Module):
    """What quantized layers share. Groups run along the reduction axis of weight and input."""

    weight_axis = 1
    input_axis = -1

    def set_formats(
        self, weight: str | GroupFormat | None, activation: str | GroupFormat | None, scale_rule: str = "floor"
    ) -> None:
        """Choose formats; None keeps that side in float."""
        self.weight_quant = None if weight is None else Quantizer(get_format(weight), self.weight_axis, scale_rule)
        self.input_quant = (
            None if activation is None else Quantizer(get_format(activation), self.input_axis, scale_rule)
        )

    def quant_weight(self) -> GroupwiseQuantTensor | Tensor:
        """The weight as a quant tensor (contracted scales); the float weight where it is not quantized."""
        if self.weight_quant is None:
            return self.weight
        return quantize_with(self.weight_quant, self.weight)

    def _quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight if self.weight_quant is None else self.weight_quant(self.weight)
        return (x if self.input_quant is None else self.input_quant(x)), weight

    @classmethod
    def from_float(
        cls,
        layer: nn.Module,
        weight: str | GroupFormat | None,
        activation: str | GroupFormat | None,
        scale_rule: str = "floor",
    ) -> QuantLayer:
        """A quantized layer that shares the parameters of `layer`."""
        quantized = cls.__new__(cls)
        nn.Module.__init__(quantized)
        quantized.__dict__.update({k: v for k, v in layer.__dict__.items() if k not in quantized.__dict__})
        quantized._parameters.update(layer._parameters)
        quantized._buffers.update(layer._buffers)
        quantized.training = layer.training
        quantized.set_formats(weight, activation, scale_rule)
        return quantized

    def extra_repr(self) -> str:
        names = [None if q is None else q.format.name for q in (self.weight_quant, self.input_quant)]
        return f"{super().extra_repr()}, weight={names[0]}, activation={names[1]}"


class QuantLinear(QuantLayer, nn.Linear):
    """`nn.Linear` whose weight [O, I] is grouped along I and whose input is grouped along its last axis."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight: str | GroupFormat | None = "mxint8",
        activation: str | GroupFormat | None = "mxint8",
        scale_rule: str = "floor",
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.set_formats(weight, activation, scale_rule)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._quantized(x)
        return nn.functional.linear(x, weight, self.bias)


class QuantConv2d(QuantLayer, nn.Conv2d):
    """`nn.Conv2d` grouped along input channels, separately for each kernel tap; input grouped along channels."""

    input_axis = -3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        *args,
        weight: str | GroupFormat | None = "mxint8",
        activation: str | GroupFormat | None = "mxint8",
        scale_rule: str = "floor",
        **kwargs,
    ):
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        if self.padding_mode != "zeros":
            raise UnsupportedError(f"QuantConv2d: padding_mode {self.padding_mode!r}; expected 'zeros'")
        self.set_formats(weight, activation, scale_rule)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._quantized(x)
        return self._conv_forward(x, weight, self.bias)


QUANT_LAYERS: dict[type[nn.Module], type[QuantLayer]] = {nn.Linear: QuantLinear, nn.Conv2d: QuantConv2d}
