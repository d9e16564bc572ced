"""Where the SystemVerilog of the operator library lies."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import mxexport
from mxexport.errors import MXExportError


def library_dir() -> Path:
    """`ops/`: packed into the wheel as `mxexport/_oplib`, beside the package in a checkout."""
    package = Path(mxexport.__file__).parent
    packed = package / "_oplib"
    return packed if packed.is_dir() else package.parent / "ops"


def rtl_sources() -> list[Path]:
    """All `ops/*/rtl/*.sv` in compile order: packages first."""
    return sorted(library_dir().glob("*/rtl/*.sv"), key=lambda path: (not path.stem.endswith("_pkg"), str(path)))


def primitives() -> list[Path]:
    """Models of the vendor's cells that RTL instantiates where a macro asks for it; no part of a design."""
    return sorted(library_dir().glob("*/primitives/*.sv"))


def in_order(module: str, parameters: dict) -> dict:
    """`parameters` in the order in which a module declares them.

    Raises:
        MXExportError: the module has no such parameter.
    """
    declared = _declared(module)
    if unknown := set(parameters) - set(declared):
        raise MXExportError(f"module {module} has no parameter {', '.join(sorted(unknown))}")
    return {name: parameters[name] for name in declared if name in parameters}


@functools.cache
def _declared(module: str) -> list[str]:
    (source,) = (path for path in rtl_sources() if path.stem == module)
    header = source.read_text().split(f"module {module} #(")[1].split("\n) (")[0]
    return re.findall(r"^ *parameter (?:(?:int|bit|string) )? *(\w+)", header, re.MULTILINE)
