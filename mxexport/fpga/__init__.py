"""The dataflow compiler: lower, calibrate, fold, emit, simulate, synthesize. Attributes load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxexport.fpga.compiling import compile as compile
    from mxexport.fpga.design import Design as Design
    from mxexport.fpga.design import Outputs as Outputs
    from mxexport.fpga.design import Simulation as Simulation
    from mxexport.fpga.design import open_design as open_design

_HOME = {
    "Design": "mxexport.fpga.design",
    "Outputs": "mxexport.fpga.design",
    "Simulation": "mxexport.fpga.design",
    "compile": "mxexport.fpga.compiling",
    "open_design": "mxexport.fpga.design",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mxexport.fpga' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
