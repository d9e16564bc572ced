"""Layers of a converted Brevitas model: the same computation, quantizers that export sees, scales as buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxexport.errors import ShapeError
from mxexport.frontends.brevitas.quantizers import GroupQuantizer, Quantizer
from mxexport.quant.layers.all_layers import QuantLayer
from mxexport.quant.layers.layer import with_value
from mxexport.quant.tensors.tensor import GroupwiseQuantTensor


class ConvertedLayer(QuantLayer):
    """`<role>_quant` quantizes `<role>` (weight, bias, input, act, output); its tensors are `<role>_scale` and so on.

    `notes` says what differs from Brevitas, or surprises in it. `with_value`: the Brevitas layer returns quant tensors,
    so the plain tensor returned here has what their users mostly ask for, `value`.
    """

    roles: tuple[str, ...] = ("input", "output")

    def __init__(self, kind: str, with_value: bool = False):
        nn.Module.__init__(self)
        self.kind, self.notes, self.with_value = kind, [], with_value
        self.weight_quant = self.input_quant = None
        for role in self.roles:
            setattr(self, f"{role}_quant", None)

    def install(self, role: str, quantizer: Quantizer | None, tensors: dict[str, Tensor]) -> None:
        setattr(self, f"{role}_quant", quantizer)
        for name, tensor in tensors.items():
            self.register_buffer(f"{role}_{name}", tensor.detach().clone())

    def quantized(self, role: str, x: Tensor) -> Tensor:
        quantizer = getattr(self, f"{role}_quant")
        if quantizer is None:
            return x
        return quantizer(x, *(getattr(self, f"{role}_{name}") for name in quantizer.tensor_names))

    def returned(self, y: Tensor) -> Tensor:
        return with_value(y) if self.with_value else y

    def extra_repr(self) -> str:
        return f"from Brevitas {self.kind}"


class ConvertedWeightLayer(ConvertedLayer):
    """y = output_quant(compute(input_quant(x), weight_quant(weight), bias_quant(bias)))."""

    roles = ("input", "weight", "bias", "output")

    def __init__(
        self, kind: str, weight: nn.Parameter, bias: nn.Parameter | None, compute: Callable[..., Tensor], **options
    ):
        super().__init__(kind, **options)
        self.weight, self.bias, self.compute = weight, bias, compute

    def quant_weight(self) -> GroupwiseQuantTensor | Tensor:
        """A quant tensor (contracted scales) where the weight is groupwise, else the dequantized weight.

        Graphs for export know no quant tensors. A plain tensor, there or elsewhere, has its `value`.
        """
        value = self.quantized("weight", self.weight)
        if torch.compiler.is_exporting() or not isinstance(self.weight_quant, GroupQuantizer):
            return value if self.weight_quant is None else with_value(value)
        fmt, axis = self.weight_quant.format, self.weight_quant.elements.axis
        zero_point = getattr(self, "weight_zero_point", None)
        if zero_point is None and fmt.asymmetric:
            zero_point = torch.zeros_like(self.weight_scale)
        length = value.shape[axis]
        padded = F.pad(value, [0, 0] * (value.ndim - 1 - axis) + [0, -length % fmt.group_size])
        return GroupwiseQuantTensor.from_parts(
            padded.unflatten(axis, (-1, fmt.group_size)),
            self.weight_scale.unsqueeze(axis + 1),
            None if zero_point is None else zero_point.unsqueeze(axis + 1),
            fmt,
            axis,
            length,
        )

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        x, weight = self.quantized("input", x), self.quantized("weight", self.weight)
        bias = None if self.bias is None else self.quantized("bias", self.bias)
        return self.returned(self.quantized("output", self.compute(x, weight, bias, *args, **kwargs)))


class ConvertedActivation(ConvertedLayer):
    """y = act_quant(activation(input_quant(x)))."""

    roles = ("input", "act")

    def __init__(self, kind: str, activation: Callable[[Tensor], Tensor], **options):
        super().__init__(kind, **options)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.quantized("act", self.activation(self.quantized("input", x)))
        return self.returned(torch.ops.aten.alias(y) if y is x and self.with_value else y)


class ConvertedAdd(ConvertedLayer):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.returned(self.quantized("output", self.quantized("input", x) + self.quantized("input", other)))


class ConvertedPassing(ConvertedLayer):
    """A layer that moves values and quantizes nothing."""

    roles = ()

    def __init__(self, kind: str, compute: Callable[[Tensor], Tensor], **options):
        super().__init__(kind, **options)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.returned(self.compute(x))


class ConvertedTruncPool(ConvertedLayer):
    """y = trunc_quant(compute(x)): a pool that drops the low bits of its averages.

    `size`: the spatial sizes that an adaptive pool was converted for; its scale depends on how much it averages.
    """

    roles = ("trunc",)

    def __init__(self, kind: str, compute: Callable[[Tensor], Tensor], size: tuple[int, ...] | None = None, **options):
        super().__init__(kind, **options)
        self.compute, self.size = compute, size

    def forward(self, x: Tensor) -> Tensor:
        if self.trunc_quant is not None and self.size is not None and tuple(x.shape[-2:]) != self.size:
            raise ShapeError(
                f"{self.kind}: the input is {tuple(x.shape[-2:])} large, expected {self.size} as in the example inputs "
                "of the conversion; its scale depends on how much it averages"
            )
        return self.returned(self.quantized("trunc", self.compute(x)))


# --- computations ---------------------------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    return x


def activation_function(module: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """The function a Brevitas activation layer applies before it quantizes; unknown modules are kept as they are."""
    if module is None or type(module).__name__ == "Identity":
        return identity
    if isinstance(module, nn.Hardtanh):
        return partial(F.hardtanh, min_val=module.min_val, max_val=module.max_val)
    known = ((nn.ReLU, F.relu), (nn.Sigmoid, torch.sigmoid), (nn.Tanh, torch.tanh), (nn.Hardswish, F.hardswish))
    return next((function for kind, function in known if isinstance(module, kind)), module)


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def computation(layer: nn.Module) -> Callable[..., Tensor] | None:
    """compute(x, weight, bias) of a Brevitas layer; None for a kind that is not known here."""
    if isinstance(layer, nn.Linear):
        return F.linear
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return _transposed_convolution(layer)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return _convolution(layer)
    if isinstance(layer, nn.Embedding) and layer.max_norm is None:
        return partial(_embedding, layer.padding_idx)
    if hasattr(layer, "runtime_shape"):
        return partial(_scale_bias, layer.runtime_shape)
    return None


def _convolution(layer: nn.Module) -> Callable[..., Tensor]:
    conv = _CONV[len(layer.kernel_size)]
    settings = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if getattr(layer, "is_same_padded_strided", False):
        return partial(_same_padded, conv, layer.kernel_size, settings)
    if layer.padding_mode != "zeros":
        pads = tuple(layer._reversed_padding_repeated_twice)
        return partial(_padded, conv, pads, layer.padding_mode, settings)
    return partial(conv, padding=layer.padding, **settings)


def _padded(conv, pads, mode, settings, x, weight, bias):
    return conv(F.pad(x, pads, mode=mode), weight, bias, **settings)


def _same_padded(conv, kernel_size, settings, x, weight, bias):
    """Padding "same" with a stride, as Brevitas has it: the output is ceil(input / stride) long."""
    pads = []
    for size, kernel, stride, dilation in zip(
        reversed(x.shape[2:]), reversed(kernel_size), reversed(settings["stride"]), reversed(settings["dilation"]),
        strict=True,
    ):  # fmt: skip
        pad = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pads += [pad // 2, pad - pad // 2]
    return conv(F.pad(x, pads), weight, bias, **settings)


def _transposed_convolution(layer: nn.Module) -> Callable[..., Tensor]:
    settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    sizes = SimpleNamespace(output_padding=layer.output_padding)  # all that `_output_padding` looks at
    return partial(_conv_transpose, sizes, tuple(layer.kernel_size), layer.groups, settings)


def _conv_transpose(sizes, kernel_size, groups, settings, x, weight, bias, output_size=None):
    spatial = len(kernel_size)
    extra = nn.modules.conv._ConvTransposeNd._output_padding(
        sizes,
        x,
        output_size,
        settings["stride"],
        settings["padding"],
        kernel_size,
        spatial,
        settings["dilation"],
    )
    return _CONV_TRANSPOSE[spatial](x, weight, bias, output_padding=extra, groups=groups, **settings)


def _embedding(padding_idx, x, weight, bias):
    return F.embedding(x, weight, padding_idx)


def _scale_bias(shape, x, weight, bias):
    return x * weight.view(shape) + bias.view(shape)


def pooling(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The average that a pool of Brevitas takes."""
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return partial(F.adaptive_avg_pool2d, output_size=layer.output_size)
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return partial(F.avg_pool2d, **{name: getattr(layer, name) for name in names})
