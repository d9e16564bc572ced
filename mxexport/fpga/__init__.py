"""The dataflow compiler: lower, calibrate, fold, emit, simulate, synthesize."""

from mxexport.fpga.compiling import compile
from mxexport.fpga.design import Design, Outputs, Simulation, open_design

__all__ = ["Design", "Outputs", "Simulation", "compile", "open_design"]
