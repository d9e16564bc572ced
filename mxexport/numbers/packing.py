"""Element codes of 2 to 8 bits in bytes, as the dequantize operators store them (numpy only).

Codes are packed LSB first along the group axis. Each group starts on a byte; a short last group is padded with code 0
to a whole one. A tensor of K elements on the axis, n = ceil(K / G) groups and b bits packs to the same rank with
n * ceil(G * b / 8) bytes on the axis. Eight codes fill b bytes exactly, so eight at a time pass through a 64-bit word.
"""

from __future__ import annotations

import numpy as np

from mxexport.errors import FormatError, ShapeError
from mxexport.numbers import groups


def group_bytes(group_size: int, bits: int) -> int:
    """Bytes of one packed group."""
    return -(-group_size * bits // 8)


def packed_shape(shape: tuple[int, ...], bits: int, axis: int, group_size: int) -> tuple[int, ...]:
    """Shape of the packed codes of a tensor of `shape`."""
    axis = groups.normalize_axis(axis, len(shape), "packed codes")
    size = groups.group_count(shape[axis], group_size) * group_bytes(group_size, bits)
    return (*shape[:axis], size, *shape[axis + 1 :])


def pack_codes(codes: np.ndarray, bits: int, axis: int, group_size: int) -> np.ndarray:
    """One code per element (uint8 or int8, upper bits ignored) -> packed uint8.

    Raises:
        FormatError: `bits` outside 2 .. 8.
        ShapeError: axis outside the rank, or a group size below 1.
    """
    _check_bits(bits)
    axis = groups.normalize_axis(axis, codes.ndim, "pack_codes")
    plain = np.ascontiguousarray(codes).view(np.uint8) & np.uint8(2**bits - 1)
    last = np.moveaxis(groups.to_groups(plain, axis, group_size), axis + 1, -1)
    if bits < 8:
        last = _pad_last(last, 8).reshape(*last.shape[:-1], -(-group_size // 8), 8)
        words = np.zeros(last.shape[:-1], "<u8")
        for i in range(8):
            words |= last[..., i].astype("<u8") << np.uint64(bits * i)
        octets = np.ascontiguousarray(words)[..., None].view(np.uint8)[..., :bits]
        last = octets.reshape(*words.shape[:-1], words.shape[-1] * bits)[..., : group_bytes(group_size, bits)]
    packed = np.moveaxis(last, -1, axis + 1)
    return np.ascontiguousarray(packed).reshape(packed_shape(codes.shape, bits, axis, group_size))


def unpack_codes(packed: np.ndarray, bits: int, axis: int, group_size: int, length: int) -> np.ndarray:
    """Inverse of `pack_codes`: uint8 codes, `length` of them on the axis.

    Raises:
        FormatError: `bits` outside 2 .. 8.
        ShapeError: the packed axis does not hold the groups that `length` elements make.
    """
    _check_bits(bits)
    axis = groups.normalize_axis(axis, packed.ndim, "unpack_codes")
    shape = (*packed.shape[:axis], length, *packed.shape[axis + 1 :])
    check_packed_shape("unpack_codes", packed.shape, shape, bits, axis, group_size)
    count, size = groups.group_count(length, group_size), group_bytes(group_size, bits)
    last = np.moveaxis(packed.reshape(*shape[:axis], count, size, *shape[axis + 1 :]), axis + 1, -1)
    if bits < 8:
        last = _pad_last(last, bits)
        octets = np.zeros((*last.shape[:-1], last.shape[-1] // bits, 8), np.uint8)
        octets[..., :bits] = last.reshape(*octets.shape[:-1], bits)
        words, mask = octets.view("<u8")[..., 0], np.uint64(2**bits - 1)
        codes = np.empty((*words.shape, 8), np.uint8)
        for i in range(8):
            codes[..., i] = (words >> np.uint64(bits * i)) & mask
        last = codes.reshape(*words.shape[:-1], words.shape[-1] * 8)[..., :group_size]
    return groups.from_groups(np.moveaxis(last, -1, axis + 1), axis, length)


def check_packed_shape(
    where: str, found: tuple[int, ...], shape: tuple[int, ...], bits: int, axis: int, group_size: int
) -> None:
    """Raise ShapeError unless `found` is the shape of the packed codes of a tensor of `shape`."""
    if len(found) != len(shape) or tuple(found) != packed_shape(tuple(shape), bits, axis, group_size):
        axis = groups.normalize_axis(axis, len(shape), where)
        raise ShapeError(
            f"{where}: packed codes have shape {tuple(found)}, expected "
            f"{packed_shape(tuple(shape), bits, axis, group_size)}: Y is {tuple(shape)} and each of the "
            f"{groups.group_count(shape[axis], group_size)} groups on axis {axis} takes "
            f"{group_bytes(group_size, bits)} bytes ({group_size} codes of {bits} bits)"
        )


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise FormatError(f"codes of {bits} bits cannot be packed; expected 2 to 8")


def _pad_last(x: np.ndarray, multiple: int) -> np.ndarray:
    padding = -x.shape[-1] % multiple
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)]) if padding else x
