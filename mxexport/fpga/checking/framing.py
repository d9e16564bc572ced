"""Inputs of a network as a user has them, float arrays by name or in order, as the integers that the hardware takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mxexport.errors import ShapeError
from mxexport.fpga.network import Network
from mxexport.fpga.streams.types import Wide, to_stream
from mxexport.numbers.arrays import real_array

Inputs = np.ndarray | tuple | Mapping[str, np.ndarray]
"""One array [N, ...], or those of all inputs: in order, or by name."""


def to_fixed(x: np.ndarray, stream: Wide) -> np.ndarray:
    """Network inputs [N, ...], as the QONNX graph takes them -> int64 [N, *stream.shape] on the input's grid: nearest
    even, saturating at its width.

    Raises:
        ShapeError: the wrong number of features, NaN or Inf, or what is no real number.
    """
    limit = 2 ** (stream.width - 1) - 1
    return to_stream(np.clip(_on_grid(x, stream), -limit - 1, limit).astype(np.int64), stream.shape)


def count_saturated(x: np.ndarray, stream: Wide) -> int:
    """How many values of network inputs lie beyond the input's range. Raises ShapeError as `to_fixed`."""
    if stream.is_mask:  # which says no more than that
        return 0
    limit, values = 2 ** (stream.width - 1) - 1, _on_grid(x, stream)
    return int(((values < -limit - 1) | (values > limit)).sum())


def by_name(x: Inputs, names: list[str], what: str) -> dict[str, np.ndarray]:
    """Inputs of a network as a dict by name, from one array, a tuple in order or a dict.

    Raises:
        ShapeError: not the inputs that there are, different numbers of frames, or what is no real number.
    """
    if not isinstance(x, Mapping):
        given = x if isinstance(x, (tuple, list)) and len(names) > 1 else (x,)
        if len(given) != len(names):
            raise ShapeError(f"{what}: {len(given)} arrays given; the network takes {', '.join(names)}")
        x = dict(zip(names, given, strict=True))
    if set(x) != set(names):
        raise ShapeError(f"{what}: {', '.join(map(str, x))} given; the network takes {', '.join(names)}")
    arrays = {name: real_array(x[name], what) for name in names}
    counts = {name: len(array) if array.ndim > 1 or len(names) > 1 else 1 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ShapeError(f"{what}: {shown}; expected as many frames of every input")
    return arrays


def all_fixed(x: Mapping[str, np.ndarray], network: Network) -> dict[str, np.ndarray]:
    """By stream, from inputs by tensor."""
    return {stream: to_fixed(x[network.tensors[stream]], network.streams[stream]) for stream in network.inputs}


def all_saturated(x: Mapping[str, np.ndarray], network: Network) -> int:
    return sum(count_saturated(x[network.tensors[stream]], network.streams[stream]) for stream in network.inputs)


def _on_grid(x: np.ndarray, stream: Wide) -> np.ndarray:
    """[N, features] in units of the input's lowest bit."""
    x = real_array(x, "inputs").astype(np.float64)
    flat = x.reshape(len(x), math.prod(x.shape[1:])) if x.ndim > 1 else x[None]
    if flat.shape[1] != stream.length:
        raise ShapeError(f"inputs of shape {x.shape} have {flat.shape[1]} features; the design takes {stream.length}")
    if not (np.isfinite(flat) | (stream.is_mask & np.isneginf(flat))).all():
        raise ShapeError("inputs hold NaN or Inf, which fixed point cannot carry")
    with np.errstate(over="ignore"):
        return np.rint(np.ldexp(flat, -stream.lsb_exp))
