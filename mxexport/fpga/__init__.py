"""The dataflow compiler: plan, calibrate, lower, fold, emit, simulate, synthesize."""

from mxexport.fpga.design import Design, Outputs, Simulation, compile, open_design

__all__ = ["Design", "Outputs", "Simulation", "compile", "open_design"]
