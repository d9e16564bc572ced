"""The dataflow compiler: lower, calibrate, fold, emit, simulate, synthesize. Attributes load on first use."""

from __future__ import annotations

import importlib

_HOME = {
    "Design": "mxexport.fpga.design",
    "Outputs": "mxexport.fpga.design",
    "Simulation": "mxexport.fpga.design",
    "compile": "mxexport.fpga.compiling",
    "open_design": "mxexport.fpga.design",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mxexport.fpga' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
