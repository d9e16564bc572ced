"""What every command shares: where output goes, JSON, arrays from files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile, ZipFile

import typer
from rich.console import Console

from mxexport.errors import InputFileError

notes = Console(stderr=True)
"""Progress and errors."""
console = Console()
"""Results."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ModelFile = Annotated[Path, typer.Argument(help="An ONNX file written by mxexport.")]


def print_json(data) -> None:
    print(json.dumps(data, indent=2))


def load_inputs(path: Path):
    """One array from .npy, arrays by name from .npz. Raises InputFileError."""
    import numpy as np

    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else loaded
    except (ValueError, EOFError, OSError, MemoryError, BadZipFile) as error:
        raise InputFileError(f"{path} is not a .npy array or .npz file of numbers: {error}") from error


def load_array(path: Path):
    """The array of a .npy file. Raises InputFileError."""
    loaded = load_inputs(path)
    if isinstance(loaded, dict):
        raise InputFileError(f"{path} holds {len(loaded)} arrays; expected a .npy file of one")
    return loaded


def save_arrays(path: Path, arrays) -> None:
    """One array as .npy, a dict of arrays as .npz, at exactly `path`: whole or absent. Raises InputFileError."""
    import numpy as np

    from mxexport.graph import write_atomically

    buffer = io.BytesIO()
    if isinstance(arrays, dict):
        with ZipFile(buffer, "w") as archive:  # np.savez takes names for its own arguments
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    else:
        np.save(buffer, arrays, allow_pickle=False)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(buffer.getvalue())  # a device or a pipe: renaming would replace it
        else:
            write_atomically(path, buffer.getvalue())
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
