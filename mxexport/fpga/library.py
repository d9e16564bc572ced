"""Where the SystemVerilog of the operator library lies."""

from __future__ import annotations

from pathlib import Path

import mxexport


def library_dir() -> Path:
    """`ops/`: packed into the wheel as `mxexport/_oplib`, beside the package in a checkout."""
    package = Path(mxexport.__file__).parent
    packed = package / "_oplib"
    return packed if packed.is_dir() else package.parent / "ops"


def rtl_sources() -> list[Path]:
    """All `ops/*/rtl/*.sv` in compile order: packages first."""
    return sorted(library_dir().glob("*/rtl/*.sv"), key=lambda path: (not path.stem.endswith("_pkg"), str(path)))
