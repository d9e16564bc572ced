"""Dot products, which know no handshake, as streams of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mxexport.fpga import library
from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.simulator import Simulator

HANDSHAKE = """  logic [Delay:1] valid_q;
  logic en, unused;
  assign en = !valid_q[Delay] || m_axis_tready;
  assign s_axis_tready = en;
  assign m_axis_tvalid = valid_q[Delay];
  assign m_axis_tlast = 1'b1;
  assign unused = s_axis_tlast;
  always_ff @(posedge aclk) begin
    if (!aresetn) valid_q <= '0;
    else if (en) valid_q <= Delay'({valid_q, s_axis_tvalid});
  end
"""


def build_stream(top: str, module: str, parameters: Mapping[str, int], cells: tuple[str, ...] = ()) -> Simulator:
    """The simulator of a `module` called `top`, in whose text HANDSHAKE stands for what moves beats along `Delay`
    registers with the enable `en`. `cells`: macros of the cells to be used by name."""
    with tempfile.TemporaryDirectory() as directory:
        wrapper = Path(directory) / f"{top}.sv"
        wrapper.write_text(module.replace("HANDSHAKE\n", HANDSHAKE))
        sources = [*library.rtl_sources(), wrapper, *(library.primitives() if cells else [])]
        return verilator.build(top, sources, parameters, defines=cells, quick=True)
