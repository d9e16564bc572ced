"""The dataflow compiler: lower, calibrate, fold, emit, simulate, synthesize. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mxexport

if TYPE_CHECKING:
    from mxexport.fpga.checking.alone import UnitSimulation as UnitSimulation
    from mxexport.fpga.compiling import compile as compile
    from mxexport.fpga.design import (
        Design as Design,
        Outputs as Outputs,
        Simulation as Simulation,
        open_design as open_design,
    )

_HOME = {
    "Design": "mxexport.fpga.design",
    "Outputs": "mxexport.fpga.design",
    "Simulation": "mxexport.fpga.design",
    "UnitSimulation": "mxexport.fpga.checking.alone",
    "compile": "mxexport.fpga.compiling",
    "open_design": "mxexport.fpga.design",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    return mxexport.attribute_of(__name__, _HOME, name)
