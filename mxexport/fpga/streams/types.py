"""What travels between units: wide integers or MX blocks, frame by frame, channels in the lanes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from mxexport.fpga.streams import words
from mxexport.numbers.formats import Element, IntElement, get_format
from mxexport.numbers.grids import Grid
from mxexport.numbers.groups import group_count

_MASK_LSB = 16
"""-2 of such units is lower than any score: what hides a key in a mask that is added."""


@dataclass(frozen=True)
class Conversion:
    """One mx_lanes: vectors (or `vectors` of them together) of `count` elements of `bits` bits, from `lanes` to
    `wanted` elements a beat; `side`: bits beside the lanes."""

    lanes: int
    wanted: int
    bits: int
    count: int
    side: int = 0
    vectors: int = 1

    @property
    def exists(self) -> bool:
        """One number of lanes is a multiple of the other, or surplus lanes are cut off or added."""
        return self.cuts or self.lanes % self.wanted == 0 or self.wanted % self.lanes == 0

    @property
    def cuts(self) -> bool:
        """Both hold a whole vector: it is wiring."""
        return min(self.lanes, self.wanted) >= self.count

    def parameters(self) -> dict[str, int]:
        side = {"SideWidth": self.side} if self.side else {}
        return {"InLanes": self.lanes, "OutLanes": self.wanted, "ElemWidth": self.bits, "K": self.count} | side


@dataclass(frozen=True)
class _Frames:
    """`shape`: one frame, channels last; a vector is what lies along them."""

    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def vectors(self) -> int:
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class Wide(_Frames):
    """Frames of wide integers of `width` bits (sign included), each worth value * 2**lsb_exp.

    `shape`: one frame, channels last: (K,) or (H, W, C). A frame travels vector by vector (pixel by pixel), and each
    vector starts a beat. Lanes for two vectors or more hold as many whole ones, side by side. `nonnegative`: whatever
    comes into the network, none of them is below zero.
    """

    width: int
    lsb_exp: int
    nonnegative: bool = False

    @classmethod
    def mask(cls, shape: tuple[int, ...]) -> Wide:
        """Of a mask that is added: 0, or as low as any (see `masks.HIDDEN`)."""
        return cls(shape, 2, _MASK_LSB)

    @property
    def is_mask(self) -> bool:
        return (self.width, self.lsb_exp) == (2, _MASK_LSB)

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

    @property
    def vector_lanes(self) -> int:
        """Lanes of a vector where several come in a beat."""
        return self.channels

    def side_by_side(self, lanes: int) -> int:
        """Vectors of a beat."""
        return max(lanes // self.channels, 1)

    def conversions(self, lanes: int, wanted: int) -> list[Conversion]:
        """What brings it from `lanes` to `wanted`: whole vectors change places first, or last."""
        before, behind = self.side_by_side(lanes), self.side_by_side(wanted)
        if before == behind == 1:
            return _steps(Conversion(lanes, wanted, self.width, self.channels))
        together = max(before, behind)
        whole = Conversion(before, behind, self.beat_bits(self.channels), together, vectors=together)
        ahead = [] if before > 1 else self.conversions(lanes, self.channels)
        return [*ahead, *_steps(whole), *([] if behind > 1 else self.conversions(self.channels, wanted))]

    def beats(self, lanes: int) -> int:
        """Beats of a frame."""
        return self.vectors // self.side_by_side(lanes) * group_count(self.channels, lanes)

    def at_border(self) -> Wide:
        """The same in slots of 1, 2, 4 or 8 whole bytes, as the outside sees it."""
        slot = 8 << max((-(-self.width // 8) - 1).bit_length(), 0)
        return Wide(self.shape, slot, self.lsb_exp)

    def pack(self, values: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N, *shape] -> (bytes of every beat, TLAST of every beat); surplus lanes of a vector are zero."""
        length = self.channels * self.side_by_side(lanes)
        beats, _ = words.pack_frames(values.reshape(-1, length), lanes, self.width)
        return beats, _last(len(beats), self.beats(lanes))

    def unpack(self, beats: np.ndarray, lanes: int) -> np.ndarray:
        """Beats of `pack` -> int64 [N, *shape]."""
        length = self.channels * self.side_by_side(lanes)
        return words.unpack_frames(beats, length, lanes, self.width).reshape(-1, *self.shape)


@dataclass(frozen=True)
class Blocks(_Frames):
    """Frames of MX blocks: elements of a format in groups of `group_size` along the channels, the last group padded.

    A beat holds the scale code of its block, `code_min` to `code_max`, above `lanes` elements; a block starts a beat.
    Lanes for two groups or more hold as many whole blocks, each below its scale: a divisor of a vector's blocks, or all
    blocks of several vectors.
    """

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
    def blocks(self) -> int:
        """Blocks of a vector."""
        return group_count(self.channels, self.group_size)

    @property
    def vector_lanes(self) -> int:
        """Lanes of a vector where several come in a beat."""
        return self.blocks * self.group_size

    def across(self, lanes: int) -> int:
        """Blocks of a beat."""
        return max(lanes // self.group_size, 1)

    def side_by_side(self, lanes: int) -> int:
        """Vectors of a beat."""
        return max(self.across(lanes) // self.blocks, 1)

    def beat_bits(self, lanes: int) -> int:
        return 8 * self.across(lanes) + lanes * self.bits

    def conversions(self, lanes: int, wanted: int) -> list[Conversion]:
        """What brings it from `lanes` to `wanted`: whole blocks change places first, or last. Inside of a block the
        scale goes beside the lanes."""
        before, behind, size = self.across(lanes), self.across(wanted), self.group_size
        if before == behind == 1:
            return _steps(Conversion(lanes, wanted, self.bits, self.blocks * size, side=8))
        count = max(before, behind, self.blocks)
        whole = Conversion(before, behind, self.beat_bits(size), count, vectors=count // self.blocks)
        ahead = [] if before > 1 else self.conversions(lanes, size)
        return [*ahead, *_steps(whole), *([] if behind > 1 else self.conversions(size, wanted))]

    def beats(self, lanes: int) -> int:
        """Beats of a frame."""
        if lanes > self.group_size:
            return self.vectors * self.blocks // self.across(lanes)
        return self.vectors * self.blocks * (self.group_size // lanes)

    def pack(self, codes: np.ndarray, scale_codes: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, *shape] and [N, ..., blocks] -> (bytes of every beat, TLAST of every beat)."""
        part, across = min(lanes, self.group_size), self.across(lanes)
        codes = codes.reshape(-1, self.channels)
        codes = np.pad(codes, ((0, 0), (0, self.blocks * self.group_size - self.channels))).reshape(-1, across, part)
        scales = scale_codes.reshape(-1, 1).repeat(self.group_size // part, 0).reshape(-1, across, 1)
        fields = [f for i in range(across) for f in ((codes[:, i], self.bits), (scales[:, i], 8))]
        beats = words.pack_fields(fields)
        return beats, _last(len(beats), self.beats(lanes))

    def unpack(self, beats: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """Beats of `pack` -> its codes and scale codes, the scale of every block from its first beat."""
        part, size = min(lanes, self.group_size), self.beat_bits(min(lanes, self.group_size))
        places = [i * size for i in range(self.across(lanes))]
        read = functools.partial(words.unpack_lanes, beats, signed=False)
        codes = np.stack([read(part, self.bits, offset=at) for at in places], 1)
        scales = np.stack([read(1, 8, offset=at + part * self.bits) for at in places], 1)
        codes = codes.reshape(-1, self.blocks * self.group_size)[:, : self.channels]
        scales = scales.reshape(-1, self.blocks, self.group_size // part)[..., 0]
        shapes = (-1, *self.shape), (-1, *self.shape[:-1], self.blocks)
        return tuple(a.astype(np.uint8).reshape(shape) for a, shape in zip((codes, scales), shapes, strict=True))


def _steps(conversion: Conversion) -> list[Conversion]:
    return [] if conversion.lanes == conversion.wanted else [conversion]


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
