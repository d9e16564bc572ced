"""What every command shares: where output goes, JSON, arrays from files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO
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


def save_array(path: Path, content) -> None:
    """An array (.npy), or arrays by name (.npz), at exactly `path`: whole, or what stood there before stays.

    Raises InputFileError when it cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe: renaming would replace it
        with _reported(path), path.open("wb") as stream:
            stream.write(_bytes(content))
    else:
        save_arrays(path.parent, {path.name: content})


def save_arrays(directory: Path, files: dict, make: bool = False) -> None:
    """File name -> array (.npy), or arrays by name (.npz); all are whole, or what stood there before stays.

    Raises InputFileError when they cannot be written. `make`: make the directory first.
    """
    from mxexport.model.writer import replace_files, staging

    with _reported(directory / next(iter(files)) if len(files) == 1 else directory):
        if make:
            directory.mkdir(parents=True, exist_ok=True)
        with staging(directory / "outputs") as staged:
            for file, content in files.items():
                with (staged / file).open("wb") as stream:
                    _write_array(stream, content)
            replace_files(staged, directory, list(files))


@contextmanager
def _reported(where: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot write {where}: {getattr(error, 'strerror', None) or error}") from error


def _bytes(content) -> bytes:
    stream = io.BytesIO()
    _write_array(stream, content)
    return stream.getvalue()


def _write_array(stream: BinaryIO, content) -> None:
    """As np.save and np.savez, which takes no array called `file`."""
    import numpy as np

    if not isinstance(content, dict):
        np.lib.format.write_array(stream, np.asanyarray(content), allow_pickle=False)
        return
    with ZipFile(stream, "w") as archive:
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
