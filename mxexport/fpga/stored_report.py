"""report.json of a compiled design, read without the compiler."""

from __future__ import annotations

import json
from pathlib import Path

from mxexport.errors import InputFileError

REPORT = "report.json"
_NEEDED = {"path", "part", "layers", "clock_mhz", "frames_per_second"}


def read_report(directory: Path) -> dict:
    """What `compile` wrote there. Raises InputFileError where there is nothing, or what it cannot have written."""
    file = directory / REPORT
    if not file.is_file():
        raise InputFileError(f"{directory} holds no compiled design (no {REPORT}); run mxexport compile first")
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"{file} is no report of a compiled design ({error}); compile it again") from None
    if not isinstance(found, dict) or not set(found) >= _NEEDED or not isinstance(found["layers"], list):
        raise InputFileError(f"{file} is no report of a compiled design, or of an older version; compile it again")
    return found
