"""What only a run of the Brevitas model tells: scales of biases that follow the input, and saturated activations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError


@dataclass
class Observed:
    """What runs on example inputs showed; empty where there were none."""

    biases: dict[nn.Module, list] = field(default_factory=dict)
    counts: dict[nn.Module, list[int]] = field(default_factory=dict)
    averages: dict[nn.Module, list] = field(default_factory=dict)
    sizes: dict[nn.Module, tuple[int, ...]] = field(default_factory=dict)
    """Spatial sizes of what adaptive pools got."""
    ran: bool = False

    def bias(self, name: str, proxy: nn.Module):
        """The quant tensor a bias quantizer made; None if it never ran.

        Raises:
            UnsupportedError: its scale changed from input to input, or from one use of the layer to another.
        """
        made = self.biases.get(proxy, [])
        if any(not torch.equal(made[0].scale, other.scale) for other in made[1:]):
            raise UnsupportedError(
                "from_brevitas: a bias cannot be converted",
                [(name, "its scale changes with the input; use a float bias or one with its own scale")],
            )
        return made[0] if made else None

    def average(self, name: str, proxy: nn.Module):
        """The quant tensor whose low bits a quantizer drops; None where it got none.

        Raises:
            UnsupportedError: no example inputs, or a scale that changed from input to input.
        """
        if not self.ran:
            raise UnsupportedError(
                "from_brevitas: a pool cannot be converted",
                [(name, "its scale is that of the quant tensor it gets; give example inputs (args)")],
            )
        seen = self.averages.get(proxy, [])
        if any(not torch.equal(seen[0].scale, other.scale) for other in seen[1:]):
            raise UnsupportedError(
                "from_brevitas: a pool cannot be converted",
                [(name, "its scale changes with the input; use nn.AvgPool2d and a QuantIdentity")],
            )
        return seen[0] if seen else None

    def clipped(self, proxy: nn.Module) -> float | None:
        """Share of the values an integer quantizer saturated; None if it never ran."""
        saturated, total = self.counts.get(proxy, (0, 0))
        return saturated / total if total else None


def as_tuple(args: object) -> tuple:
    """Example inputs by position; one alone needs no tuple."""
    return tuple(args) if isinstance(args, (tuple, list)) else (args,)


def observe(model: nn.Module, args: tuple | None) -> Observed:
    """Run `model` on the inputs, and once more on others, with hooks on its quantizers."""
    from brevitas.proxy.groupwise_int_runtime_quant import GroupwiseActQuantProxyFromInjector
    from brevitas.proxy.parameter_quant import BiasQuantProxyFromInjectorBase
    from brevitas.proxy.runtime_quant import TruncQuantProxyFromInjector

    seen = Observed(ran=args is not None)
    if args is None:
        return seen
    args = as_tuple(args)
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.AdaptiveAvgPool2d):
            hooks.append(module.register_forward_pre_hook(_remember_size(seen)))
        if isinstance(module, BiasQuantProxyFromInjectorBase):
            hooks.append(module.register_forward_hook(_remember_bias(seen)))
        elif isinstance(module, TruncQuantProxyFromInjector):
            hooks.append(module.register_forward_hook(_remember_average(seen)))
        elif isinstance(module, GroupwiseActQuantProxyFromInjector):
            hooks.append(module.register_forward_hook(_count_saturated(seen)))
    try:
        if hooks:
            model(*args)
            counts = {proxy: list(c) for proxy, c in seen.counts.items()}
            model(*_others(args))
            seen.counts = counts
    except Exception as error:  # whatever the user's forward raises
        raise UnsupportedError(f"from_brevitas: the model fails on the example inputs: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _others(args: tuple) -> list:
    """Other values; what was one tensor stays one, for attention asks whether its keys are its queries."""
    made = {id(a): -0.5 * a for a in args if isinstance(a, Tensor) and a.is_floating_point()}
    return [made.get(id(a), a) for a in args]


def _remember_bias(seen: Observed):
    def hook(proxy: nn.Module, inputs: tuple, output) -> None:
        if hasattr(output, "scale"):
            seen.biases.setdefault(proxy, []).append(output)

    return hook


def _remember_average(seen: Observed):
    def hook(proxy: nn.Module, inputs: tuple, output) -> None:
        if hasattr(inputs[0], "scale"):
            seen.averages.setdefault(proxy, []).append(inputs[0])

    return hook


def _remember_size(seen: Observed):
    def hook(pool: nn.Module, inputs: tuple) -> None:
        seen.sizes[pool] = tuple(inputs[0].shape[-2:])

    return hook


def _count_saturated(seen: Observed):
    def hook(proxy: nn.Module, inputs: tuple, output) -> None:
        if not hasattr(output, "scale_"):
            return
        x = inputs[0] if isinstance(inputs[0], Tensor) else inputs[0].value
        x = proxy.fused_activation_quant_proxy.activation_impl(x)
        high = 2 ** (int(output.bit_width) - bool(output.signed)) - 1
        low = -high - 1 + bool(proxy.is_narrow_range) if output.signed else 0
        codes = torch.round(x / output.scale)
        count = seen.counts.setdefault(proxy, [0, 0])
        count[0] += int(((codes > high) | (codes < low)).sum())
        count[1] += codes.numel()

    return hook
