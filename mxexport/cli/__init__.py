"""The `mxexport` command. Results go to standard output, progress and errors to standard error.

Exit codes: 0 ok, 1 verification mismatch, 2 usage or missing file, 3 unsupported model, 4 missing external tool.
A command is a function in one of the files beside this one and a line in `COMMANDS`.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

import mxexport
from mxexport.cli import bench, check, clean, convert, demo, export, files, hardware, quantize, report, search, verify
from mxexport.cli._common import console, fail, notes, warn
from mxexport.errors import MissingToolError, MXExportError

COMMANDS = (
    demo.demo,
    quantize.quantize,
    search.search,
    export.export,
    clean.clean,
    files.info,
    files.run,
    verify.verify,
    check.check,
    convert.convert,
    hardware.compile,
    hardware.simulate,
    hardware.synth,
    report.report,
    check.view,
    bench.bench,
)

app = typer.Typer(
    name="mxexport",
    help="Groupwise (OCP microscaling) quantized PyTorch models to QONNX and FPGA dataflow, bit-exact at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in COMMANDS:
    app.command()(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"mxexport {mxexport.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    """Groupwise (OCP microscaling) quantized PyTorch models to QONNX and FPGA dataflow, bit-exact at every step."""
    notes.quiet, _wanted["traceback"] = quiet, traceback


_wanted = {"traceback": False}
# Optional packages and the extra that brings them.
_EXTRAS = {"torch": "torch", "pyosys": "fpga", "yaml": "fpga", "cloudpickle": "cluster"}


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    warn(str(message))


def main() -> None:
    """Entry point: our own errors become one clear message and the documented exit code, warnings one line each."""
    warnings.showwarning = _show_warning
    try:
        app()
    except MXExportError as error:
        if _wanted["traceback"]:
            raise
        fail(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        fail(f"this command needs {error.name}: pip install 'mxexport[{_EXTRAS[error.name]}]'")
        sys.exit(MissingToolError.exit_code)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)
