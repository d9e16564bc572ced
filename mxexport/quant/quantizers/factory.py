"""Quantizers of weights and activations by scale source, and the end of calibration."""

from __future__ import annotations

from torch import Tensor, nn

from mxexport.errors import FormatError, UnsupportedError
from mxexport.numbers.formats import GroupFormat, ScaleRule, get_format
from mxexport.quant.deprecated import resolve_scaling
from mxexport.quant.kernels.fake_quantization import Quantizer
from mxexport.quant.quantizers.sources import SOURCES, ScaleSource, StaticScale, StoredScale


def weight_quantizer(
    weight: Tensor,
    fmt: str | GroupFormat,
    axis: int = 1,
    *,
    source: str = "dynamic",
    scale_rule: ScaleRule = "floor",
    scaling_per_output: str | None = None,
    scaling_per_output_channel: bool | None = None,
    channel_axis: int = 0,
) -> ScaleSource:
    """A quantizer of `weight` (or weights of its shape), ready to use; groups run along `axis`.

    Raises:
        FormatError: unknown format, rule, source or granularity, or a combination that does not exist.
    """
    per = resolve_scaling(scaling_per_output, scaling_per_output_channel)
    if weight.is_meta and source != "dynamic":
        raise FormatError(f"scale source {source!r} takes its scales from the weight, which has no data on device meta")
    made = _source(source, Quantizer(get_format(fmt), axis, scale_rule, per, channel_axis), init=weight)
    if isinstance(made, StoredScale):
        made.calibrate(weight.detach())
    return made


def activation_quantizer(
    fmt: str | GroupFormat,
    axis: int = -1,
    *,
    source: str = "dynamic",
    scale_rule: ScaleRule = "floor",
    scaling_per_output: str | None = None,
    scaling_per_output_channel: bool | None = None,
    channel_axis: int = 1,
    signed: bool = True,
    length: int | None = None,
) -> ScaleSource:
    """A quantizer of activations; stored scales are shared by all dimensions but the axis (or the channels).

    `signed` False: after ReLU. `length`: size of the axis, which learned scales of groups and channels need.

    Raises:
        FormatError: unknown format, rule, source or granularity, or a combination that does not exist.
    """
    per = resolve_scaling(scaling_per_output, scaling_per_output_channel)
    core = Quantizer(get_format(fmt), axis, scale_rule, per, channel_axis, signed)
    return _source(source, core, shared=True, length=length)


def freeze_scales(model: nn.Module) -> None:
    """End calibration: every static scale of `model` becomes constant.

    A module may hold quantizers that it does not need for the inputs it gets (the keys of self-attention are its
    queries); those that observed nothing beside others that did are left open.

    Raises:
        UnsupportedError: names the modules whose quantizers observed nothing at all.
    """
    scales = {name: module for name, module in model.named_modules() if isinstance(module, StaticScale)}
    seen = {name for name, module in scales.items() if module.calibrated or module.low is not None}
    layers = {name.rpartition(".")[0] for name in seen if name.endswith("_quant") and scales[name].shared}
    unseen = [name for name in scales if name not in seen]
    if missed := [n for n in unseen if not (n.endswith("_quant") and n.rpartition(".")[0] in layers)]:
        problems = [(name or type(model).__name__, "nothing was observed") for name in missed]
        raise UnsupportedError("static scales cannot be frozen; run data through the model first", problems)
    for name in seen:
        scales[name].freeze()


def _source(name: str, core: Quantizer, shared: bool = False, **start) -> ScaleSource:
    if name not in SOURCES:
        raise FormatError(f"unknown scale source {name!r}; expected one of {', '.join(SOURCES)}")
    return SOURCES[name](core, shared, **(start if name == "learned" else {}))
