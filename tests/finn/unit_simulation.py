"""HDL that FINN's side generated, linted and simulated: words in, words out, as FINN packs them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.simulator import Feed


@dataclass(frozen=True)
class Ran:
    """Words that came out, words too many, and cycles."""

    words: list[str]
    surplus: int
    cycles: int


def generated(folder: Path) -> dict[str, dict]:
    """Node -> what `generate_units` wrote of it."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def lint(name: str, files: list[str]) -> None:
    """Raises AssertionError with what Verilator says."""
    tools = verilator.find_tools()
    command = [tools.verilator, "--lint-only", "-Wall", *(f"-Wno-{w}" for w in verilator.WAIVED), "--top-module", name]
    done = subprocess.run([*command, *files], capture_output=True, text=True, env={"VERILATOR_ROOT": str(tools.root)})
    assert done.returncode == 0 and not done.stderr, done.stderr


def adapter(name: str, in_bits: list[int], out_bits: int) -> str:
    """A wrapper under the simulator's names of ports; FINN's streams have no TLAST."""
    ports, joined = ["input logic aclk", "input logic aresetn"], [".ap_clk(aclk)", ".ap_rst_n(aresetn)"]
    ends = [(f"s{i}_axis", f"in{i}_V", bits) for i, bits in enumerate(in_bits)] + [("m_axis", "out0_V", out_bits)]
    for outer, inner, bits in ends:
        given, taken = ("input", "output") if outer != "m_axis" else ("output", "input")
        ports += [f"{given} logic {outer}_tvalid", f"{taken} logic {outer}_tready", f"{given} logic {outer}_tlast"]
        ports.append(f"{given} logic [{bits - 1}:0] {outer}_tdata")
        joined += [f".{inner}_{wire}({outer}_{wire})" for wire in ("tvalid", "tready", "tdata")]
    body = f"  assign m_axis_tlast = 1'b0;\n  {name} u_unit ({', '.join(joined)});\n"
    return f"module {name}_adapter (\n  {', '.join(ports)}\n);\n{body}endmodule\n"


def simulate(name: str, found: dict, folder: Path, stall: float, seed: int) -> Ran:
    """What comes out of a wrapper for the words that go in, with pauses of that probability on all sides."""
    file = folder / f"{name}_adapter.sv"
    file.write_text(adapter(name, found["in_bits"], found["out_bits"]))
    simulator = verilator.build(f"{name}_adapter", [*map(Path, found["files"]), file])
    feeds = [Feed(_beats(words, bits), None, stall)
             for words, bits in zip(found["words"]["in"], found["in_bits"], strict=True)]  # fmt: skip
    ran = simulator.run_streams(feeds, [len(found["words"]["out"][0])], stall_out=stall, seed=seed)
    (out,) = ran.outputs
    return Ran([f"{int.from_bytes(beat.tobytes(), 'little'):x}" for beat in out.beats], out.surplus, ran.cycles)


def _beats(words: list[str], bits: int) -> np.ndarray:
    return np.array([list(int(word, 16).to_bytes(bits // 8, "little")) for word in words], np.uint8)
