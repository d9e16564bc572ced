"""Quant tensors in safetensors files: packed codes and contracted scales, nothing that runs code on loading.

A quant tensor called `w` becomes up to four tensors of the file; the file's metadata entry `mxexport` (JSON) holds
format, axis, shape and dtype of each.

    w.codes         uint8 (..., n, ceil(G * bits / 8), ...): LSB first along the group, each group starts on a byte
    w.scale         (..., n, 1, ...) uint8 codes (E8M0; nvfp4: E4M3), float32 for formats with float scales
    w.zero_point    like scale, uint8; asymmetric formats only
    w.tensor_scale  float32 scalar; nvfp4 only
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mxexport.errors import FormatError, InputFileError, MXExportError, OptionError
from mxexport.model.writer import writable, write_bytes
from mxexport.numbers.formats import GroupFormat, get_format
from mxexport.numbers.numerics import NVFP4_SCALE
from mxexport.quant.kernels import operators
from mxexport.quant.tensors import codes
from mxexport.quant.tensors.layout import Layout
from mxexport.quant.tensors.tensor import GroupwiseQuantTensor

_KEY, _VERSION = "mxexport", 1
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}


def save_file(tensors: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Write quant tensors (and plain ones) to a safetensors file; `load_file` gives back the same bits.

    Raises:
        FormatError: a quant tensor whose values are not codes times scales of its format, or names that clash.
        OptionError: what is neither a tensor with values nor called by a string.
        InputFileError: `path` cannot be written.
    """
    path = writable(path)
    _check_tensors(tensors)
    stored: dict[str, Tensor] = {}
    described: dict[str, dict] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, GroupwiseQuantTensor):
            described[name] = _describe(tensor)
            parts = {f"{name}.{part}": value for part, value in _pack(name, tensor.detach().cpu()).items()}
        else:
            parts = {name: tensor.detach()}
        clash = sorted(stored.keys() & parts.keys())
        if clash:
            raise FormatError(f"save_file: two tensors would be called {clash[0]!r} in the file; rename one")
        stored |= {key: value.cpu().contiguous().clone() for key, value in parts.items()}
    metadata = {_KEY: json.dumps({"version": _VERSION, "tensors": described}, sort_keys=True)}
    data = safetensors.torch.save(stored, metadata)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise InputFileError(f"cannot write {path}: {error.strerror or error}") from error


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    if not isinstance(tensors, dict):
        raise OptionError(f"save_file: expected a dict of tensors by name, found {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise OptionError(f"save_file: a tensor cannot be called {name!r} in a safetensors file")
        if not isinstance(tensor, Tensor):
            raise OptionError(f"save_file: {name!r} is {type(tensor).__name__}, expected a tensor")
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise OptionError(
                f"save_file: {name!r} is {tensor.layout} on {tensor.device}, expected a dense tensor with values"
            )


def load_file(path: str | os.PathLike, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a file that `save_file` wrote; tensors of other safetensors files come back as plain tensors.

    Raises:
        InputFileError: missing, not safetensors, or its description and its tensors do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    try:
        with safetensors.safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:  # the last: no such device
        raise InputFileError(f"{path} is not a readable safetensors file: {error}") from error
    if _KEY not in metadata:
        return stored
    described = _parse_metadata(path, metadata[_KEY])
    loaded = {}
    for name, about in described.items():
        try:
            loaded[name] = _unpack(about, name, stored)
        except (MXExportError, KeyError, TypeError, ValueError) as error:
            raise InputFileError(f"{path}: quant tensor {name!r} cannot be read: {_reason(error)}") from error
    return loaded | stored  # _unpack took its parts out of `stored`


def _parse_metadata(path: Path, text: str) -> dict[str, dict]:
    try:
        about = json.loads(text)
        version, tensors = about["version"], about["tensors"]
        if not all(isinstance(entry, dict) for entry in tensors.values()):
            raise TypeError("an entry of 'tensors' is not an object")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputFileError(f"{path}: metadata {_KEY!r} is not what save_file writes: {_reason(error)}") from error
    if version != _VERSION:
        raise InputFileError(f"{path}: file version {version!r}, expected {_VERSION}; it needs another mxexport")
    return tensors


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


# --- one tensor -------------------------------------------------------------------------------------------------


def _describe(q: GroupwiseQuantTensor) -> dict:
    dtype = str(q.dtype).removeprefix("torch.")
    return {"format": q.format.name, "axis": q.axis, "shape": list(q.shape), "dtype": dtype}


def _pack(name: str, q: GroupwiseQuantTensor) -> dict[str, Tensor]:
    fmt = q.format
    element, scale = q.codes, q.scale_ if fmt.scale in ("float32", "nested") else q.scale_codes
    parts = {"codes": pack_codes(element, fmt.element.bits, q.axis + 1), "scale": scale}
    if q.zero_point_ is not None:
        parts["zero_point"] = q.zero_point_.to(torch.uint8)
    if q.tensor_scale is not None:
        parts["tensor_scale"] = q.tensor_scale
    again = _unpack(_describe(q), name, {f"{name}.{part}": value for part, value in parts.items()})
    if not (_same_bits(again.value_, q.value_) and _same_bits(again.scale_, q.scale_)):
        raise FormatError(
            f"save_file: the values of {name!r} are not {fmt.name} codes times scales, so codes cannot hold them; "
            "quantize the tensor again, or save .value"
        )
    return parts


def _same_bits(a: Tensor, b: Tensor) -> bool:
    same = (a == b) & (torch.signbit(a) == torch.signbit(b)) | (a.isnan() & b.isnan())
    return bool(same.all())


def _unpack(about: dict, name: str, stored: dict[str, Tensor]) -> GroupwiseQuantTensor:
    """Takes the parts of `name` out of `stored`; every size is checked before anything is computed with it."""
    fmt, layout, dtype = _read_description(about)
    axis, size = layout.axis, layout.group_size
    packed = _take(stored, f"{name}.codes", layout.stored(-(-size * fmt.element.bits // 8)), torch.uint8)
    floats = fmt.scale in ("float32", "nested")
    scale = _take(stored, f"{name}.scale", layout.stored(1), torch.float32 if floats else torch.uint8)
    zero = tensor_scale = None
    if fmt.asymmetric:
        zero = _take(stored, f"{name}.zero_point", layout.stored(1), torch.uint8).float()
    if fmt.scale == "nvfp4":
        tensor_scale = _take(stored, f"{name}.tensor_scale", (), torch.float32)
        scale = operators.decode_float(scale, NVFP4_SCALE) * tensor_scale
    elif fmt.is_mx:
        scale = torch.where(scale == 255, torch.nan, operators.power_of_two(scale.int(), fmt.step_frac_bits))
    element = unpack_codes(packed, fmt.element.bits, size, axis + 1)
    if not fmt.is_float and fmt.element.signed:
        half = 2 ** (fmt.element.bits - 1)
        element = ((element.int() + half) % (2 * half) - half).to(torch.int8)
    value = codes.decode(element, scale, zero, fmt).to(dtype)
    value = operators.split_groups(operators.join_groups(value, axis, layout.length), axis, size)  # padding is zero
    return GroupwiseQuantTensor.from_parts(value, scale, zero, fmt, axis, layout.length, tensor_scale)


def _read_description(about: dict) -> tuple[GroupFormat, Layout, torch.dtype]:
    name, axis, shape, dtype = (about[key] for key in ("format", "axis", "shape", "dtype"))
    if not isinstance(name, str) or dtype not in _DTYPES:
        raise ValueError(f"format {name!r} with dtype {dtype!r}; expected a format name and one of {list(_DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape {shape!r} is not a list of sizes")
    if type(axis) is not int or not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis!r} is outside shape {shape}")
    fmt = get_format(name)
    if fmt.group_size is None:
        raise ValueError(f"format {name!r} has no group size")
    return fmt, Layout(tuple(shape), axis, fmt.group_size), _DTYPES[dtype]


def _take(stored: dict[str, Tensor], key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = stored.pop(key)
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        raise ValueError(f"{key} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {tuple(shape)}")
    return tensor


# --- packing ----------------------------------------------------------------------------------------------------


def pack_codes(element: Tensor, bits: int, axis: int) -> Tensor:
    """Codes of `bits` bits, on the CPU -> uint8, LSB first along `axis` (the G of (..., n, G, ...)), in whole bytes."""
    if bits == 8:
        return element.view(torch.uint8)
    last = np.moveaxis(element.numpy().view(np.uint8), axis, -1)
    split = (last[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    flat = split.reshape(*last.shape[:-1], last.shape[-1] * bits)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.packbits(flat, -1, "little"), -1, axis)))


def unpack_codes(packed: Tensor, bits: int, group_size: int, axis: int) -> Tensor:
    """Inverse of `pack_codes`: uint8 codes, `group_size` of them along `axis`."""
    if bits == 8:
        return packed
    last = np.moveaxis(packed.cpu().numpy(), axis, -1)
    flat = np.unpackbits(last, axis=-1, count=group_size * bits, bitorder="little")
    split = flat.reshape(*last.shape[:-1], group_size, bits)
    whole = (split << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(whole, -1, axis))).to(packed.device)
