"""Which products of activations a model calls on example inputs, and in which module."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.quant.calling import calls
from mxexport.quant.own_products.calls import ActivationProducts, Call, innermost, say_whose_code


@dataclass
class ObservedProducts:
    """Of one module. `kinds`: the most products of each kind that one forward calls. `names`: functions they are.
    `in_float`: functions that cannot be quantized, and why."""

    kinds: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    in_float: dict[str, str] = field(default_factory=dict)

    def add(self, one_forward: list[Call]) -> None:
        """Take what one forward called."""
        able = [call for call in one_forward if call.why_float is None]
        self.kinds |= Counter(call.kind for call in able)
        self.names |= Counter(call.name for call in able)
        self.in_float |= {call.name: call.why_float for call in one_forward if call.why_float is not None}


def observe_products(model: nn.Module, example_inputs: Any) -> dict[str, ObservedProducts]:
    """First name of a module -> products in its own code, on inputs as `quantize_model` takes them; `model` stays.

    Raises:
        UnsupportedError: forward fails on them.
    """
    observed = copy.deepcopy(model).eval()  # a forward may keep what it saw
    names = {module: name for name, module in observed.named_modules()}
    found: dict[str, ObservedProducts] = {}
    forwards: dict[nn.Module, list[list[Call]]] = {module: [] for module in names}

    def begin(module: nn.Module, args) -> None:
        forwards[module].append([])

    def end(module: nn.Module, args, output) -> None:
        if one_forward := forwards[module].pop():
            found.setdefault(names[module], ObservedProducts()).add(one_forward)

    def note(call: Call) -> Tensor | None:
        forwards[innermost()][-1].append(call)

    for module in names:
        say_whose_code(module)
        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)
    args, keywords = _arguments(example_inputs)
    try:
        with torch.no_grad(), ActivationProducts(observed, note, any_owner=True):
            observed(*args, **keywords)
    except Exception as error:  # whatever the user's forward raises
        raise UnsupportedError(f"quantize_model: forward fails on example_inputs: {error}") from error
    return found


def _arguments(example_inputs: Any) -> tuple[tuple, dict]:
    """A list stands for positional arguments, as a tuple does."""
    return calls(tuple(example_inputs) if isinstance(example_inputs, list) else example_inputs)[0]
