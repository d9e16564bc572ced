"""Products that a module's code names, read without running it: what may multiply activations, and by what."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

import torch
from torch import fx, nn

from mxexport.quant.layers.layer import QuantLayer
from mxexport.quant.own_products.calls import NAMES

_NOT_READ = {"torch", "numpy", "builtins"}
"""Packages whose functions are known by name."""


def products_named(module: nn.Module) -> tuple[str, ...]:
    """Functions and operators ("@") that the module's own forward calls, methods and functions it calls included; ()
    for torch's own modules, TorchScript and quantized layers."""
    other = isinstance(module, (QuantLayer, torch.jit.ScriptModule))
    known = type(module).__module__.startswith(("torch.nn.", "mxexport."))
    return () if other or known else _named_by(type(module))


def may_multiply_weights(module: nn.Module) -> bool:
    """Whether its own code names both `linear` and `weight`, as `F.linear(x, self.qkv.weight)` does."""
    known = isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith(("torch.", "mxexport."))
    return not known and _names_both(type(module))


def why_not_watched(module: nn.Module) -> str | None:
    """Why the products of such a module cannot be seen while it runs."""
    if isinstance(module, fx.GraphModule):
        return "it is a traced graph; convert the module it was traced from"
    if "forward" in vars(module):
        return "its forward was replaced on this object"
    return None


@functools.cache
def _names_both(own: type[nn.Module]) -> bool:
    codes = (code for f in _functions_reached(own, own.forward) for code in _codes(f.__code__))
    return {"linear", "weight"} <= {name for code in codes for name in code.co_names}


@functools.cache
def _named_by(own: type[nn.Module]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for function in _functions_reached(own, own.forward):
        for code in _codes(function.__code__):
            found.update((name, None) for name in code.co_names if name in NAMES)
            if any(i.opname.startswith("BINARY") and i.argrepr in ("@", "@=") for i in dis.get_instructions(code)):
                found["@"] = None
    return tuple(found)


def _functions_reached(own: type[nn.Module], start) -> list[FunctionType]:
    """`start` and the user's functions that are called from it, by name."""
    reached: dict[FunctionType, None] = {}
    entries = [start]
    while entries:
        for function in _unwrapped(entries.pop()):
            if function not in reached and function.__module__.partition(".")[0] not in _NOT_READ:
                reached[function] = None
                entries += _called_by(own, function)
    return list(reached)


def _unwrapped(value) -> Iterator[FunctionType]:
    """The functions behind decorators, properties and bound methods."""
    if isinstance(value, property):
        value = value.fget
    value = inspect.unwrap(getattr(value, "__func__", value))
    if isinstance(value, FunctionType) and value.__module__:
        yield value


def _called_by(own: type[nn.Module], function: FunctionType) -> Iterator:
    for code in _codes(function.__code__):
        for name in code.co_names:
            method = next((vars(kind)[name] for kind in _own_classes(own) if name in vars(kind)), None)
            yield from (value for value in (method, function.__globals__.get(name)) if value is not None)
    yield from (cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell))


def _own_classes(own: type[nn.Module]) -> Iterator[type]:
    return (kind for kind in own.__mro__ if kind.__module__.partition(".")[0] not in _NOT_READ)


def _is_filled(cell) -> bool:
    try:
        return isinstance(cell.cell_contents, FunctionType)
    except ValueError:  # a name not bound yet
        return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of what is written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
