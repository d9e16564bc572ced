"""What a design whose weights come from outside adds to its folder: a stream or a bus, and what comes there."""

from __future__ import annotations

import numpy as np

from mxexport.fpga.scheduling import memory
from mxexport.fpga.writing import emit

STREAM = {"name": "weights", "port": "s_axis_weights", "side": "s", "inner": "s_axis_weights"}
REGISTERS = [
    {"name": "weights_low", "offset": 20, "access": "w", "what": "lower half of where the weights lie, in bytes"},
    {"name": "weights_high", "offset": 24, "access": "w", "what": "upper half; from then on they are read"},
]
"""Of mx_registers, where weights are read from memory."""


def loaded(design: emit.Design) -> np.ndarray | None:
    """The beats that are sent once, uint8 [beats, bus/8]; None where nothing is."""
    units = memory.loaded(design.network)
    return memory.words(units, design.foldings) if units else None


def streamed(design: emit.Design) -> np.ndarray | None:
    """What lies in memory, likewise."""
    units = memory.streamed(design.network)
    return memory.image(units, design.foldings) if units else None


def streamed_beats(design: emit.Design) -> int:
    """How many beats that are."""
    units = memory.streamed(design.network)
    return memory.image_beats(units, design.foldings) if units else 0


def stream(design: emit.Design) -> list[dict]:
    """The stream of weights as an end of the wrapper, if there is one."""
    if design.weights is None:
        return []
    beats = sum(memory.beats(memory.loaded(design.network), design.foldings))
    return [STREAM | {"bits": design.weights.bits, "beats": beats}]


def axi(design: emit.Design) -> list[tuple[str, str, int]]:
    """Signals of the bus to memory: name without m_axi_, direction, bits."""
    if not design.bus:
        return []
    ways = {"input": "in", "output": "out"}
    ports = emit.axi_ports(design.bus).items()
    return [(name.removeprefix("m_axi_"), ways[way], n) for name, (way, n) in ports if name.startswith("m_axi_")]
