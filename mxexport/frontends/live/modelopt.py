"""Live modules of NVIDIA ModelOpt 0.47: Linear with MX or NVFP4 quantizers, convolutions with MX quantizers.

Its dynamic groups run along the last axis of every tensor (its forward asks for the size of no other): for linear
layers the axis that is summed over; for convolutions the width, so a row of the kernel is a group, and a row of the
input has groups. Convolutions are carried so; hardware, whose groups run along channels, refuses them.

Its quantizers compute on GPUs only, so weights are quantized here: MX by rceil, NVFP4 as its Triton kernel does with
correctly rounded divisions (on a GPU they are approximate). Weights that it has compressed are read as they are.
The kernels take NaN for no value, leave groups that hold Inf unscaled, and leave the sign of zero open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.checkpoints import weights
from mxexport.frontends.inputs import ModelOptNVFP4Input, ToolInput
from mxexport.frontends.live.layers import ToolLayer
from mxexport.numbers.formats import GroupFormat, get_format
from mxexport.quant import Quantizer, QuantLayer

TOOL, PACKAGE = "ModelOpt", "modelopt"
_FORMATS = {
    (2, 1): "mxfp4_e2m1",
    (2, 3): "mxfp6_e2m3",
    (3, 2): "mxfp6_e3m2",
    (4, 3): "mxfp8_e4m3",
    (5, 2): "mxfp8_e5m2",
    8: "mxint8",
}
_E8M0, _E4M3 = (8, 0), (4, 3)
_NVFP4_LEVELS = 6.0 * 448.0
_QUANTIZERS = ("TensorQuantizer", "SequentialQuantizer", "NVFP4StaticQuantizer", "StaticBlockScaleQuantizer")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WIDTH = (
    "groups of weights and inputs run along the width, as ModelOpt has them; hardware takes them along channels only",
)
_NVFP4_TOLD = (
    "the {} of its {} is quantized as NVFP4, for which ModelOpt has kernels of its own (Conv3d multiplies in one); "
    "carried for convolutions are MX formats; disable it for such layers"
)


@dataclass(frozen=True)
class _Smoothed(ToolInput):
    """The input times `factor` (SmoothQuant, AWQ), then quantized by `then`, where there is one."""

    factor: Tensor | None = None
    then: Quantizer | None = None

    def quantized(self, x: Tensor) -> Tensor:
        x = x * self.factor
        return x if self.then is None else self.then(x)


def read(module: nn.Module, kind: type[nn.Module]) -> ToolLayer | None:
    """What the quantizers of a ModelOpt layer do; None where all are switched off. Raises UnsupportedError."""
    held = {name: child for name, child in module.named_children() if type(child).__name__ in _QUANTIZERS}
    active = {name: quantizer for name, quantizer in held.items() if _acts(quantizer)}
    compressed = type(getattr(module, "_parameters", {}).get("weight")).__name__ == "QTensorWrapper"
    if not active and not compressed:
        return None
    if kind is not nn.Linear and (kind not in _CONVOLUTIONS or compressed):
        told = f"{', '.join(active) or 'a compressed weight'} of a {kind.__name__}"
        raise UnsupportedError(
            f"{told}: carried are Linear and convolutions that are not compressed; leave such layers out"
        )
    if others := sorted(active.keys() - {"input_quantizer", "weight_quantizer"}):
        raise UnsupportedError(f"{others[0]} is switched on; carried are input_quantizer and weight_quantizer")
    weight, input_quant = module._parameters["weight"], _input(active.get("input_quantizer"))
    if compressed:
        values, core, scale = _compressed(weight, module.weight_quantizer)
    else:
        values, core, scale = _weight(weight.detach().float(), active.get("weight_quantizer"))
    if isinstance(getattr(input_quant, "then", input_quant), ModelOptNVFP4Input) and kind is not nn.Linear:
        raise UnsupportedError(_NVFP4_TOLD.format("input", kind.__name__))
    notes = _WIDTH if kind in _CONVOLUTIONS else []
    return ToolLayer(values, core, input_quant, scale, list(notes))


def _weight(weight: Tensor, quantizer: nn.Module | None) -> tuple[Tensor, Quantizer | None, Tensor | None]:
    """Values, quantizer and scale of a float32 weight as ModelOpt's forward has them. Raises UnsupportedError."""
    if quantizer is None:
        return weight, None, None
    if quantizer.pre_quant_scale is not None:
        raise UnsupportedError("its weight has a pre_quant_scale; fold it into the weight first")
    found, axis = _quantizer(quantizer, "weight"), weight.ndim - 1
    if isinstance(found, ModelOptNVFP4Input):
        if weight.ndim != 2:
            raise UnsupportedError(_NVFP4_TOLD.format("weight", "convolution"))
        core, scale = Quantizer(get_format("float_e2m1_g16"), axis), found.group_scale(weight)
    else:
        core = Quantizer(found.format, axis, found.scale_rule)
        scale = core.scale(weight)
    return core.apply(weight, scale), core, scale


def _acts(quantizer: nn.Module) -> bool:
    """Whether it changes what passes: a quantizer that is switched off still multiplies and rotates."""
    if type(quantizer).__name__ == "SequentialQuantizer":
        return any(_acts(part) for part in quantizer.children())
    switched_off = not quantizer.is_enabled and quantizer.pre_quant_scale is None
    return not (switched_off and not quantizer.rotate_is_enabled)


def _input(quantizer: nn.Module | None) -> Quantizer | None:
    """The quantizer of inputs, behind the factors that the tool multiplies them with. Raises UnsupportedError."""
    if quantizer is None:
        return None
    one = type(quantizer).__name__ == "TensorQuantizer"
    found = _quantizer(quantizer, "input") if not one or quantizer.is_enabled else None
    factor = quantizer.pre_quant_scale
    if factor is None:
        return found
    if quantizer.rotate_is_enabled:
        raise UnsupportedError("its inputs are rotated, which is not carried")
    shown = get_format("mxint8") if found is None else found.format
    return _Smoothed(shown, QuantLayer.input_axis, factor=factor.detach().float(), then=found)


def _quantizer(quantizer: nn.Module, what: str) -> ToolInput:
    """Ours for one of ModelOpt's. Raises UnsupportedError where it is not carried."""
    if type(quantizer).__name__ != "TensorQuantizer":
        raise UnsupportedError(f"its {what} has a {type(quantizer).__name__}; carried is one TensorQuantizer")
    sizes: Mapping = quantizer.block_sizes or {}
    told = f"num_bits {quantizer.num_bits!r}, block_sizes {dict(sizes)!r}"
    for name, wanted in (("rotate_is_enabled", False), ("backend", None), ("bias", None), ("fake_quant", True)):
        if getattr(quantizer, name) != wanted:
            raise UnsupportedError(f"its {what} quantizer has {name} {getattr(quantizer, name)!r}; carried is {wanted}")
    group = {key: size for key, size in sizes.items() if isinstance(key, int)}
    dynamic, scale_bits = sizes.get("type") == "dynamic", sizes.get("scale_bits")
    size, format_name = group.get(-1), _FORMATS.get(quantizer.num_bits)
    if dynamic and scale_bits == _E8M0 and len(group) == 1 and size in (8, 16, 32) and format_name is not None:
        return ToolInput(get_format(f"{format_name}_g{size}"), QuantLayer.input_axis, "rceil")
    if dynamic and scale_bits == _E4M3 and group == {-1: 16} and quantizer.num_bits == (2, 1):
        return _nvfp4(quantizer, what)
    raise UnsupportedError(
        f"its {what} is quantized with {told}; carried are dynamic groups along the last axis: of 8, 16 or 32 with "
        f"scales of 8 exponent bits (num_bits {', '.join(map(str, _FORMATS))}), and NVFP4"
    )


def _nvfp4(quantizer: nn.Module, what: str) -> ModelOptNVFP4Input:
    amax = getattr(quantizer, "_amax", None)
    if amax is None:
        raise UnsupportedError(f"its {what} is quantized as NVFP4 and was never calibrated; give mtq.quantize a loop")
    largest = amax.detach().float().max()
    level = float(largest / torch.full_like(largest, _NVFP4_LEVELS))
    if not 0 < level < float("inf"):
        raise UnsupportedError(f"its {what} has the largest magnitude {float(amax.max())}; expected a number above 0")
    return ModelOptNVFP4Input(get_format("nvfp4"), QuantLayer.input_axis, zeros="cleared after", level=level)


def _compressed(weight: Tensor, quantizer: nn.Module) -> tuple[Tensor, Quantizer, Tensor]:
    """Values, quantizer and scale of a weight after `mtq.compress`. Raises UnsupportedError."""
    shape = tuple(weight.metadata["shape"])
    tensors = {"weight": weight.data, "weight_scale": quantizer._scale}
    if (upper := getattr(quantizer, "_double_scale", None)) is not None:
        tensors["weight_scale_2"] = upper
    stored = weights.read_weight({name: tensor.detach().cpu() for name, tensor in tensors.items()}, shape)
    fmt: GroupFormat = stored.export_format
    return (
        torch.from_numpy(stored.values),
        Quantizer(fmt, 1, "rceil" if fmt.is_mx else "floor"),
        torch.from_numpy(stored.scale),
    )
