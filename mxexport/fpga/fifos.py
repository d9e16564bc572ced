"""How many beats wait where branches of different length meet again."""

from __future__ import annotations

from collections.abc import Mapping

from mxexport.fpga.network import Network
from mxexport.fpga.unit import Folding


def fifo_depths(network: Network, foldings: Mapping[str, Folding]) -> dict[tuple[str, str], int]:
    """(stream, reader) -> depth in beats, a power of two, where a FIFO is needed. A reader is `instance/input`."""
    found = {}
    for stream, kind in network.streams.items():
        readers = [(r, i) for r in network.readers(stream) for i, s in enumerate(r.sources) if s == stream]
        if len(readers) < 2:
            continue
        maker = network.maker(stream)
        lanes = maker.unit.lanes(foldings[maker.name])[1] if maker else foldings[readers[0][0].name].simd
        for reader, i in readers:
            found[stream, f"{reader.name}/{i}"] = 1 << (kind.beats(lanes) + 64 - 1).bit_length()
    return found
