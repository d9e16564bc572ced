"""HDL that FINN's side generated, linted and simulated: words in, words out, as FINN packs them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from mxexport.fpga.tools import verilator

_ADAPTER = """module {name}_adapter (
  input logic aclk, input logic aresetn,
  input logic s_axis_tvalid, output logic s_axis_tready, input logic [{s}:0] s_axis_tdata, input logic s_axis_tlast,
  output logic m_axis_tvalid, input logic m_axis_tready, output logic [{m}:0] m_axis_tdata, output logic m_axis_tlast
);
  assign m_axis_tlast = 1'b0;
  {name} u_unit (
    .ap_clk(aclk), .ap_rst_n(aresetn),
    .in0_V_tvalid(s_axis_tvalid), .in0_V_tready(s_axis_tready), .in0_V_tdata(s_axis_tdata),
    .out0_V_tvalid(m_axis_tvalid), .out0_V_tready(m_axis_tready), .out0_V_tdata(m_axis_tdata)
  );
endmodule
"""
"""The simulator's names of ports; FINN's streams have no TLAST."""


def generated(folder: Path) -> dict[str, dict]:
    """Node -> what `generate_units` wrote of it."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def lint(name: str, files: list[str]) -> None:
    """Raises AssertionError with what Verilator says."""
    tools = verilator.find_tools()
    command = [tools.verilator, "--lint-only", "-Wall", *(f"-Wno-{w}" for w in verilator.WAIVED), "--top-module", name]
    done = subprocess.run([*command, *files], capture_output=True, text=True, env={"VERILATOR_ROOT": str(tools.root)})
    assert done.returncode == 0 and not done.stderr, done.stderr


def simulate(name: str, found: dict, folder: Path, stall: float, seed: int) -> tuple[list[str], int, int]:
    """(the words that come out of a wrapper, words too many, cycles) for those that go in."""
    bits = {"s": found["in_bits"], "m": found["out_bits"]}
    adapter = folder / f"{name}_adapter.sv"
    adapter.write_text(_ADAPTER.format(name=name, s=bits["s"] - 1, m=bits["m"] - 1))
    simulator = verilator.build(f"{name}_adapter", [*map(Path, found["files"]), adapter])
    width = bits["s"] // 8
    beats = np.array([list(int(word, 16).to_bytes(width, "little")) for word in found["words"]["in"]], np.uint8)
    ran = simulator.run(beats, len(found["words"]["out"]), stall_in=stall, stall_out=stall, seed=seed)
    return [f"{int.from_bytes(beat.tobytes(), 'little'):x}" for beat in ran.beats], ran.surplus, ran.cycles
