"""What quantized layers share: formats, quantizers, and taking over a float layer's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxexport.numbers.formats import ScaleRule
from mxexport.quant.kernels.fake_quantization import Quantizer
from mxexport.quant.layers.bias import check_bias_format, check_integer_bias, integer_bias
from mxexport.quant.quantizers.sources import ScaleSource, only_moved
from mxexport.quant.quantizers.spec import Format, as_spec, make_activation_quantizer, make_weight_quantizer
from mxexport.quant.tensors.tensor import GroupwiseQuantTensor, quantize_with


def apply(quantizer: Quantizer | ScaleSource | None, x: Tensor) -> Tensor:
    """`x` quantized; `x` itself where there is no quantizer."""
    return x if quantizer is None else quantizer(x)


def with_value(x: Tensor) -> Tensor:
    """`x` with the attribute `value`, as quant tensors have it, for code that asks for it."""
    x.value = torch.ops.aten.alias(x)  # not itself: a tensor in a cycle lives until the collector comes
    return x


class QuantLayer(nn.Module):
    """A layer with quantizers in front of its product, in attributes that end in `_quant`.

    Layers with weights subclass this and their float layer: they take the float layer's arguments and then, by name,
    `weight` and `activation` (a format, a format name, a `QuantSpec`, a table of its fields, or None for float),
    `scale_rule` and `bias_format`.
    Parameter and state_dict names are the float layer's; scales that are stored (static, mse, learned) come on top.
    A state dict of the float layer loads all the same: stored scales of weights are then found anew.
    Groups run along the axis that the product sums over.

    `bias_format`: "float", or "int32" for whole multiples of (input step * weight step); that needs integer elements
    and constant input scales.

    Raises:
        FormatError: unknown format or scale rule, a rule the format cannot have, or an integer bias without constant
            input scales.
    """

    weight_axis = 1
    input_axis = -1
    channel_axis = 0
    """The weight's axis of output channels."""
    bias_format = "float"
    weight_names: tuple[str, ...] = ("weight",)
    parts: tuple[str, ...] = ()
    """Children that are layers of their own and are converted together with this one."""
    other_formats: tuple[str, ...] = ()
    """What `set_formats` takes beside the formats that every layer has."""

    def __init__(
        self,
        *args,
        weight: Format = "mxint8",
        activation: Format = "mxint8",
        scale_rule: ScaleRule = "floor",
        bias_format: str = "float",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.set_formats(as_spec(weight), as_spec(activation), scale_rule, bias_format)

    def set_formats(
        self, weight: Format, activation: Format, scale_rule: ScaleRule = "floor", bias_format: str = "float"
    ) -> None:
        """Choose formats; None keeps that side in float."""
        self._hold(
            weight_quant=make_weight_quantizer(
                weight, self.weight_of(self.weight_names[0]), self.weight_axis, self.channel_axis, scale_rule
            ),
            input_quant=make_activation_quantizer(activation, self.input_axis, scale_rule, self._input_length()),
        )
        self._set_bias_format(bias_format)

    def _input_length(self) -> int | None:
        """Size of the input's grouped axis, where the layer knows it."""
        return getattr(self, "in_features", getattr(self, "in_channels", None))

    def _set_bias_format(self, bias_format: str) -> None:
        if check_bias_format(bias_format) == "int32":
            check_integer_bias(self)
        self.bias_format = bias_format

    def _hold(self, **quantizers: Quantizer | nn.Module | None) -> None:
        """Set attributes; what has scales of its own goes where the parameters are."""
        home = next((p.device for p in self._parameters.values() if p is not None and not p.is_meta), None)
        for name, quantizer in quantizers.items():
            self._modules.pop(name, None)  # one that is a module would refuse another in its place
            setattr(self, name, quantizer.to(home) if home and isinstance(quantizer, nn.Module) else quantizer)

    def _quantizers_of_weights(self) -> dict[str, str]:
        """Attribute of a weight's quantizer -> attribute of the weight."""
        return {"weight_quant": self.weight_names[0]}

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Weights that come without scales of their own, as those of the float model do, get new ones."""
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for name, attribute in self._quantizers_of_weights().items():
            quantizer = getattr(self, name, None)
            has_scales = any(key.startswith(f"{prefix}{name}.") for key in state_dict)
            if isinstance(quantizer, ScaleSource) and prefix + attribute in state_dict and not has_scales:
                quantizer.restart(self.weight_of(attribute).detach())

    def _apply(self, fn, recurse: bool = True):
        """Scales that the layer itself holds stay float32 when a model is cast, as those of its quantizers do."""
        held = {n: t for n, t in self._buffers.items() if t is not None and n.endswith(("scale", "zero_point"))}
        super()._apply(fn, recurse)
        for name, tensor in held.items():
            self._buffers[name] = only_moved(tensor, self._buffers[name])
        return self

    def weight_of(self, name: str) -> Tensor | None:
        """The weight called `name` as its product sees it before it is quantized."""
        return getattr(self, name, None)

    def weight_shape(self, name: str) -> torch.Size:
        return getattr(self, name).shape

    def quantizers(self) -> dict[str, Quantizer]:
        """Attribute name -> quantizer, of this layer alone; sides in float are left out."""
        held = {**self.__dict__, **self._modules}
        return {name: q for name, q in held.items() if name.endswith("_quant") and q is not None}

    def quant_weight(self, name: str | None = None) -> GroupwiseQuantTensor | Tensor:
        """The weight as a quant tensor (contracted scales); the float weight where it is not quantized.

        `name`: which one, in layers that have several weights (by default the first of `weight_names`). Graphs for
        export know no quant tensors: there it is a plain tensor, with its `value`.
        """
        name = name or self.weight_names[0]
        quantizers = {weight: quantizer for quantizer, weight in self._quantizers_of_weights().items()}
        weight, q = self.weight_of(name), getattr(self, quantizers.get(name, "weight_quant"))
        if q is not None and torch.compiler.is_exporting():
            return with_value(q(weight))
        return weight if q is None else quantize_with(q, weight)

    def quant_bias(self) -> Tensor | None:
        """The bias as it is added to the product: in float, or (bias_format "int32") in multiples of its step.

        The step is (input step * weight step), so it is known only where the input's scales are constants: until a
        static scale is frozen the bias stays in float.
        """
        if self.bias is None or self.bias_format == "float":
            return self.bias
        return integer_bias(self)

    def _quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return apply(self.input_quant, x), apply(self.weight_quant, self.weight)

    @classmethod
    def refusal(cls, layer: nn.Module) -> str | None:
        """Why this float layer has no quantized form; None when it has."""
        return None

    @classmethod
    def from_float(
        cls,
        layer: nn.Module,
        weight: Format,
        activation: Format,
        scale_rule: ScaleRule = "floor",
        bias_format: str = "float",
        **others: Format,
    ) -> QuantLayer:
        """A quantized layer that shares the parameters, buffers and hooks of `layer`; `layer` stays as it is.

        `others`: formats by the names in `other_formats`.
        """
        quantized = cls.__new__(cls)
        # Containers are copied so that what is registered later does not reach `layer`.
        quantized.__dict__.update({k: v.copy() if isinstance(v, (dict, set)) else v for k, v in layer.__dict__.items()})
        quantized.set_formats(weight, activation, scale_rule, bias_format, **others)
        return quantized

    def extra_repr(self) -> str:
        held = [getattr(self, name, None) for name in ("weight_quant", "input_quant")]
        names = [None if q is None else q.format.name for q in held]
        return ", ".join(filter(None, (super().extra_repr(), f"weight={names[0]}, activation={names[1]}")))
