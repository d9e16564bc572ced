"""What was measured, line by line in a file, so that a run that ends early is gone on with.

A line is one JSON object: the key of a measurement (a hash of all that it depends on) and what it gave. Lines of other
models, data or versions have other keys: they stay and are not looked at.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mxexport.errors import InputFileError

_HEAD = {"journal": "mxexport search", "version": 1}


class Journal:
    """`path` None: nothing is kept. `kept`: how many of the measurements asked for were there.

    Raises:
        InputFileError: a file that is no journal, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike | None):
        self.path, self.kept = None if path is None else Path(path), 0
        self._known: dict[str, Any] = {}
        if self.path is not None:
            self._open(self.path)

    def get(self, key: str) -> Any | None:
        found = self._known.get(key)
        self.kept += found is not None
        return found

    def put(self, key: str, found: dict) -> None:
        """On disk before this returns."""
        self._known[key] = found
        if self.path is not None:
            self._append(self.path, json.dumps({"key": key, "found": found}, allow_nan=False))

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]  # a killed process may have left half a line
            lines = whole.decode().splitlines()
            if data and _parsed(path, 1, lines[0] if lines else data.decode()) != _HEAD:
                raise InputFileError(f"{path} is no journal of a search; give another name")
            for number, line in enumerate(lines[1:], 2):
                row = _parsed(path, number, line)
                self._known[row["key"]] = row["found"]
            if whole != data:
                os.truncate(path, len(whole))
        except (OSError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputFileError(f"{path} is not readable as a journal of a search: {error}") from None
        if not data:
            self._append(path, json.dumps(_HEAD))

    def _append(self, path: Path, line: str) -> None:
        try:
            with path.open("a") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputFileError(f"cannot write {path}: {error.strerror or error}") from error


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise InputFileError(f"{path}, line {number}: no JSON; give another file, or remove that line") from None
