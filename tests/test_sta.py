"""Static timing analysis: netlists written by hand against sums on paper, then what Yosys writes."""

from __future__ import annotations

import pytest

from mxexport.errors import MXExportError
from mxexport.fpga.library import rtl_sources
from mxexport.fpga.tools import sta, yosys
from mxexport.fpga.tools.sta import SERIES_7, ULTRASCALE_PLUS, longest_path

FAST = ULTRASCALE_PLUS
XOR6 = "".join(str(bin(i).count("1") % 2) for i in reversed(range(64)))
"""Depends on every input."""


def cell(kind: str, outputs: dict, inputs: dict, **parameters) -> dict:
    ports = {name: "output" for name in outputs} | {name: "input" for name in inputs}
    joined = {n: b if isinstance(b, list) else [b] for n, b in (outputs | inputs).items()}
    return {"type": kind, "port_directions": ports, "connections": joined, "parameters": parameters}


def register(q: int, d: int | str, enable: int | str = "1") -> dict:
    return cell("FDRE", {"Q": q}, {"C": 1, "D": d, "CE": enable, "R": "0"})


def lut6(out: int, *inputs: int, init: str = XOR6) -> dict:
    return cell("LUT6", {"O": out}, {f"I{i}": b for i, b in enumerate(inputs)}, INIT=init)


def netlist(cells: list[dict], names: dict[str, list], outputs: tuple = ()) -> dict:
    ports = {"clk": {"direction": "input", "bits": [1]}}
    ports |= {f"out{bit}": {"direction": "output", "bits": [bit]} for bit in outputs}
    nets = {name: {"hide_name": 0, "bits": bits} for name, bits in names.items()}
    module = {"attributes": {"top": 1}, "ports": ports, "netnames": nets}
    return {"modules": {"top": module | {"cells": {f"c{i}": c for i, c in enumerate(cells)}}}}


def test_a_lut_between_registers():
    cells = [register(2, "0"), register(3, "0"), lut6(10, 2, 3, 2, 3, 2, 3), register(4, 10)]
    path = longest_path(netlist(cells, {"a": [2], "b": [3], "c": [4]}), FAST, net_ps=300)
    # All six inputs come at once: the last one has the slowest pin. The register lies beside the LUT.
    assert path.ps == 77 + 300 + (150 + 74) + 75
    assert (path.luts, path.carry_cells, path.nets_ps) == (1, 0, 300)
    assert str(path) == "register b through 1 LUT to register c: 0.7 ns, 0.3 of it in connections"
    assert path.fmax_mhz == round(1e6 / path.ps, 1)


def test_a_late_input_takes_the_fast_pin():
    cells = [register(2, "0"), lut6(10, 2, 2, 2, 2, 2, 2), lut6(11, 10, 2, 2, 2, 2, 2), register(3, 11)]
    path = longest_path(netlist(cells, {"a": [2], "b": [3]}), FAST, net_ps=300)
    assert path.ps == 77 + 300 + (150 + 74) + 300 + (35 + 74) + 75


def test_inputs_that_a_table_ignores_are_no_path():
    """O5 of a LUT6_2 that adds three words is the majority of three inputs, whatever the fourth says."""
    majority = "".join(str(int(bin(i & 7).count("1") > 1)) for i in reversed(range(32)))
    init = XOR6[:32] + majority
    both = cell("LUT6_2", {"O6": 20, "O5": 21}, dict(zip(("I0", "I1", "I2", "I3", "I4", "I5"), (2, 2, 2, 11, "0", "1"),
                strict=True)), INIT=init)  # fmt: skip
    cells = [register(2, "0"), lut6(11, 2, 2, 2, 2, 2, 2), both, register(3, 21), register(4, "0", 20)]
    module = netlist(cells, {"a": [2], "b": [3], "c": [4]})
    late = longest_path(module, FAST, net_ps=300)
    assert late.luts == 2 and str(late).startswith("register a through 2 LUTs to the enable of register c")
    del module["modules"]["top"]["cells"]["c4"]
    assert longest_path(module, FAST, net_ps=300).luts == 1


def test_a_carry_chain_has_no_routing_inside():
    chains = [
        cell("CARRY4", {"O": list(range(b + 10, b + 14)), "CO": list(range(b + 20, b + 24))},
             {"CI": ci, "CYINIT": "0", "DI": [2] * 4, "S": [2] * 4})
        for b, ci in ((100, "0"), (200, 123), (300, 223))
    ]  # fmt: skip
    cells = [register(2, "0"), *chains, register(3, 313)]
    path = longest_path(netlist(cells, {"a": [2], "b": [3]}), FAST, net_ps=300)
    assert path.nets_ps == 300 and path.carry_cells == 3
    assert path.ps == 77 + 300 + 231 + 2 * 46 + 231 + 75


def test_memories_and_slices_start_and_end_paths():
    ram = cell("RAMB18E2", {"DOUTADOUT": [5]}, {"CLKARDCLK": 1, "ADDRARDADDR": [2]})
    dsp = cell("DSP48E2", {"P": [6]}, {"CLK": 1, "A": [5], "B": [2]})
    path = longest_path(netlist([register(2, "0"), ram, dsp, register(3, 6)], {"word": [5], "a": [2]}), FAST, 300)
    assert path.ps == 900 + 300 + 300 and path.start == "block RAM word" and path.end.startswith("DSP slice")


def test_outputs_are_taken_by_a_register_outside():
    path = longest_path(netlist([register(2, "0")], {"a": [2]}, outputs=(2,)), FAST, 300)
    assert path.ps == 77 + 300 + 100 and path.end == "output out2"


def test_the_older_family_is_slower():
    cells = [register(2, "0"), lut6(10, 2, 2, 2, 2, 2, 2), register(3, 10)]
    module = netlist(cells, {"a": [2], "b": [3]})
    assert longest_path(module, SERIES_7).ps > longest_path(module, FAST).ps
    assert "RapidWright" in FAST.source and "Artix-7" in SERIES_7.source


def test_what_has_no_delay_is_refused():
    with pytest.raises(MXExportError, match="no delay is known for cell XYZ"):
        longest_path(netlist([cell("XYZ", {"O": 2}, {"I": 3})], {}))
    with pytest.raises(MXExportError, match="a combinational loop"):
        longest_path(netlist([lut6(2, 3, 3, 3, 3, 3, 3), lut6(3, 2, 2, 2, 2, 2, 2), register(4, 3)], {}))


def test_a_tree_of_threes_adds_once_between_registers():
    found = yosys.synthesize("mx_tree", rtl_sources(), {"Terms": 9, "Width": 12})
    assert found.path.luts == 2 and found.fmax_mhz > 600  # the majority of the bit below, the sum
    assert sta.ULTRASCALE_PLUS.net == 300
