"""From a QONNX graph to units: rewriting, ranges, layers that repeat, and the walk that asks units for their nodes."""
