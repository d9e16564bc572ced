"""How units keep pace: foldings, lanes, cycles, FIFOs, memories, layers in turn."""
