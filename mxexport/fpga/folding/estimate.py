"""The area of whole designs without synthesis: units, and what stands between them."""

from __future__ import annotations

from collections.abc import Mapping

from mxexport.fpga.areas.area import Area, glue, total
from mxexport.fpga.network import Network
from mxexport.fpga.scheduling import copies
from mxexport.fpga.unit import Folding
from mxexport.fpga.writing import emit


def estimate(design: emit.Design) -> dict[str, Area]:
    """Cell -> area by the model, units and what stands between them."""
    units = {design.units[i.name]: copies.area(i.unit, design.foldings[i.name]) for i in design.network.instances}
    return {c.name: units[c.name] if c.name in units else glue(c.module, c.parameters) for c in design.cells}


def whole(network: Network, foldings: Mapping[str, Folding]) -> Area:
    """Of the design that a choice of foldings gives, FIFOs and borders included."""
    return total(estimate(emit.place(network, foldings)).values())
