"""How one tensor of a layer is quantized, where a format name alone does not say enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, fields

from torch import Tensor

from mxexport.errors import FormatError
from mxexport.numbers.formats import GroupFormat, ScaleRule, check_rule, get_format
from mxexport.numbers.scales import check_scaling
from mxexport.quant.deprecated import resolve_scaling
from mxexport.quant.kernels.fake_quantization import Quantizer
from mxexport.quant.quantizers.factory import activation_quantizer, weight_quantizer
from mxexport.quant.quantizers.sources import SOURCES, ScaleSource


@dataclass(frozen=True, repr=False)
class QuantSpec:
    """A format with the options of `weight_quantizer` and `activation_quantizer`; stands wherever a format does.

    format: a format or its name.
    source: where scales come from: "dynamic", "static" (calibrated, then frozen), "mse" (weights), "learned".
    scaling_per_output: "group", "channel" or "tensor"; by default groups where the format has a group size.
    signed: False for activations that are never negative (after ReLU).
    scale_rule: rule of power-of-two scales, or the integer it adds; None takes the layer's.
    scaling_per_output_channel: deprecated; True stands for scaling_per_output="channel", False for "tensor".

    Raises:
        FormatError: unknown format, source, granularity or rule, or a combination that does not exist.
    """

    format: str | GroupFormat
    source: str = "dynamic"
    scaling_per_output: str | None = None
    signed: bool = True
    scale_rule: ScaleRule | None = None
    scaling_per_output_channel: InitVar[bool | None] = None

    def __post_init__(self, scaling_per_output_channel: bool | None):
        object.__setattr__(self, "format", get_format(self.format))
        if self.source not in tuple(SOURCES):
            raise FormatError(f"unknown scale source {self.source!r}; expected one of {', '.join(SOURCES)}")
        if not isinstance(self.signed, bool):
            raise FormatError(f"signed {self.signed!r}: expected True or False")
        chosen = resolve_scaling(self.scaling_per_output, scaling_per_output_channel)
        object.__setattr__(self, "scaling_per_output", chosen)
        check_scaling(self.format, chosen)
        if self.scale_rule is not None:
            check_rule(self.scale_rule)

    def __repr__(self) -> str:
        chosen = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        others = [f"{name}={value!r}" for name, value in chosen if name != "format"]
        return f"QuantSpec({', '.join([repr(self.name), *others])})"

    @property
    def name(self) -> str:
        return self.format.name

    @classmethod
    def from_mapping(cls, keys: Mapping) -> QuantSpec:
        """`QuantSpec(**keys)` of a table read from a file. Raises FormatError for keys that are missing or unknown."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(map(str, keys)) - {*known, "scaling_per_output_channel"}):
            raise FormatError(f"unknown key {unknown[0]!r}; expected {', '.join(known)}")
        if "format" not in keys:
            raise FormatError(f"a table without 'format'; expected {', '.join(known)}")
        return cls(**keys)


Format = str | GroupFormat | QuantSpec | Mapping | None
"""How one side of a layer is quantized; a table holds the fields of a `QuantSpec`, None keeps it in float."""


def make_weight_quantizer(
    fmt: Format, weight: Tensor | None, axis: int, channel_axis: int, scale_rule: ScaleRule = "floor"
) -> Quantizer | ScaleSource | None:
    """The quantizer of a weight; None where `fmt` is, or where a layer lacks that weight. Raises FormatError."""
    fmt = as_spec(fmt)
    if not isinstance(fmt, QuantSpec):
        return None if fmt is None else Quantizer(get_format(fmt), axis, scale_rule)
    if weight is None:
        return None
    if not fmt.signed:
        raise FormatError(f"{fmt.name}: weights are signed; leave `signed` out")
    return weight_quantizer(
        weight,
        fmt.format,
        axis,
        source=fmt.source,
        scale_rule=_rule(fmt, scale_rule),
        scaling_per_output=fmt.scaling_per_output,
        channel_axis=channel_axis,
    )


def make_activation_quantizer(
    fmt: Format, axis: int, scale_rule: ScaleRule = "floor", length: int | None = None
) -> Quantizer | ScaleSource | None:
    """The quantizer of an activation; None keeps it in float. `length`: size of the axis. Raises FormatError."""
    fmt = as_spec(fmt)
    if not isinstance(fmt, QuantSpec):
        return None if fmt is None else Quantizer(get_format(fmt), axis, scale_rule)
    return activation_quantizer(
        fmt.format,
        axis,
        source=fmt.source,
        scale_rule=_rule(fmt, scale_rule),
        scaling_per_output=fmt.scaling_per_output,
        channel_axis=axis,
        signed=fmt.signed,
        length=length,
    )


def as_spec(fmt: Format) -> Format:
    """A `QuantSpec` for a table of its fields; others as they are. Raises FormatError."""
    return QuantSpec.from_mapping(fmt) if isinstance(fmt, Mapping) else fmt


def _rule(spec: QuantSpec, scale_rule: ScaleRule) -> ScaleRule:
    """The spec's own rule; the layer's only where the format has one to choose."""
    return spec.scale_rule if spec.scale_rule is not None else scale_rule if spec.format.is_mx else "floor"
