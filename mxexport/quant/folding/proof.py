"""Which batch norms may be folded into the layer before them, and why the others may not.

A norm is folded only where it is proved that every call of the layer goes to the norm alone, that every call of the
norm comes from the layer, that nothing else looks at either (hooks, their weights, code that cannot be traced), and
that the norm runs along the layer's outputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mxexport.errors import UnsupportedError
from mxexport.quant.folding import batch_norm
from mxexport.quant.folding.rank import fails_otherwise, input_of, rank_before
from mxexport.quant.folding.trace import watch
from mxexport.quant.folding.tracer import Watched, computes
from mxexport.quant.layers.all_layers import quantized_kind

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass
class FoldPlan:
    """`pairs`: (layer, batch norm) that may be folded. `left`: every other batch norm -> why it stays."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def plan_folds(model: nn.Module, example_inputs: Any = None) -> FoldPlan:
    """What may be folded in `model`, which stays as it is.

    `example_inputs`: a tuple of inputs of forward, one tensor, or a dict of keyword inputs; shapes seen in one pass
    settle which axis norms run along where the model's code leaves that open.

    Raises:
        UnsupportedError: forward fails on `example_inputs`.
    """
    plan, norms = FoldPlan(), [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return plan
    try:
        watched = watch(model)
    except Exception as error:  # the model's own code runs here
        why = f"the model's code cannot be looked into ({str(error).partition(chr(10))[0] or type(error).__name__})"
        plan.left = {name: why for name, _ in norms}
        return plan
    proof = _Proof(watched, _ranks(model, example_inputs))
    for name, _ in norms:
        layer, why = proof.layer_before(watched.copy.get_submodule(name))
        if why is None:
            plan.pairs.append((proof.names[layer], name))
        else:
            plan.left[name] = why
    return plan


def _ranks(model: nn.Module, example_inputs: Any) -> dict[str, set[int]]:
    """Name of a batch norm -> ranks of what it got."""
    ranks: dict[str, set[int]] = {}
    if example_inputs is None:
        return ranks
    observed = copy.deepcopy(model).eval()
    for name, module in observed.named_modules():
        if isinstance(module, _BatchNorm):

            def see(module, inputs, name=name):
                ranks.setdefault(name, set()).add(inputs[0].ndim)

            module.register_forward_pre_hook(see)
    keywords = example_inputs if isinstance(example_inputs, dict) else {}
    args = () if keywords else example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    try:
        with torch.no_grad():
            observed(*args, **keywords)
    except Exception as error:  # whatever the user's forward raises
        raise UnsupportedError(f"quantize_model: forward fails on example_inputs: {error}") from error
    return ranks


class _Proof:
    def __init__(self, watched: Watched, ranks: dict[str, set[int]]):
        self.watched, self.ranks = watched, ranks
        self.names: dict[nn.Module, str] = {m: n for n, m in watched.copy.named_modules()}
        self.calls: dict[nn.Module, list[fx.Node]] = {}
        for node in watched.calls():
            self.calls.setdefault(node.meta["module"], []).append(node)
        self.owners: dict[int, set[nn.Module]] = {}
        for module in watched.copy.modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    self.owners.setdefault(id(parameter), set()).add(module)

    def layer_before(self, norm: nn.Module) -> tuple[nn.Module | None, str | None]:
        """The layer to fold into, or why there is none."""
        if (why := batch_norm.why_no_norm(norm)) or (why := self._why_unknown(norm)):
            return None, why
        calls = self.calls.get(norm, [])
        if not calls:
            return None, "forward does not call it"
        made_by = [_behind_identity(input_of(node)) for node in calls]
        layers = {node.meta["module"] if _is_call(node) else None for node in made_by}
        layer = layers.pop()
        if layers:
            return None, "it is called behind several layers"
        if layer is None or not isinstance(layer, batch_norm.LAYERS):
            return None, f"its input is not the output of a convolution or a linear layer{_what(made_by[0])}"
        why = self._why_not_this(layer, norm) or self._why_axis(layer, norm, made_by)
        return (layer, None) if why is None else (None, why)

    def _why_unknown(self, module: nn.Module) -> str | None:
        if module in self.watched.unknown:
            return self.watched.unknown[module]
        if module in self.watched.in_training:
            return f"{self._name(module)} is in training mode when the model is in eval mode"
        return None

    def _why_not_this(self, layer: nn.Module, norm: nn.Module) -> str | None:
        name = self._name(layer)
        if why := batch_norm.why_no_layer(layer, norm, name) or self._why_unknown(layer):
            return why
        for node in self.calls[layer]:
            users = _users(node)
            others = [user for user in users if not _is_call(user) or user.meta["module"] is not norm]
            if node in self.watched.kept:
                return f"the output of {name} is kept in an attribute"
            if others or len(users) != 1:
                return f"the output of {name} is not read by this norm alone{_what(*others[:1])}"
        for module in (layer, norm):
            if why := self._why_shared(module):
                return why
        return self._why_hooked(layer, norm)

    def _why_shared(self, module: nn.Module) -> str | None:
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if id(tensor) in self.watched.read:
                where = self.watched.read[id(tensor)]
                return f"{attribute} of {self._name(module)} is also read by the code of {where}"
            others = self.owners.get(id(tensor), set()) - {module}
            if others:
                return f"{attribute} of {self._name(module)} is also that of {self._name(others.pop())}"
        return None

    def _why_hooked(self, layer: nn.Module, norm: nn.Module) -> str | None:
        """Hooks see or change what lies between the two: their own, and those of modules around only one of them."""
        around = [{m for node in self.calls[one] for m in node.meta["around"]} for one in (layer, norm)]
        for module in (layer, norm, *(around[0] ^ around[1])):
            if any(getattr(module, hooks) for hooks in _HOOKS):
                return f"{self._name(module)} has forward hooks, which would see other values"
        return None

    def _why_axis(self, layer: nn.Module, norm: nn.Module, made_by: list[fx.Node]) -> str | None:
        if type(norm) not in (nn.BatchNorm1d, nn.SyncBatchNorm):
            return None  # takes one rank only, and that has a batch
        rank = 2 if isinstance(layer, nn.Linear) else layer.weight.ndim
        seen = self.ranks.get(self._name(norm), set())
        plain = quantized_kind(layer) is not None  # others may change the rank before their product
        before = [rank_before(input_of(node)) if plain else None for node in made_by]
        if wrong := {*before, *seen} - {rank, None}:
            return _wrong_axis(layer, min(wrong))
        if seen or all(found == rank or fails_otherwise(node) for found, node in zip(before, made_by, strict=True)):
            return None
        other = "[batch, sequence, features]" if rank == 2 else "[channels, length] without a batch"
        return (
            f"whether it runs along the outputs of {self._name(layer)} depends on the input: with {other} it would not;"
            " give quantize_model example_inputs, which settle it"
        )

    def _name(self, module: nn.Module) -> str:
        return self.names.get(module, "") or type(module).__name__


def _wrong_axis(layer: nn.Module, rank: int) -> str:
    kind = type(layer).__name__
    return f"of inputs of rank {rank} it takes axis 1, and the outputs of {kind} run along axis {_outputs(layer, rank)}"


def _outputs(layer: nn.Module, rank: int) -> int:
    return rank - 1 if isinstance(layer, nn.Linear) else rank - layer.weight.ndim + 1


def _is_call(node) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_module"


def _is_identity(node) -> bool:
    return (
        _is_call(node)
        and type(node.meta["module"]) is nn.Identity
        and not any(getattr(node.meta["module"], hooks) for hooks in _HOOKS)
    )


def _behind_identity(node):
    while _is_identity(node) and len(node.users) == 1:
        node = input_of(node)
    return node


def _users(node: fx.Node) -> list[fx.Node]:
    """What reads the value of a node; its shape may be asked for."""
    users = list(filter(computes, node.users))
    while len(users) == 1 and _is_identity(users[0]):
        users = list(filter(computes, users[0].users))
    return users


def _what(node=None) -> str:
    """What stands there instead, in brackets."""
    if not isinstance(node, fx.Node):
        return ""
    if _is_call(node):
        return f" ({type(node.meta['module']).__name__})"
    known = {"placeholder": "an input", "output": "it is also an output", "get_attr": node.target}
    return f" ({known.get(node.op) or getattr(node.target, '__name__', node.target)})"


__all__ = ["FoldPlan", "plan_folds"]
