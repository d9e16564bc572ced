"""What every command shares: where output goes, JSON, arrays from files."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO
from zipfile import ZipFile

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxexport.errors import InputFileError, OptionError

_IN_PIPES = 240  # columns: what reads a pipe wants lines whole


def _console(stream: TextIO, **options) -> Console:
    return Console(width=None if stream.isatty() else _IN_PIPES, **options)


notes = _console(sys.stderr, stderr=True)
"""Progress and errors."""
console = _console(sys.stdout)
"""Results."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ModelFile = Annotated[Path, typer.Argument(help="An ONNX file written by mxexport.")]


def fail(message: str) -> None:
    """On standard error; in pipes as one line, however long."""
    _say("error", message, "bold red")


def warn(message: str) -> None:
    _say("warning", message, "yellow")


def _say(kind: str, message: str, style: str) -> None:
    text = message if notes.is_terminal else " ".join(message.split())
    notes.print(f"{kind}: {text}", style=style, highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence], total: bool = False) -> None:
    """Texts to the left and numbers to the right, all of them whole; `total`: the last row stands apart. Brackets are
    brackets, no markup."""
    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        numbers = all(re.fullmatch(r"[-\d.,]*", row[i]) for row in cells)
        table.add_column(Text(column), justify="right" if numbers else "left", overflow="fold")
    for i, row in enumerate(cells):
        if total and i == len(cells) - 1:
            table.add_section()
        table.add_row(*map(Text, row))
    console.print(table)


Force = Annotated[bool, typer.Option("--force", "-f", help="Write over what stands there.")]


OutFile = Annotated[Path | None, typer.Argument(help="The file to write (or -o).", show_default=False)]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="The file to write; without it, one named after the input.")
]


def one_target(argument: Path | None, option: Path | None, default: str) -> Path:
    """Where the result goes: named as the second argument, with -o, or by default. Raises OptionError for both."""
    if argument is not None and option is not None and argument != option:
        raise OptionError(f"two names for what is written: {argument} and {option}; give one")
    return argument or option or Path(default)


def print_path(path: Path) -> None:
    console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what is done at the moment and for how long; call it with the next stage."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if not notes.is_terminal or notes.quiet:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda stage: progress.update(task, description=stage)


def check_target(out: Path, force: bool, source: Path | None = None) -> None:
    """Raise InputFileError where `out` is the input itself, or stands there already and `force` is not given."""
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise InputFileError(f"{out} is the input itself; give another name")
    if out.is_file() and not force:
        raise InputFileError(f"{out} is there already; give another name, or -f to write over it")


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
    except Exception as error:  # damaged headers raise many types
        why = "it holds Python objects, which are not loaded" if "allow_pickle" in str(error) else error
        raise InputFileError(f"{path} is not a .npy array or .npz file of numbers: {why}") from error


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
    from mxexport.model.staging import replace_files, staging

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
