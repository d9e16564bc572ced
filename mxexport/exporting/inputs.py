"""Example inputs of every form, and which of their dimensions stay open."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from torch.utils._pytree import tree_map

from mxexport.errors import OptionError
from mxexport.quant import GroupwiseQuantTensor


def bind(model: torch.nn.Module, args: Any, kwargs: dict[str, Any] | None) -> inspect.BoundArguments:
    """Example inputs by the parameters of `forward`. A single tensor is the only input, a dict means keywords; quant
    tensors stand for their values.

    Raises:
        OptionError: they are not what `forward` takes.
    """
    if isinstance(args, dict):
        args, kwargs = (), {**args, **(kwargs or {})}
    args = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    args, kwargs = tree_map(_plain, (args, kwargs or {}))
    try:
        return inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise OptionError(
            f"export: the example inputs do not fit {type(model).__name__}.forward"
            f"{inspect.signature(model.forward)}: {error}"
        ) from None


def _plain(value: Any) -> Any:
    """A graph takes tensors: what a quant tensor stands for."""
    return value.dequantize().detach() if isinstance(value, GroupwiseQuantTensor) else value


def open_batch(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Dynamic shapes in torch's form: the first dimension of every tensor, however deep in lists and dicts."""
    return {name: _open_first(value) for name, value in bound.arguments.items()}


def _open_first(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {0: "batch"} if value.ndim else None
    if isinstance(value, dict):
        return {key: _open_first(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return _rebuilt(value, map(_open_first, value))
    return None


def _rebuilt(value: tuple | list, items: Iterable) -> tuple | list:
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # named tuples take them apart


def widen(bound: inspect.BoundArguments, shapes: Any) -> None:
    """Make open dimensions of size 1 two wide, in place: torch takes a size of one for a constant.

    Raises:
        OptionError: a dimension that an input does not have.
    """
    if not isinstance(shapes, dict):
        shapes = dict(zip(bound.arguments, shapes, strict=False))
    for name, value in bound.arguments.items():
        bound.arguments[name] = _widened(value, shapes.get(name))


def _widened(value: Any, shape: Any) -> Any:
    if shape is None:
        return value
    if isinstance(value, torch.Tensor):
        for dim, size in shape.items() if isinstance(shape, dict) else enumerate(shape):
            if not -value.ndim <= dim < value.ndim:
                raise OptionError(f"dynamic_shapes: dimension {dim} of an input with shape {tuple(value.shape)}")
            if _is_open(size) and value.shape[dim] == 1:
                value = torch.cat([value, value], dim)
        return value
    if isinstance(value, dict):
        return {key: _widened(item, shape.get(key)) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return _rebuilt(value, (_widened(item, part) for item, part in zip(value, shape, strict=True)))
    return value


def _is_open(size: Any) -> bool:
    return size is not None and not isinstance(size, int) and size is not torch.export.Dim.STATIC


def name_open_dimensions(model: ir.Model, bound: inspect.BoundArguments, shapes: Any) -> None:
    """Give open dimensions the names asked for, where torch left its own because not every input is a tensor."""
    if not isinstance(shapes, dict):
        shapes = dict(zip(bound.arguments, shapes, strict=False))
    specs = [spec for name, value in bound.arguments.items() for spec in _specs(value, shapes.get(name))]
    if len(specs) != len(model.graph.inputs):
        return
    names = {
        str(value.shape[dim]): size
        for value, spec in zip(model.graph.inputs, specs, strict=True)
        for dim, size in spec.items()
        if isinstance(size, str) and value.shape is not None and not isinstance(value.shape[dim], int)
    }
    if all(old == new for old, new in names.items()):
        return
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([d if isinstance(d, int) else names.get(str(d), d) for d in value.shape])


def _specs(value: Any, shape: Any) -> Iterator[dict]:
    """{dimension: size} of every tensor in `value`, in order."""
    if isinstance(value, torch.Tensor):
        yield shape if isinstance(shape, dict) else dict(enumerate(shape or ()))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _specs(item, None if shape is None else shape.get(key))
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from _specs(item, None if shape is None else shape[i])
