"""What travels between units: wide integers or MX blocks, frame by frame, channels in the lanes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mxexport.fpga import words
from mxexport.numbers.formats import Element, IntElement, get_format
from mxexport.numbers.grids import Grid
from mxexport.numbers.groups import group_count


@dataclass(frozen=True)
class Wide:
    """Frames of wide integers of `width` bits (sign included), each worth value * 2**lsb_exp.

    `shape`: one frame, channels last: (K,) or (H, W, C). A frame travels vector by vector (pixel by pixel), and each
    vector starts a beat.
    """

    shape: tuple[int, ...]
    width: int
    lsb_exp: int

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def vectors(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def length(self) -> int:
        return math.prod(self.shape)

    @property
    def grid(self) -> Grid:
        """What it can hold."""
        return Grid.of_width(self.lsb_exp, self.width)

    @classmethod
    def holding(cls, grid: Grid, shape: tuple[int, ...]) -> Wide:
        """The narrowest that holds a grid."""
        return cls(shape, grid.width, grid.exponent)

    def beat_bits(self, lanes: int) -> int:
        return lanes * self.width

    def lane_parameters(self) -> dict[str, int]:
        """Of an mx_lanes in its way: what a lane holds, and how many of a vector come."""
        return {"ElemWidth": self.width, "K": self.channels}

    def beats(self, lanes: int) -> int:
        """Beats of a frame."""
        return self.vectors * group_count(self.channels, lanes)

    def at_border(self) -> Wide:
        """The same in slots of 1, 2, 4 or 8 whole bytes, as the outside sees it."""
        slot = 8 << max((-(-self.width // 8) - 1).bit_length(), 0)
        return Wide(self.shape, slot, self.lsb_exp)

    def pack(self, values: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N, *shape] -> (bytes of every beat, TLAST of every beat); surplus lanes of a vector are zero."""
        beats, _ = words.pack_frames(values.reshape(-1, self.channels), lanes, self.width)
        return beats, _last(len(beats), self.beats(lanes))

    def unpack(self, beats: np.ndarray, lanes: int) -> np.ndarray:
        """Beats of `pack` -> int64 [N, *shape]."""
        return words.unpack_frames(beats, self.channels, lanes, self.width).reshape(-1, *self.shape)


@dataclass(frozen=True)
class Blocks:
    """Frames of MX blocks: elements of a format in groups of `group_size` along the channels, the last group padded.

    A beat holds the scale code of its block, `code_min` to `code_max`, above `lanes` elements; a block starts a beat.
    """

    shape: tuple[int, ...]
    format: str
    group_size: int
    code_min: int
    code_max: int

    @property
    def element(self) -> Element:
        """Of hardware: integers are signed, unsigned ones have a bit more; the lowest step is 2**-(bits - 2)."""
        element = get_format(self.format).element
        if not isinstance(element, IntElement):
            return element
        bits = element.bits + (not element.signed)
        return IntElement(bits, frac_bits=bits - 2)

    @property
    def largest(self) -> int:
        """The largest magnitude of an element in steps; plain integers reach -2**(bits - 1)."""
        element = get_format(self.format)
        full = not element.is_mx and isinstance(element.element, IntElement) and element.element.signed
        return int(np.ldexp(self.element.max_val, self.element.frac_bits)) + full

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def vectors(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def blocks(self) -> int:
        """Blocks of a vector."""
        return group_count(self.channels, self.group_size)

    def beat_bits(self, lanes: int) -> int:
        return 8 + lanes * self.bits

    def lane_parameters(self) -> dict[str, int]:
        """Of an mx_lanes in its way; the scale goes beside the lanes, since no beat holds two blocks."""
        return {"ElemWidth": self.bits, "K": self.blocks * self.group_size, "SideWidth": 8}

    def beats(self, lanes: int) -> int:
        """Beats of a frame."""
        return self.vectors * self.blocks * (self.group_size // lanes)

    def pack(self, codes: np.ndarray, scale_codes: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, *shape] and [N, ..., blocks] -> (bytes of every beat, TLAST of every beat)."""
        codes = codes.reshape(-1, self.channels)
        codes = np.pad(codes, ((0, 0), (0, self.blocks * self.group_size - self.channels))).reshape(-1, lanes)
        scales = scale_codes.reshape(-1, 1).repeat(self.group_size // lanes, 0)
        beats = words.pack_fields([(codes, self.bits), (scales, 8)])
        return beats, _last(len(beats), self.beats(lanes))

    def unpack(self, beats: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """Beats of `pack` -> its codes and scale codes, the scale of every block from its first beat."""
        codes = words.unpack_lanes(beats, lanes, self.bits, signed=False)
        scales = words.unpack_lanes(beats, 1, 8, signed=False, offset=lanes * self.bits)
        codes = codes.reshape(-1, self.blocks * self.group_size)[:, : self.channels]
        scales = scales.reshape(-1, self.blocks, self.group_size // lanes)[..., 0]
        shapes = (-1, *self.shape), (-1, *self.shape[:-1], self.blocks)
        return tuple(a.astype(np.uint8).reshape(shape) for a, shape in zip((codes, scales), shapes, strict=True))


def _last(count: int, frame: int) -> np.ndarray:
    return np.arange(1, count + 1) % frame == 0


Stream = Wide | Blocks


def to_stream(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Frames as a QONNX graph has them, [N, C, H, W], [N, C, L] or [N, K], -> [N, *shape], channels last."""
    if len(shape) != 3:
        return x.reshape(len(x), *shape)
    height, width, channels = shape
    return x.reshape(len(x), channels, height, width).transpose(0, 2, 3, 1)


def from_stream(x: np.ndarray, frame: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_stream`: [N, *shape] -> [N, *frame]."""
    return (x.transpose(0, 3, 1, 2) if x.ndim == 4 else x).reshape(len(x), *frame)
