"""What every command shares: where output goes, JSON, arrays from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

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
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        raise InputFileError(f"{path} is not a .npy array or .npz file of numbers: {error}") from error


def load_array(path: Path):
    """The array of a .npy file. Raises InputFileError."""
    loaded = load_inputs(path)
    if isinstance(loaded, dict):
        raise InputFileError(f"{path} holds {len(loaded)} arrays; expected a .npy file of one")
    return loaded
