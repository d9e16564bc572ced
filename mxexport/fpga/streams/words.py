"""Words of hardware: fields of any bit width packed into bytes, streams and `.mem` files (field 0 in the low bits)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mxexport.numbers import groups


def power_of_two(count: int) -> int:
    """The smallest power of two that is no less than `count`, 1 and more."""
    return 1 << (count - 1).bit_length()


def pack_lanes(values: np.ndarray, width: int) -> np.ndarray:
    """Integers [words, lanes] -> bytes [words, ceil(lanes*width/8)], the low `width` (up to 64) bits of each."""
    return pack_fields([(values, width)])


def pack_fields(fields: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """Several (integers [words, lanes], width) side by side -> bytes, the first field in the low bits."""
    return np.packbits(np.concatenate([_bits(values, width) for values, width in fields], 1), 1, "little")


def _bits(values: np.ndarray, width: int) -> np.ndarray:
    values = np.ascontiguousarray(values)
    signed = values.astype(np.int64, copy=False) if values.dtype != np.uint64 else values
    octets = np.ascontiguousarray(signed).view(np.uint8).reshape(*values.shape, 8)
    return np.unpackbits(octets, axis=2, bitorder="little")[..., :width].reshape(len(values), values.shape[1] * width)


def bus_beats(words: int, width: int, bus: int) -> int:
    """mx_pkg::bus_beats."""
    return words * -(-width // bus) if width >= bus else -(-words // (bus // width))


def on_bus(fields: np.ndarray, width: int, bus: int) -> np.ndarray:
    """Integers [parts, words, fields] of `width` bits -> bytes [parts, beats, bus/8], as mx_gear reads them: a word is
    a whole number of beats of `bus` bits, or a beat a whole number of words; each part begins with a new beat."""
    parts, words, count = fields.shape
    bits, size = _bits(fields.reshape(-1, count), width).reshape(parts, words, -1), count * width
    if size >= bus:
        bits = np.pad(bits, ((0, 0), (0, 0), (0, -size % bus))).reshape(parts, -1, bus)
    else:
        each = bus // size
        bits = np.pad(bits, ((0, 0), (0, -words % each), (0, 0))).reshape(parts, -1, each * size)
        bits = np.pad(bits, ((0, 0), (0, 0), (0, bus - each * size)))
    return np.packbits(bits, 2, "little")


def unpack_lanes(words: np.ndarray, lanes: int, width: int, *, signed: bool = True, offset: int = 0) -> np.ndarray:
    """Bytes [words, n] -> int64 [words, lanes]: `lanes` fields of `width` bits, the first at bit `offset`."""
    bits = np.unpackbits(words, axis=1, bitorder="little")[:, offset : offset + lanes * width]
    bits = bits.reshape(len(words), lanes, width)
    full = np.zeros((len(words), lanes, 64), np.uint8)
    full[..., :width] = bits
    if signed:
        full[..., width:] = bits[..., -1:]
    return np.packbits(full, axis=2, bitorder="little").view(np.int64)[..., 0]


def pack_frames(values: np.ndarray, lanes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames [N, K] -> (beats, last): ceil(K/lanes) beats per frame, surplus lanes zero."""
    count = groups.group_count(values.shape[1], lanes)
    padded = np.pad(values, ((0, 0), (0, count * lanes - values.shape[1])))
    last = np.tile(np.arange(count) == count - 1, len(values))
    return pack_lanes(padded.reshape(-1, lanes), width), last


def unpack_frames(beats: np.ndarray, length: int, lanes: int, width: int, *, signed: bool = True) -> np.ndarray:
    """Beats of `pack_frames` -> int64 [N, length]."""
    count = groups.group_count(length, lanes)
    return unpack_lanes(beats, lanes, width, signed=signed).reshape(-1, count * lanes)[:, :length]


def write_mem(path: Path, fields: np.ndarray, width: int) -> None:
    """Write integers [words, fields] as a `$readmemh` file, one word per line; beside it, as `.0`, `.1` and `.2` behind
    its name, the pieces in which mx_rom holds a deep one."""
    fields = np.asarray(fields)
    digits = -(-fields.shape[1] * width // 4)
    lines = (word[::-1].tobytes().hex()[-digits:] for word in pack_lanes(fields, width))
    # Verilator drops the last word of a file that does not end with a newline.
    Path(path).write_text("".join(f"{line}\n" for line in lines))
    pieces = rom_pieces(len(fields))
    for i, part in enumerate(np.split(fields, np.cumsum(pieces)[:-1]) if len(pieces) > 1 else []):
        write_mem(path.with_name(f"{path.name}.{i}"), part, width)


def rom_pieces(depth: int) -> list[int]:
    """Words in each memory of mx_rom, if it holds them in block RAM."""
    pieces = []
    while depth and len(pieces) < 2:
        pieces.append(_rom_piece(depth))
        depth -= pieces[-1]
    return pieces + [depth] * (depth > 0)


def _rom_piece(depth: int) -> int:
    """mx_pkg::rom_piece."""
    piece = 1 << (depth.bit_length() - 1)
    rest = depth - piece
    few = 0 < rest <= 64 and piece >= 512
    return piece if few or (piece >= 1024 and 0 < rest <= piece // 2 + 64) else depth
