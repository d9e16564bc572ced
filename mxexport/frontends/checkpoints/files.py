"""The files of a checkpoint folder: tensors by name, and JSON.

Nothing that stands in them is executed, and nothing outside the folder is read. Checkpoints come from anywhere, so
every size, name and type is looked at before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from mxexport.errors import InputFileError

_INDEX, _ONE_FILE = "model.safetensors.index.json", "model.safetensors"
_LARGEST_JSON = 64 << 20  # bytes; the index of a model of 600 billion parameters has 15 MiB
_DTYPES = {
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int32, torch.int64, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
}


@dataclass
class Checkpoint:
    """`shards`: tensor name -> the file that holds it."""

    folder: Path
    shards: dict[str, Path]
    _open: dict[Path, safetensors.safe_open] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, on the CPU.

        Raises:
            InputFileError: a dtype that no weight, scale or bias has, or a file that became unreadable.
        """
        path = self.shards[name]
        try:
            if path not in self._open:
                self._open[path] = safetensors.safe_open(path, "pt")
            tensor = self._open[path].get_tensor(name)
        except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise InputFileError(f"{path}: tensor {name!r} cannot be read: {error}") from error
        if tensor.dtype not in _DTYPES:
            known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in _DTYPES))
            raise InputFileError(f"{path}: {name!r} holds {tensor.dtype}; expected one of {known}")
        return tensor

    def json(self, name: str) -> dict | None:
        """The object in a JSON file of the folder; None where there is no such file. Raises InputFileError."""
        path = self.folder / name
        return read_json(inside(self.folder, path)) if path.exists() or path.is_symlink() else None


def open_checkpoint(folder: Path) -> Checkpoint:
    """The safetensors files of `folder`: those its index names, else `model.safetensors`, else all there are.

    Raises:
        InputFileError: no such folder, no such file, a damaged file or index, or a tensor that two files hold.
    """
    if not folder.is_dir():
        raise InputFileError(f"no such folder: {folder}; from_checkpoint reads the folder that holds config.json")
    checkpoint = Checkpoint(folder, {})
    index = checkpoint.json(_INDEX)
    listed = None if index is None else _weight_map(folder / _INDEX, index)
    for path in _shards(folder, listed):
        for name in _names(path):
            if name in checkpoint.shards:
                raise InputFileError(f"tensor {name!r} stands in {checkpoint.shards[name].name} and in {path.name}")
            checkpoint.shards[name] = path
    for name, shard in (listed or {}).items():
        if checkpoint.shards.get(name) != folder / shard:
            raise InputFileError(f"{folder / _INDEX}: tensor {name!r} is not in {shard}")
    return checkpoint


def _shards(folder: Path, listed: dict[str, str] | None) -> list[Path]:
    if listed is not None:
        paths = [folder / shard for shard in sorted(set(listed.values()))]
    elif (folder / _ONE_FILE).exists():
        paths = [folder / _ONE_FILE]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InputFileError(f"{folder}: no safetensors file; checkpoints in pickled files (.bin, .pt) are not read")
    for path in paths:
        inside(folder, path)
    return paths


def inside(folder: Path, path: Path) -> Path:
    """`path`, when it is a file of `folder` itself.

    Links stay inside; those of a download cache (`snapshots/<revision>/x -> ../../blobs/<hash>`) are its own files.

    Raises:
        InputFileError: no such file, or a link that leads elsewhere.
    """
    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    home, real = folder.resolve(), path.resolve()
    homes = [home, *([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])]
    if not any(real.is_relative_to(each) for each in homes):
        raise InputFileError(f"{path} is a link to a file outside {folder}; copy that file into the folder")
    return path


def read_json(path: Path) -> dict:
    """The object in a JSON file, every key once. Raises InputFileError."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} stands twice")
        return found

    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size} bytes; expected at most {_LARGEST_JSON}")
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"{path} is no readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputFileError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def _weight_map(path: Path, index: Mapping) -> dict[str, str]:
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(shard, str) for shard in listed.values()):
        raise InputFileError(f"{path}: 'weight_map' is no table of file names by tensor name")
    for shard in set(listed.values()):
        if Path(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise InputFileError(f"{path}: {shard!r} is no name of a .safetensors file in the same folder")
    return listed


def _names(path: Path) -> list[str]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return list(file.keys())
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputFileError(f"{path} is not a readable safetensors file: {error}") from error
