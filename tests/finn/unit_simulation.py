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


def adapter(names: list[str], found: list[dict]) -> str:
    """Wrappers one behind the other, under the simulator's names of ports; FINN's streams have no TLAST."""
    taken, given = found[0]["in_bits"], [made["out_bits"] for made in found]
    ports = ["input logic aclk", "input logic aresetn"]
    for outer, bits in [*((f"s{i}_axis", bits) for i, bits in enumerate(taken)), ("m_axis", given[-1])]:
        ways = ("input", "output") if outer != "m_axis" else ("output", "input")
        ports += [
            f"{ways[0]} logic {outer}_tvalid",
            f"{ways[1]} logic {outer}_tready",
            f"{ways[0]} logic {outer}_tlast",
        ]
        ports.append(f"{ways[0]} logic [{bits - 1}:0] {outer}_tdata")
    body = ["assign m_axis_tlast = 1'b0;"]
    for i, (name, bits) in enumerate(zip(names, given, strict=True)):
        ins = [f"s{n}_axis" for n in range(len(taken))] if i == 0 else [f"w{i - 1}"]
        out = "m_axis" if i == len(names) - 1 else f"w{i}"
        if out != "m_axis":
            body.append(f"logic {out}_tvalid, {out}_tready; logic [{bits - 1}:0] {out}_tdata;")
        joined = [".ap_clk(aclk)", ".ap_rst_n(aresetn)"]
        for inner, outer in [*((f"in{n}_V", wire) for n, wire in enumerate(ins)), ("out0_V", out)]:
            joined += [f".{inner}_{wire}({outer}_{wire})" for wire in ("tvalid", "tready", "tdata")]
        body.append(f"{name} u_{name} ({', '.join(joined)});")
    return "\n".join(["module adapter (", ",\n".join(ports), ");", *body, "endmodule", ""])


def simulate(hdl: dict[str, dict], folder: Path, stall: float, seed: int) -> Ran:
    """What comes out of wrappers that stand one behind the other, for the words that go into the first, with pauses of
    that probability on all sides."""
    names, found = list(hdl), list(hdl.values())
    file = folder / f"{names[0]}_to_{names[-1]}.sv"
    file.write_text(adapter(names, found))
    sources = list(dict.fromkeys(path for made in found for path in made["files"]))
    simulator = verilator.build("adapter", [*map(Path, sources), file])
    feeds = [Feed(_beats(words, bits), None, stall)
             for words, bits in zip(found[0]["words"]["in"], found[0]["in_bits"], strict=True)]  # fmt: skip
    ran = simulator.run_streams(feeds, [len(found[-1]["words"]["out"][0])], stall_out=stall, seed=seed)
    (out,) = ran.outputs
    return Ran([f"{int.from_bytes(beat.tobytes(), 'little'):x}" for beat in out.beats], out.surplus, ran.cycles)


def _beats(words: list[str], bits: int) -> np.ndarray:
    return np.array([list(int(word, 16).to_bytes(bits // 8, "little")) for word in words], np.uint8)
