"""torchao models -> mxexport models: scales are read, never found again; element codes are equal bit for bit.

Read are Linear weights of torchao 0.18's `MXTensor` and `NVFP4Tensor` (what its inference configs leave behind) and
its QAT layers, before the convert step or after it. What differs from torchao, by name:

    computation       torchao multiplies in the model's dtype (its configs demand bfloat16); here it is float32
    NVFP4 weights     exported as `float_e2m1_g16`: one float32 scale per group, block scale times tensor scale
    NVFP4 activations as torchao finds them on the CPU, in operators around `MXFloatQuant`; under a scale of the tensor
                      found at run time an input of zeros is NaN, as in torchao
    MX activations    torchao's scale rule, computed exactly. torchao itself is off in three cases, which
                      `activation_differences` counts: groups so small that the scale code is 0 or 1 (it divides by
                      another scale than it stores), `rceil` within float32 rounding of a power of two, and groups
                      that hold Inf or NaN (OCP makes them NaN)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mxexport.errors import MissingToolError, UnsupportedError
from mxexport.frontends.assembling import assemble
from mxexport.frontends.stored import StoredLinear, StoredWeight, stored_weight, to_nearest
from mxexport.numbers import groups, numerics, quantized
from mxexport.numbers.bits import equal_bits
from mxexport.numbers.formats import GroupFormat, get_format
from mxexport.quant import Quantizer, QuantLayer
from mxexport.quant.kernels import operators

_ELEMENTS = {
    "torch.float8_e4m3fn": "mxfp8_e4m3",
    "torch.float8_e5m2": "mxfp8_e5m2",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp6_e2m3": "mxfp6_e2m3",
    "torch.float4_e2m1fn_x2": "mxfp4_e2m1",
}

_PLAIN_ELEMENTS = {f"torch.int{bits}": f"int{bits}" for bits in range(2, 9)} | {
    "torch.float8_e4m3fn": "float_ocp_e4m3",
    "torch.float8_e5m2": "float_ocp_e5m2",
}


def is_torchao(model: nn.Module) -> bool:
    """True when a module or a parameter of `model` is torchao's. Does not import torchao."""
    return isinstance(model, nn.Module) and any(_of_torchao(module) for module in model.modules())


def from_torchao(model: nn.Module) -> nn.Module:
    """The mxexport model (float32, eval mode, no trainable weights) of a torchao model, which is left as it is.

    Every quantized Linear becomes a `StoredLinear`; all else is copied and cast to float32.

    Raises:
        MissingToolError: torchao is not installed, or is a version without MX formats.
        UnsupportedError: nothing to convert, or torchao layers that cannot be carried (each is named).
    """
    _torchao()
    replacements, problems, refused, lower_precision = {}, [], [], []
    for name, module in model.named_modules():
        if not _of_torchao(module):
            continue
        try:
            replacements[name] = _convert(module)
            if module.weight.dtype != torch.float32:
                lower_precision.append(name or type(module).__name__)
        except UnsupportedError as error:
            problems.append((name or type(module).__name__, str(error)))
            refused.append(module)
    if problems:
        raise UnsupportedError(f"from_torchao: layers that cannot be carried{_instead(refused)}", problems)
    if not replacements:
        raise UnsupportedError(
            "from_torchao: no layer has MXTensor or NVFP4Tensor weights; quantize the model first with "
            "torchao.quantization.quantize_ and one of torchao's MX or NVFP4 configs"
        )
    if lower_precision:
        warnings.warn(
            "torchao multiplies in bfloat16, this model in float32, so outputs differ by rounding (codes and scales "
            f"do not): {', '.join(lower_precision)}",
            stacklevel=2,
        )
    return assemble(model, replacements, "from_torchao")


@dataclass(frozen=True)
class NVFP4Input(Quantizer):
    """torchao's NVFP4 activations (`nvfp4_quantize`): E4M3 block scales over a float32 scale of the tensor.

    torchao multiplies by the product of two reciprocals where the operators divide by a scale. So elements are found
    under scales of one, between two multiplications.

    `tensor_scale`: the calibrated float32 scale; None finds it from each input where `dynamic`, else it is 1.
    """

    tensor_scale: Tensor | None = None
    dynamic: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        axis = x.ndim - 1
        blocks = operators.split_groups(x.float(), axis, self.format.group_size)
        nan = blocks.isnan()  # apart: onnxruntime's largest value need not be NaN where there is one
        bad = nan.float().amax(-1, keepdim=True) > 0
        amax = torch.where(nan, 0.0, blocks.abs()).amax(-1, keepdim=True)
        tensor_scale = self.tensor_scale
        if self.dynamic:
            largest = amax.max()
            usable = (largest > 0) & largest.isfinite()  # torchao makes NaN of the rest, zeros included
            bad = (bad.float().max() > 0) | ~usable
            tensor_scale = torch.where(usable, largest, 1.0) / amax.new_full((), 6.0 * 448)
        up, down = self._factors(amax / amax.new_full((), 6.0), tensor_scale)
        # onnxruntime's Where takes -0 for +0: factors are chosen, not values. Zeros never meet an infinite one.
        values = to_nearest(blocks * torch.where(blocks == 0, 1.0, up), self.format.element) * down
        return operators.join_groups(values * torch.where(bad, torch.nan, 1.0), axis, x.shape[axis])

    @staticmethod
    def _factors(scale: Tensor, tensor_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """What blocks are multiplied with before and after rounding."""
        wanted = scale if tensor_scale is None else scale / tensor_scale
        code = to_nearest(wanted.clamp(2.0**-6, 448.0), numerics.NVFP4_SCALE)
        one = code.new_ones(())
        return (one / code, code) if tensor_scale is None else (one / tensor_scale / code, tensor_scale * code)


# --- weights ----------------------------------------------------------------------------------------------------


def read_weight(weight: Tensor) -> StoredWeight:
    """Codes and scales of an `MXTensor` or `NVFP4Tensor` [O, K], checked to be a fixed point of quantization.

    Raises:
        UnsupportedError: another kind or layout of tensor, or values that no float32 weight can carry.
    """
    ao = _torchao()
    if not isinstance(weight, (ao.mx_tensor.MXTensor, ao.nvfp4_tensor.NVFP4Tensor)):
        raise UnsupportedError(f"weight is a {type(weight).__name__}; expected torchao's MXTensor or NVFP4Tensor")
    if weight.ndim != 2 or not weight.qdata.is_contiguous():
        raise UnsupportedError(f"weight of shape {tuple(weight.shape)}; expected [O, K] with blocks along K")
    if isinstance(weight, ao.mx_tensor.MXTensor):
        fmt = _mx_format(weight.elem_dtype, weight.block_size)
        scale, tensor_scale = numerics.scale_from_codes(_scale_bytes(weight)), None
    else:
        fmt = get_format("nvfp4")
        tensor_scale = torch.ones(()) if weight.per_tensor_scale is None else weight.per_tensor_scale.detach().cpu()
        scale = tensor_scale.numpy() * numerics.decode(_scale_bytes(weight), numerics.NVFP4_SCALE)
    return stored_weight(_element_bytes(weight, fmt), scale, fmt, tensor_scale)


def _instead(layers: list[nn.Module]) -> str:
    """What to do about integer and float8 weights, whose scales follow torchao's own arithmetic: words or nothing."""
    weights = [layer.weight for layer in layers if isinstance(getattr(layer, "weight", None), Tensor)]
    weights = [w for w in weights if _plain_element(w) and w.ndim == 2 and isinstance(w.block_size, (list, tuple))]
    if not weights:
        return ""
    first, longest = weights[0], max(weight.shape[1] for weight in weights)
    element, size = _plain_element(first), first.block_size[1]
    spec = f'"{element}_g{size}"'
    if size == first.shape[1]:
        spec = f'mx.QuantSpec("{element}", scaling_per_output="channel")'
    dynamic = getattr(first, "act_quant_kwargs", None) or getattr(first, "activation_quantization", None)
    of_input = element if element.startswith("float") else "int8"
    activation = f'"{of_input}_g{longest}"' if dynamic else "None"  # one scale for each row of the input
    return (
        "; only torchao's MX and NVFP4 weights are read. Quantize the float model here in its place: "
        f"mx.quantize_model(model, weight={spec}, activation={activation}). Where only this model is left, "
        "layer.weight = torch.nn.Parameter(layer.weight.dequantize()) makes a layer float first"
    )


def _plain_element(weight: Tensor) -> str | None:
    """The format of the elements of an integer or float8 weight; None for weights of another kind."""
    if not hasattr(weight, "block_size"):
        return None
    dtype = getattr(weight, "target_dtype", getattr(getattr(weight, "qdata", None), "dtype", None))
    return _PLAIN_ELEMENTS.get(str(dtype))


def _mx_format(element, block_size: int) -> GroupFormat:
    if str(element) not in _ELEMENTS:
        raise UnsupportedError(f"element type {element}; expected one of {', '.join(_ELEMENTS)}")
    return get_format(f"{_ELEMENTS[str(element)]}_g{block_size}")


def _element_bytes(weight: Tensor, fmt: GroupFormat) -> np.ndarray:
    """Element codes uint8 [O, K]; torchao packs two 4-bit codes in a byte, the first in the low half."""
    data = weight.qdata.detach().cpu().view(torch.uint8).numpy()
    return np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1) if fmt.element.bits == 4 else data


def _scale_bytes(weight: Tensor) -> np.ndarray:
    """Scale codes uint8 [O, n]; torchao may keep them in the blocked order its kernels want."""
    codes = weight.scale.detach().cpu().view(torch.uint8)
    shape = (weight.shape[0], weight.shape[1] // weight.block_size)
    if weight.is_swizzled_scales:
        codes = _torchao().utils.from_blocked(codes.contiguous(), *shape)
    return np.ascontiguousarray(codes.reshape(shape).numpy())


# --- modules ----------------------------------------------------------------------------------------------------


def _torchao():
    """torchao's package of MX formats. Raises MissingToolError where there is none."""
    try:
        from torchao.prototype import mx_formats
        from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor, utils  # noqa: F401 (attributes of mx_formats)
    except ImportError as error:
        raise MissingToolError(
            f"from_torchao needs torchao with MX formats ({error}); install it: pip install 'torchao>=0.18'"
        ) from error
    return mx_formats


def _of_torchao(module: nn.Module) -> bool:
    owned = (module, *module._parameters.values(), *module._buffers.values())
    return any(type(thing).__module__.split(".")[0] == "torchao" for thing in owned)


def _convert(module: nn.Module) -> StoredLinear:
    """The mxexport layer of one torchao layer. Raises UnsupportedError without its name, which the caller knows."""
    kind = type(module).__name__
    if kind == "NVFP4ObservedLinear":
        raise UnsupportedError("NVFP4ObservedLinear is still observing; run quantize_ with step='convert' first")
    if not isinstance(module, nn.Linear):
        raise UnsupportedError(f"{kind} is not a Linear")
    if kind in ("MXFakeQuantizedLinear", "NVFP4FakeQuantizedLinear"):
        stored, input_quant = _read_qat(module)
    else:
        stored, input_quant = read_weight(module.weight), _input_quantizer(module.weight)
    return StoredLinear(stored, module.bias, input_quant).to(module.weight.device)


def _read_qat(module: nn.Module) -> tuple[StoredWeight, Quantizer]:
    """A QAT layer before its convert step: its weight, quantized by torchao as the layer's forward does."""
    ao, weight, config = _torchao(), module.weight.detach().contiguous(), module.weight_config
    if type(module).__name__ == "MXFakeQuantizedLinear":
        quantized = ao.mx_tensor.MXTensor.to_mx(weight, config.dtype, config.block_size, config.scaling_mode)
        a = module.activation_config
        return read_weight(quantized), _mx_input(a.dtype, a.block_size, a.scaling_mode)
    tensor_scale = None
    if config.use_per_tensor_scale:
        tensor_scale = ao.nvfp4_tensor.per_tensor_amax_to_scale(weight.abs().max())
    quantized = ao.nvfp4_tensor.NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=tensor_scale)
    dynamic = module.activation_config.use_per_tensor_scale
    return read_weight(quantized), NVFP4Input(get_format("nvfp4"), QuantLayer.input_axis, dynamic=dynamic)


def _input_quantizer(weight: Tensor) -> Quantizer | None:
    """What torchao does to the input of a layer with this weight; None for weights only."""
    kwargs = weight.act_quant_kwargs
    if kwargs is None:
        return None
    if hasattr(kwargs, "elem_dtype"):
        return _mx_input(kwargs.elem_dtype, kwargs.block_size, kwargs.scaling_mode)
    dynamic = kwargs.use_dynamic_per_tensor_scale
    tensor_scale = None if dynamic or weight.act_per_tensor_scale is None else weight.act_per_tensor_scale.detach()
    return NVFP4Input(get_format("nvfp4"), QuantLayer.input_axis, tensor_scale=tensor_scale, dynamic=dynamic)


def _mx_input(element, block_size: int, mode) -> Quantizer:
    return Quantizer(_mx_format(element, block_size), QuantLayer.input_axis, mode.value)


# --- report -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationDifference:
    """One layer's inputs: `values` that differ in bits between torchao's quantizer and ours, of `total`; by cause."""

    values: int
    total: int
    small_scale: int
    not_finite: int
    scale_rounding: int


def activation_differences(model: nn.Module, *inputs: Tensor) -> dict[str, ActivationDifference]:
    """Layer name -> how torchao's dynamic MX activations differ from ours, given the very same layer input.

    `model` comes from `from_torchao`; it runs once on `inputs`. Causes (each differing value counts in one):
    a scale code of 0 or 1, a group with Inf or NaN, and any other scale (torchao's `rceil` near powers of two).
    """
    found, handles = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, StoredLinear) and layer.input_quant is not None and layer.input_quant.format.is_mx:

            def record(layer, args, name=name):
                found[name] = _compare(layer.input_quant, args[0].detach().float())

            handles.append(layer.register_forward_pre_hook(record))
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _compare(quantizer: Quantizer, x: Tensor) -> ActivationDifference:
    ao, fmt = _torchao(), quantizer.format
    element = next(e for e, name in _ELEMENTS.items() if name == fmt.name.removesuffix(f"_g{fmt.group_size}"))
    element = getattr(torch, element.removeprefix("torch.")) if element.startswith("torch.") else element
    mode = ao.ScaleCalculationMode(quantizer.scale_rule)
    theirs = ao.mx_tensor.MXTensor.to_mx(x.contiguous(), element, fmt.group_size, mode).dequantize(torch.float32)
    differs = ~equal_bits(quantizer(x).numpy(), theirs.numpy())
    codes = quantized.quantize(x.numpy(), fmt, rule=quantizer.scale_rule).scale_codes
    codes = groups.expand(codes, -1, fmt.group_size, x.shape[-1])
    small, not_finite = (int((differs & where).sum()) for where in (codes <= 1, codes == 255))
    count = int(differs.sum())
    return ActivationDifference(count, differs.size, small, not_finite, count - small - not_finite)
