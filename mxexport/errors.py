"""Every exception mxexport raises on purpose.

    MXExportError                     exit code 3 on the command line
    ├── FormatError (ValueError)      a format name or format parameter nobody defined; exit code 2
    ├── ShapeError (ValueError)       tensors that do not fit together
    │   └── ScaleShapeError           a scale or zero point that is not contracted as the op contract says
    ├── UnsupportedError              a model we cannot carry, every offending layer or node listed
    ├── OptionError (ValueError)      an option outside what is possible; exit code 2
    ├── InputFileError                a missing or unreadable file; exit code 2
    ├── VerificationError             two stages that should agree do not; exit code 1
    └── MissingToolError              an external program that is not installed; exit code 4

Messages name what was found, what was expected and how to fix it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class MXExportError(Exception):
    """Base of all mxexport errors; `exit_code` is what the command line returns for it."""

    exit_code = 3


class FormatError(MXExportError, ValueError):
    exit_code = 2


class ShapeError(MXExportError, ValueError):
    pass


class ScaleShapeError(ShapeError):
    pass


class UnsupportedError(MXExportError):
    """`problems` holds one `(where, why)` pair for every layer or node that stands in the way."""

    def __init__(self, message: str, problems: list[tuple[str, str]] | None = None):
        self.problems = list(problems or [])
        lines = [message] + [f"  {where}: {why}" for where, why in self.problems]
        super().__init__("\n".join(lines))


class OptionError(MXExportError, ValueError):
    exit_code = 2


class InputFileError(MXExportError):
    exit_code = 2


class VerificationError(MXExportError):
    exit_code = 1


class MissingToolError(MXExportError):
    exit_code = 4


@contextlib.contextmanager
def foreign_errors(ours: Callable[[Exception], MXExportError]) -> Iterator[None]:
    """Around what may raise anything (libraries below, files that nobody vouches for): `ours` makes our exception of
    it; those of ours pass as they are."""
    try:
        yield
    except MXExportError:
        raise
    except Exception as error:
        raise ours(error) from error
