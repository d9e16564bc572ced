"""Live modules of AIMET (aimet-torch 2.42): Linear, convolutions and Embedding, by the quantizers in their tables.

Weights are carried under any of its scales that belong to groups along the input channels (blocks, grouped blocks, a
channel, the tensor): their codes times float32 scales are the values that its forward multiplies with. Activations are
carried where they are quantized as the operators do it: blocks of symmetric integers, which it divides by their scale,
and minifloats. Without `block_size` its integers go through torch.fake_quantize, which multiplies by the rounded
reciprocal of the scale, and asymmetric ones add their offset behind the rounding, where the operator adds it before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.inputs import FullRange
from mxexport.frontends.live.aimet_grids import Grid, read_grid
from mxexport.frontends.live.layers import ToolLayer
from mxexport.numbers.formats import IntElement, get_format
from mxexport.quant import QUANT_LAYERS, Quantizer
from mxexport.quant.quantizers.sources import StaticScale

TOOL, PACKAGE = "AIMET", "aimet_torch"
_OF_PARAMETERS = ("_param_pre_quantizers", "param_quantizers")
"""In the order in which they quantize a parameter."""
TABLES = (*_OF_PARAMETERS, "input_quantizers", "output_quantizers")


def read(module: nn.Module, kind: type[nn.Module]) -> ToolLayer | None:
    """What the quantizers of an AIMET layer do; None where it has none. Raises UnsupportedError."""
    held = {table: _items(getattr(module, table, None)) for table in TABLES}
    if not any(held.values()):
        return None
    if callable(getattr(module, "get_kernel", None)) and module.get_kernel() is not None:
        raise UnsupportedError("it computes in a kernel of its own (set_kernel), whose arithmetic is not known")
    if kind is nn.Embedding:  # indices are no floats, and pass its quantizers as they are
        held["input_quantizers"] = {}
    layer = QUANT_LAYERS.get(kind) if hasattr(module, "weight") else None
    if others := _others(held, layer is not None):
        raise UnsupportedError(
            f"{', '.join(others)} of a {kind.__name__} is switched on; carried are quantizers of the weight, the input "
            "and the output of Linear, convolutions and Embedding; remove the others"
        )
    input_quant = output_quant = scale = zero_point = weight_quant = None
    weight = module.weight.detach().as_subclass(Tensor)
    for table in _OF_PARAMETERS:
        for quantizer in held[table].values():
            weight_quant, scale, zero_point = _weight_grid(quantizer, weight, layer.weight_axis)
            weight = _quantized(quantizer, weight)
    if held["input_quantizers"]:
        lengths = {layer.input_axis: getattr(module, "in_features", getattr(module, "in_channels", None))}
        input_quant = _activation(_only(held["input_quantizers"], "input"), "input", lengths)
    if held["output_quantizers"]:
        lengths = {layer.input_axis: getattr(module, "out_features", getattr(module, "out_channels", None))}
        output_quant = _activation(_only(held["output_quantizers"], "output"), "output", lengths)
    return ToolLayer(weight, weight_quant, input_quant, scale, [], output_quant, zero_point)


def _others(held: dict[str, dict], carried: bool) -> list[str]:
    """Entries of the tables that are not carried: all of a module that is not, else those of biases."""
    entries = [(table, name) for table, quantizers in held.items() for name in quantizers]
    if carried:
        entries = [(table, name) for table, name in entries if table in _OF_PARAMETERS and name != "weight"]
    return [f"{table}[{name!r}]" for table, name in entries]


def _items(table: object) -> dict:
    """Key -> quantizer of a table (ModuleDict, ModuleList, dict or None), without those that are None."""
    pairs = table.items() if hasattr(table, "items") else enumerate(table or ())
    return {str(key): quantizer for key, quantizer in pairs if quantizer is not None}


def _only(table: dict, what: str) -> nn.Module:
    if list(table) != ["0"]:
        raise UnsupportedError(f"quantizers {', '.join(table)} of its {what}s are switched on; carried is one")
    return table["0"]


def _quantized(quantizer: nn.Module, weight: Tensor) -> Tensor:
    """The weight behind the tool's own function as it is without gradients (with them it divides where it multiplies
    by reciprocals now), without the tool's class of tensors.
    """
    with torch.no_grad():
        return quantizer(weight).as_subclass(Tensor).detach()


def _weight_grid(quantizer: nn.Module, weight: Tensor, axis: int) -> tuple[Quantizer, Tensor, Tensor | None]:
    """Our quantizer of a weight, groups along `axis`, with its contracted scale and zero point."""
    grid = read_grid(quantizer, "weight")
    scale = _spread(grid.scale, tuple(weight.shape), grid.block_size)
    size = _block(grid, weight.shape, axis)
    first = [slice(None)] * weight.ndim
    first[axis] = slice(None, None, size)
    zero = None if grid.zero_point is None else _spread(grid.zero_point, tuple(weight.shape), grid.block_size)
    found = Quantizer(grid.format(size), axis)
    zero_point = zero[tuple(first)].contiguous() if found.has_zero_point else None
    return found, scale[tuple(first)].contiguous(), zero_point


def _block(grid: Grid, shape: tuple[int, ...], axis: int) -> int:
    """Elements of a tensor of `shape` along `axis` that share a scale."""
    axis %= len(shape)
    place = axis - len(shape) + grid.scale.ndim
    return shape[axis] if place < 0 else shape[axis] // grid.scale.shape[place]


def _spread(scale: Tensor, shape: tuple[int, ...], block_size: tuple[int, ...] | None) -> Tensor:
    """The scale of every element of a tensor of `shape`. Raises UnsupportedError where blocks do not fill it."""
    found = scale.reshape((1,) * (len(shape) - scale.ndim) + tuple(scale.shape))
    for axis, (length, count) in enumerate(zip(shape, found.shape, strict=True)):
        if length % count:
            raise UnsupportedError(f"{count} blocks of {block_size} do not fill the {length} values of axis {axis}")
        found = found.repeat_interleave(length // count, axis)
    return found


def _activation(quantizer: nn.Module, what: str, lengths: dict[int, int | None]) -> StaticScale:
    """Ours for the quantizer of an input or output: constant scales along one axis. `lengths`: axis -> its size.

    Raises UnsupportedError.
    """
    grid = read_grid(quantizer, what)
    if not grid.divides:
        raise UnsupportedError(
            f"its {what} is quantized to integers without block_size: torch.fake_quantize, which AIMET calls for that, "
            "multiplies by 1 / scale where quantizers here divide; give it a block_size (-1 for whole axes, with "
            "which AIMET divides, too), or leave it out"
        )
    rank, blocks = grid.scale.ndim, grid.block_size or (-1,) * grid.scale.ndim
    axes = [place - rank for place in range(rank) if grid.scale.shape[place] > 1 or blocks[place] > 1]
    if len(axes) > 1 or (what == "input" and not set(axes) <= set(lengths)):
        raise UnsupportedError(
            f"scales of its {what} have the shape {tuple(grid.scale.shape)} and blocks of {grid.block_size}; carried "
            f"are blocks along axis {', '.join(map(str, lengths))} alone"
        )
    axis = axes[0] if axes else next(iter(lengths))
    size = _block_size(grid, axis, lengths.get(axis), what) if axes else 1
    fmt = grid.format(size)
    if not axes and not fmt.is_mx:  # one scale for the tensor; a power of two serves groups of one as well
        fmt = get_format(fmt.name.removesuffix("_g1"))
    if fmt.asymmetric:
        middle = 2 ** (fmt.element.bits - 1)
        if not (grid.zero_point == middle).all():
            raise UnsupportedError(
                f"its {what} is quantized asymmetrically: AIMET adds the offset behind the rounding of x / scale, the "
                "operator before it, which rounds some values to another code; set symmetric=True"
            )
        core = FullRange(replace(fmt, name=fmt.name.removeprefix("u"), element=IntElement(fmt.element.bits)), axis)
    else:
        core = Quantizer(fmt, axis)
    found = StaticScale(core, shared=True)
    found.stored_scale = grid.scale.flatten()
    return found


def _block_size(grid: Grid, axis: int, length: int | None, what: str) -> int:
    """The size of blocks along `axis`, which is `length` long where that is known. Raises UnsupportedError."""
    block = -1 if grid.block_size is None else grid.block_size[axis]
    if block == -1 and length is None:
        raise UnsupportedError(f"blocks of its {what} along axis {axis} have no size of their own; give block_size")
    return block if block != -1 else length // grid.scale.shape[axis]
