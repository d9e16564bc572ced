"""From a network with its foldings to SystemVerilog."""
