"""Where scales come from: modules around a `Quantizer` with its interface (`scale`, `zero_point`, `apply`, call).

    dynamic   from every tensor anew                                 (no state)
    static    observed during calibration, then frozen               (buffers)
    mse       searched once for the smallest squared error           (buffers; weights)
    learned   trained with the model, LSQ gradient                   (parameter)

`quantizers` makes them. To add a source, subclass `ScaleSource` and add one line to `SOURCES`. A scale that is stored
reaches an exported file as an initializer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxexport.errors import FormatError, UnsupportedError
from mxexport.numbers.formats import GroupFormat, rule_name, with_group_size
from mxexport.quant.kernels import operators, scales, transforms
from mxexport.quant.kernels.fake_quantization import Quantizer
from mxexport.quant.quantizers.across_processes import over_ranks
from mxexport.quant.quantizers.learned import learned_apply, learned_scale


def only_moved(tensor: Tensor, cast: Tensor) -> Tensor:
    """A scale where `cast` is, in the type it has: float16 has no 2**-127, and bfloat16 would round float scales."""
    return cast if cast.dtype == tensor.dtype else tensor.to(cast.device)


class ScaleSource(nn.Module):
    """A `Quantizer` (`core`) whose scales come from somewhere; this base takes them from every tensor anew.

    `shared`: one scale for each group position, whatever the other dimensions (activations); otherwise the stored
    scale is the contracted one of the tensor itself (weights). `device`: where scales go that are loaded before there
    are any.
    """

    def __init__(self, core: Quantizer, shared: bool = False):
        super().__init__()
        self.core, self.shared = core, shared
        self.device = torch.get_default_device()

    format = property(lambda self: self.core.format)
    axis = property(lambda self: self.core.axis)
    scale_rule = property(lambda self: self.core.scale_rule)
    scaling_per_output = property(lambda self: self.core.scaling_per_output)

    def scale(self, x: Tensor) -> Tensor:
        """Scale of `x`: contracted, or with sizes 1 where one scale serves many groups."""
        return self.core.scale(x)

    def zero_point(self, x: Tensor, scale: Tensor) -> Tensor | None:
        return self.core.zero_point(x, scale)

    def apply(self, x, scale: Tensor | None = None, zero_point: Tensor | None = None):
        """`Quantizer.apply`; with one callable argument `nn.Module.apply`, which has the same name."""
        if scale is None and not isinstance(x, Tensor):
            return super().apply(x)
        scale, zero_point = (None if part is None else self.expand_scale(part, x) for part in (scale, zero_point))
        return self._apply_quantizer(x, scale, zero_point)

    def _apply_quantizer(self, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
        return self.core.apply(x, scale, zero_point)

    def forward(self, x: Tensor) -> Tensor:
        self.core.check(x)
        scale = self.scale(x)
        return self.apply(x, scale, self.zero_point(x, scale))

    def expand_scale(self, scale: Tensor, x: Tensor) -> Tensor:
        return self.core.expand_scale(scale, x)

    def group_format(self, x: Tensor) -> GroupFormat:
        return self.core.group_format(x)

    def tensor_scale(self, x: Tensor) -> Tensor | None:
        return self.core.tensor_scale(x)

    def restart(self, weight: Tensor) -> None:
        """Forget stored scales and take those of `weight` (quantizers of weights)."""

    def _apply(self, fn, recurse: bool = True):
        """Scales stay float32 when a model is cast."""
        self.device = fn(torch.empty(0, device=self.device)).device
        return super()._apply(lambda tensor: only_moved(tensor, fn(tensor)), recurse)

    def extra_repr(self) -> str:
        rule = f", scale_rule={rule_name(self.scale_rule)}" if self.format.is_mx else ""
        return f"{self.format.name}, axis={self.axis}, scaling_per_output={self.scaling_per_output}{rule}"


class DynamicScale(ScaleSource):
    """A scale found anew from every tensor: what the quantizer does by itself, on its fastest road."""

    source = "dynamic"

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)


class StoredScale(ScaleSource):
    """Scales in buffers, filled by `calibrate`; the state dict holds them."""

    def __init__(self, core: Quantizer, shared: bool = False):
        super().__init__(core, shared)
        for name in ("stored_scale", "stored_zero_point", "stored_tensor_scale"):
            self.register_buffer(name, None)

    @property
    def calibrated(self) -> bool:
        return self.stored_scale is not None

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Store the scale of `x`."""
        self.stored_scale = self._find(x).clone()
        zero = self.core.zero_point(x, self.stored_scale)
        tensor_scale = self.core.tensor_scale(x)
        self.stored_zero_point = None if zero is None else zero.clone()
        self.stored_tensor_scale = None if tensor_scale is None else tensor_scale.clone()

    restart = calibrate

    def _find(self, x: Tensor) -> Tensor:
        return self.core.scale(x)

    def scale(self, x: Tensor) -> Tensor:
        if not self.calibrated:
            raise UnsupportedError(
                f"{type(self).__name__} of {self.format.name} has no scale yet; run data through it, then freeze it"
            )
        return self._place(self.stored_scale, x)

    def zero_point(self, x: Tensor, scale: Tensor) -> Tensor | None:
        return None if self.stored_zero_point is None else self._place(self.stored_zero_point, x)

    def tensor_scale(self, x: Tensor) -> Tensor | None:
        return self.stored_tensor_scale

    def _place(self, stored: Tensor, x: Tensor) -> Tensor:
        """A shared scale is a vector; it lies along the axis (or the channels) of `x`, whatever its rank."""
        if not self.shared:
            return stored
        sizes = [1] * x.ndim
        sizes[_shared_dim(self.core, x.ndim)] = -1
        return stored.reshape(sizes)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if not self.shared and _is_foreign(state_dict, prefix):
            return
        for name in ("stored_scale", "stored_zero_point", "stored_tensor_scale"):
            given, held = state_dict.get(prefix + name), getattr(self, name)
            if given is not None and (held is None or held.shape != given.shape):
                device = self.device if held is None else held.device
                setattr(self, name, torch.empty_like(given, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class StaticScale(StoredScale):
    """Observes what passes (and quantizes it dynamically) until `freeze`; from then on the scale is constant.

    Weights are frozen at the first tensor they see; activations keep the largest magnitude (asymmetric: the range)
    of each position on the axis.
    """

    source = "static"

    def __init__(self, core: Quantizer, shared: bool = False):
        super().__init__(core, shared)
        self.register_buffer("low", None, persistent=False)
        self.register_buffer("high", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.calibrated and not self.shared:
            self.calibrate(x)
        if self.calibrated:
            return super().forward(x)
        if torch.compiler.is_exporting():
            raise UnsupportedError(
                f"static scale of {self.format.name} is not frozen; run data through the model, then call "
                "mxexport.quant.freeze_scales(model)"
            )
        self.observe(x)
        return self.core(x)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take `x` into the range seen so far, under DDP that of all ranks.

        Raises UnsupportedError inside torch.func, where nothing may be kept.
        """
        if not torch.compiler.is_compiling() and transforms.in_torch_func():
            raise UnsupportedError(
                f"{self.source} scale of {self.format.name} has no value yet and cannot take one inside torch.func; "
                "run data through the model first (and freeze static scales)"
            )
        self.core.check(x)
        if x.numel() == 0:
            return
        x = x.detach().float()
        others = [d for d in range(x.ndim) if d != _shared_dim(self.core, x.ndim)]
        if self.core.scaling_per_output == "tensor":
            low, high = x.amin().reshape(1), x.amax().reshape(1)
        else:
            low, high = (x.amin(others), x.amax(others)) if others else (x, x)
        low, high = over_ranks(low, high)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    @torch.no_grad()
    def freeze(self) -> None:
        """Make the observed range the scale. Raises UnsupportedError when nothing was observed."""
        if self.calibrated:
            return
        if self.low is None:
            raise UnsupportedError(f"static scale of {self.format.name}: nothing was observed; run data through first")
        vector, vector_core = self._vector()
        self.stored_scale = vector_core.scale(vector)
        self.stored_zero_point = vector_core.zero_point(vector, self.stored_scale)
        self.stored_tensor_scale = vector_core.tensor_scale(vector)
        self.low = self.high = None

    def _vector(self) -> tuple[Tensor, Quantizer]:
        """The observed range as a vector, and a quantizer whose groups are those of the axis."""
        low, high, c = self.low, self.high, self.core
        size = c.format.group_size if c.scaling_per_output == "group" else 1
        vector = torch.maximum(low.abs(), high.abs()) if c.signed else high.clamp(min=0)
        if c.has_zero_point:
            vector, size = torch.stack([low, high], 1).flatten(), 2 * size
        fmt = c.format if size == c.format.group_size else with_group_size(c.format, size)
        return vector, Quantizer(fmt, 0, c.scale_rule, "group", signed=c.signed)


class MseScale(StoredScale):
    """The stored scale with the smallest squared error of a few candidates, found once (see `numbers.scales`)."""

    source = "mse"

    def __init__(self, core: Quantizer, shared: bool = False):
        _refuse(core, "mse", shared, "searched for weights only; use 'static' or 'learned'")
        super().__init__(core, shared)

    def forward(self, x: Tensor) -> Tensor:
        if not self.calibrated:
            self.calibrate(x)
        return super().forward(x)

    def _find(self, x: Tensor) -> Tensor:
        return search(self.core, x)


class LearnedScale(ScaleSource):
    """A trained scale: parameter `raw_scale`, LSQ gradient; MX formats use the nearest power of two of it, exactly.

    Weights start from the scale of the weight (`init`); activations from the first tensor they see in training mode,
    and are quantized dynamically until then.
    """

    source = "learned"
    started = False
    """`initialized` as plain Python, which compiled code can branch on."""

    def __init__(self, core: Quantizer, shared: bool = False, *, init: Tensor | None = None, length: int | None = None):
        _refuse(core, "learned", False, "")
        super().__init__(core, shared)
        if init is None and core.scaling_per_output != "tensor" and length is None:
            raise FormatError(
                "a learned scale of groups or channels needs `length`, the size of the axis it runs along"
            )
        # No bool: averages of models, buffers included, subtract.
        self.register_buffer("initialized", torch.tensor(init is not None, dtype=torch.uint8))
        self.register_buffer("stored_zero_point", None)
        self.started = init is not None
        if init is not None:
            self.raw_scale = nn.Parameter(self._raw(core.scale(init.detach())))
            self.stored_zero_point = core.zero_point(init.detach(), core.scale(init.detach()))
            return
        size = core.format.group_size if core.scaling_per_output == "group" else 1
        count = 1 if core.scaling_per_output == "tensor" else -(-length // size)
        self.raw_scale = nn.Parameter(torch.ones(count, dtype=torch.float32))
        if core.has_zero_point:
            self.stored_zero_point = torch.zeros(count, dtype=torch.float32)

    def _raw(self, scale: Tensor) -> Tensor:
        """MX: the shared power of two, not the step of one integer."""
        raw = scale.clone() * 2.0**self.format.step_frac_bits
        return torch.where(raw.isfinite(), raw, torch.ones_like(raw))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start from the scale that a static quantizer would give `x`."""
        start = StaticScale(self.core, shared=True)
        start.observe(x)
        start.freeze()
        self.raw_scale.copy_(self._raw(start.stored_scale))
        if self.stored_zero_point is not None:
            self.stored_zero_point.copy_(start.stored_zero_point)
        self.initialized.fill_(True)
        self.started = True

    @torch.no_grad()
    def restart(self, weight: Tensor) -> None:
        scale = self.core.scale(weight)
        self.raw_scale.copy_(self._raw(scale))
        if self.stored_zero_point is not None:
            self.stored_zero_point.copy_(self.core.zero_point(weight, scale))

    @torch.compiler.disable(reason="the first tensor sets a learned scale: run the model once, then compile it")
    def _start(self, x: Tensor) -> None:
        if not self.initialized:
            self.initialize(x)
        self.started = True

    def forward(self, x: Tensor) -> Tensor:
        if self.started:
            return super().forward(x)
        if torch.compiler.is_exporting():
            raise UnsupportedError(
                f"learned scale of {self.format.name} has not started; run data through in training mode first"
            )
        if not self.training or x.numel() == 0:
            return self.core(x)
        self._start(x)
        return super().forward(x)

    def train(self, mode: bool = True) -> LearnedScale:
        self.started = self.started or self._has_started()  # buffers may have been written from outside
        return super().train(mode)

    def _has_started(self) -> bool:
        return not self.initialized.is_meta and bool(self.initialized)

    def scale(self, x: Tensor) -> Tensor:
        raw, elements = self.raw_scale, x.numel() // max(self.raw_scale.numel(), 1)
        if not self.shared and self.scaling_per_output != "group":
            raw = self.core.expand_scale(raw, x)  # before the rounding: export folds both into one initializer
        return self._place(learned_scale(raw, self.format, elements), x)

    def zero_point(self, x: Tensor, scale: Tensor) -> Tensor | None:
        return None if self.stored_zero_point is None else self._place(self.stored_zero_point, x)

    _place = StoredScale._place

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if _is_foreign(state_dict, prefix) and not (self.shared and self.started):
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.started = self._has_started()

    def _apply_quantizer(self, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
        return learned_apply(self.core, x, scale, zero_point)


SOURCES: dict[str, type[ScaleSource]] = {
    kind.source: kind for kind in (DynamicScale, StaticScale, MseScale, LearnedScale)
}


def search(core: Quantizer, x: Tensor) -> Tensor:
    """The scale of `x` with the smallest squared error among the candidates around the rule's own."""
    x = x.detach().float()
    axis = core.axis % x.ndim

    def squared_error(scale: Tensor) -> Tensor:
        y = core.apply(x, scale, core.zero_point(x, scale))
        error = (x.double() - y.double()) ** 2
        if core.scaling_per_output == "group":
            return scales.tree_sum(operators.split_groups(error, axis, core.format.group_size), axis + 1)
        if core.scaling_per_output == "tensor":
            return scales.tree_sum(error.flatten(), 0).reshape(scale.shape)
        channels = error.movedim(core.channel_axis, 0).flatten(1)
        return scales.tree_sum(channels, 1).reshape(scale.shape)

    return scales.search_scale(scales.candidates(core.scale(x), core.format), squared_error)


def _is_foreign(state_dict: dict, prefix: str) -> bool:
    """True for a state dict without this quantizer, as that of the float model is: nothing is missing then.

    Scales of weights follow the weights that were loaded (`QuantLayer`), those of activations have yet to start.
    """
    return not any(key.startswith(prefix) for key in state_dict)


def _refuse(core: Quantizer, name: str, unsupported: bool, why: str) -> None:
    if core.format.scale in ("nvfp4", "nested"):
        raise FormatError(f"{core.format.name}: scales in two levels cannot be {name}; use 'dynamic' or 'static'")
    if unsupported:
        raise FormatError(f"{core.format.name}: scale source {name!r}: {why}")


def _shared_dim(core: Quantizer, rank: int) -> int:
    """The dimension that a shared scale lies along."""
    return (core.channel_axis if core.scaling_per_output == "channel" else core.axis) % rank
