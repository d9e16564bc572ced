"""`convert DESIGN --to finn`: the folder that is written, the Verilog around a unit, graphs joined, and refusals.

tests/finn runs all of it through FINN+ (make test-finn).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import InputFileError, OptionError, UnsupportedError, VerificationError
from mxexport.fpga import parts
from mxexport.fpga.design import Design
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.simulator import Feed
from mxexport.running import executors
from mxexport.targets import finn_units, finn_wrapper
from mxexport.targets.finn_splice import splice


def eighths(*shape: int) -> torch.Tensor:
    return torch.randint(-16, 17, shape, generator=torch.Generator().manual_seed(0)) / 8


def compiled(model: nn.Module, x: torch.Tensor, out: Path) -> Design:
    file = out.with_suffix(".onnx")
    mx.export(mx.quantize_model(model, "mxint8", "mxint8").eval(), (x[:1],), file)
    return mx.compile(file, out, calibration=x.numpy())


@pytest.fixture(scope="module")
def design(tmp_path_factory) -> Design:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 6))
    return compiled(model, eighths(16, 70), tmp_path_factory.mktemp("design") / "net")


@pytest.fixture(scope="module")
def folder(design, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("units") / "units"
    report = mx.convert(design.path, out, to="finn")
    assert (
        report.path == str(out) and report.verified == "every integer behind every unit equals the design's, 4 frames"
    )
    assert ("input input", "integers of 7 bits, one is 2**-3; shape [1, 70]") in report.notes
    assert [name for name, _ in report.notes[2:]] == ["0", "2"]
    return out


def units_of(folder: Path) -> list[tuple[onnx.NodeProto, Path, dict]]:
    """Every node with the folder of its unit, and what stands there."""
    found = []
    for node in onnx.load(folder / "finn.onnx").graph.node:
        for name in (a.s.decode() for a in node.attribute if a.name == "unit"):
            path = folder / "units" / name
            found.append((node, path, json.loads((path / "unit.json").read_text())))
    return found


def test_the_graph_chains_the_units_with_integers_between_them(design, folder):
    g = onnx.load(folder / "finn.onnx").graph
    assert [(n.domain, n.op_type, n.name) for n in g.node] == [
        ("finn.custom_op.fpgadataflow", "MxLayer", "0"),
        ("finn.custom_op.fpgadataflow", "MxLayer", "2"),
        ("", "Mul", "2.wide.values"),
    ]
    types = {a.tensor_name: a.quant_parameter_tensor_names[0].value for a in g.quantization_annotation}
    streams = design.network.streams
    assert types == {
        "input": "INT7",
        "0.relu": f"UINT{streams['0.relu'].width - 1}",
        "2.wide": f"INT{streams['2.wide'].width}",
    }
    (scale,) = g.initializer
    assert numpy_helper.to_array(scale) == 2.0 ** streams["2.wide"].lsb_exp
    values = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*g.input, *g.value_info, *g.output)}
    assert values == {"input": [1, 70], "0.relu": [1, 40], "2.wide": [1, 6], "2.wide.values": [1, 6]}


def test_units_compute_what_the_design_computes_and_say_what_they_are(design, folder):
    x = np.random.default_rng(0).integers(-64, 64, (5, 70))
    expected = executors.run(design.path / "dataflow.onnx", {"input": x}, ["0.relu", "2.wide"])
    tops = set()
    for node, path, unit in units_of(folder):
        (x,) = executors.run(path / "dataflow.onnx", {node.input[0]: x}).values()
        assert np.array_equal(x, expected[node.output[0]])
        tops.add(unit["top"])
        text = (path / "rtl" / f"{unit['top']}.sv").read_text()
        assert f"module {unit['top']} (" in text and "mx_ingress" not in text
        assert {f'"{file}"' in text for file in unit["memories"]} == {True}
        assert {file.name for file in (path / "mem").iterdir()} >= set(unit["memories"])
        assert {file.name for file in (folder / "rtl").iterdir()} == set(unit["library"])
        layer = next(row for row in design.report["layers"] if row["name"] == unit["name"])
        assert (unit["pe"], unit["simd"]) == (layer["pe"], layer["simd"]) and unit["cycles"] >= layer["cycles"]
        assert unit["counts"] == {"op_mac_mxint8_x_mxint8": layer["macs"], "param_weight_mxint8": layer["weights"]}
        for end in (*unit["inputs"], *unit["outputs"]):
            assert end["shape"][-1] % end["lanes"] == 0 and end["beats"] * end["lanes"] == np.prod(end["shape"])
    assert len(tops) == 2
    luts = sum(unit["estimate"]["lut"] for *_, unit in units_of(folder))
    assert 0.8 < luts / design.estimate()["total"]["lut"] < 1.1


@pytest.mark.parametrize("lanes", [(70, 32), (14, 32), (32, 70), (2, 70), (16, 10)])
def test_lanes_meet_whatever_they_are(lanes):
    """Where one number is no multiple of the other, over a whole vector."""
    steps = parts.path(Wide((70 if 10 not in lanes else 10,), 5, 0), *lanes)
    assert (steps[0].lanes, steps[-1].wanted) == lanes and all(step.exists for step in steps)
    assert all(a.wanted == b.lanes for a, b in zip(steps, steps[1:], strict=False))


def test_a_second_conversion_replaces_the_first_and_nothing_else(design, tmp_path):
    out = tmp_path / "out"
    (out / "units" / "old").mkdir(parents=True)
    (out / "mine.txt").write_text("kept")
    first = mx.convert(design.path, out, to="finn", verify=False)
    assert first.verified == "not compared, as asked"
    mx.convert(design.path, out, to="finn", verify=eighths(3, 70).numpy())
    assert sorted(p.name for p in out.iterdir()) == ["finn.onnx", "mine.txt", "rtl", "units"]
    assert len(list((out / "units").iterdir())) == 2 and os.listdir(tmp_path) == ["out"]


def test_what_cannot_become_units_is_refused(design, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    shutil.copytree(design.path, tmp_path / "other")
    for source, out, error, said in [
        (design.path, tmp_path / "file", InputFileError, "is no directory; a design becomes a folder: name one"),
        (design.path, tmp_path / "other", InputFileError, "holds a compiled design; give another name"),
        (tmp_path / "empty", tmp_path / "new", InputFileError, "holds no compiled design"),
        (design.path, tmp_path / "file" / "below", InputFileError, "cannot write to"),
    ]:
        with pytest.raises(error, match=said):
            mx.convert(source, out, to="finn")
    with pytest.raises(OptionError, match="a compiled design takes no opset"):
        mx.convert(design.path, tmp_path / "new", to="finn", opset=17)
    assert not (tmp_path / "new").exists()


def test_the_command_line_writes_a_folder_and_not_over_it(design, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = [CliRunner().invoke(app, ["convert", str(design.path), "--to", "finn", "--no-verify", *more])
            for more in ([], [], ["-f"])]  # fmt: skip
    assert [type(d.exception) for d in done] == [type(None), InputFileError, type(None)]
    assert "is there already; give another name, or -f" in str(done[1].exception) and os.listdir() == ["net_finn"]
    assert "compared with the source: not compared, as asked" in done[0].output


def test_several_outputs_are_refused(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            return self.a(x), self.b(x)

    made = compiled(Two(), eighths(8, 8), tmp_path / "net")
    with pytest.raises(UnsupportedError, match="FINN's layers give one stream each, expected one output"):
        mx.convert(made.path, tmp_path / "out", to="finn")
    assert not (tmp_path / "out").exists()


def test_a_unit_of_other_integers_is_never_written(design, tmp_path, monkeypatch):
    run = executors.run

    def changed(model, *arguments):
        found = run(model, *arguments)
        return {name: a + 1 for name, a in found.items()} if "units" in str(model) else found

    monkeypatch.setattr(finn_units, "executors", SimpleNamespace(run=changed))
    with pytest.raises(VerificationError, match="unit '0' gives other integers than the design"):
        mx.convert(design.path, tmp_path / "out", to="finn")
    assert os.listdir(tmp_path) == []


# --- the Verilog around a unit -------------------------------------------------------------------------------------

FITTED = [  # (bits, no sign) of what a unit takes, (bits, sign) of what FINN feeds
    ((5, False), (8, True)), ((6, True), (8, True)), ((5, False), (7, False)), ((7, False), (4, False)),
    ((9, False), (5, True)),
]  # fmt: skip
WIRES = (("valid", "", True), ("ready", "", False), ("data", "[{}:0] ", True), ("last", "", True))


def ports(prefix: str, bits: int, given: str, taken: str) -> list[str]:
    return [f"{given if forward else taken} logic {size.format(bits - 1)}{prefix}_t{wire}"
            for wire, size, forward in WIRES]  # fmt: skip


def passing(name: str, widths: list[tuple[int, int]], body: list[str], more: tuple = ()) -> str:
    """A module with streams of so many bits in and out."""
    found = ["input logic aclk", "input logic aresetn", *more]
    for i, (taken, given) in enumerate(widths):
        found += ports(f"s_axis_{i}", taken, "input", "output") + ports(f"m_axis_{i}", given, "output", "input")
    return "\n".join([f"module {name} (", ",\n".join(f"  {port}" for port in found), ");", *body, "endmodule", ""])


def test_the_wrapper_fits_every_value_and_counts_beats(tmp_path):
    """Every value that FINN may feed, three in a beat, around a unit that gives what it takes; TLAST behind five
    beats."""
    ends = [{"name": "x", "lanes": 3, "beats": 5, "bits": b, "nonnegative": n} for (b, n), _ in FITTED]
    unit = {"name": "a\nb", "top": "mx_unit_pass", "inputs": ends, "outputs": ends, "status": ["error_o"]}
    fed, count = [f for _, f in FITTED], len(FITTED)
    widths = [[-(-3 * n // 8) * 8 for n in (f[0], finn_wrapper.out_bits(e))] for f, e in zip(fed, ends, strict=True)]
    wires = [f"  assign m_axis_{i}_t{w} = s_axis_{i}_t{w};" for i in range(count) for w in ("valid", "data", "last")]
    wires += [f"  assign s_axis_{i}_tready = m_axis_{i}_tready;" for i in range(count)]
    wires += ["  logic unused;", "  assign unused = ^{aclk, aresetn};", "  assign error_o = 1'b0;"]
    inner = passing("mx_unit_pass", [(3 * e["bits"],) * 2 for e in ends], wires, ("output logic error_o",))
    joined = [f".{a}{i}_V_t{w}({b}_axis_{i}_t{w})" for i in range(count) for a, b in (("in", "s"), ("out", "m"))
              for w in ("valid", "ready", "data")]  # fmt: skip
    body = [f"  wrapped u_wrapped (.ap_clk(aclk), .ap_rst_n(aresetn), {', '.join(joined)});"]
    body += [f"  assign m_axis_{i}_tlast = u_wrapped.in{i}_V_last;" for i in range(count)]
    (tmp_path / "wrapped.v").write_text(finn_wrapper.wrapper("wrapped", unit, fed))
    (tmp_path / "pass.sv").write_text(inner + passing("pass_adapter", widths, body))
    simulator = verilator.build("pass_adapter", [tmp_path / "wrapped.v", tmp_path / "pass.sv"])

    values = [np.arange(1 << bits) - (1 << (bits - 1)) * signed for bits, signed in fed]
    values = [np.resize(v, -(-len(v) // 15) * 15) for v in values]
    words = [finn_wrapper.packed(v, 3, bits) for v, (bits, _) in zip(values, fed, strict=True)]
    feeds = [Feed(np.array([list(word.to_bytes(width // 8, "little")) for word in w], np.uint8), None, 0.3)
             for w, (width, _) in zip(words, widths, strict=True)]  # fmt: skip
    ran = simulator.run_streams(feeds, [len(w) for w in words], stall_out=0.3, seed=1)
    for end, given, (bits, signed), w, out in zip(ends, values, fed, words, ran.outputs, strict=True):
        assert finn_wrapper.unpacked(w, 3, bits, signed) == given.tolist()
        came = [int.from_bytes(beat.tobytes(), "little") for beat in out.beats]
        found = finn_wrapper.unpacked(came, 3, finn_wrapper.out_bits(end), not end["nonnegative"])
        assert found == np.clip(given, *finn_wrapper.limits(end)).tolist()
        assert out.last.tolist() == [i % 5 == 4 for i in range(len(w))]


# --- graphs joined -------------------------------------------------------------------------------------------------


def plain(path: Path, shape: list[int], bits: int = 8, step: float = 0.125, opset: int = 20) -> Path:
    """A file as FINN takes it: one quantizer."""
    names = {"scale": np.float32(step), "zero": np.float32(0), "bits": np.float32(bits)}
    node = helper.make_node("Quant", ["x", *names], ["y"], domain="qonnx.custom_op.general", signed=1, narrow=1,
                            rounding_mode="ROUND")  # fmt: skip
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    made = helper.make_graph([node], "plain", ends[:1], ends[1:],
                             [numpy_helper.from_array(np.array(v), n) for n, v in names.items()])  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("qonnx.custom_op.general", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), path)
    return path


def test_stages_follow_each_other(folder, tmp_path):
    front, back = plain(tmp_path / "front.onnx", [1, 70]), plain(tmp_path / "back.onnx", [1, 6])
    g = onnx.load(splice([front, folder, back], tmp_path / "all.onnx")).graph
    assert [n.op_type for n in g.node] == ["Quant", "Mul", "MxLayer", "MxLayer", "Mul", "Quant"]
    made = {name for n in g.node for name in n.output} | {v.name for v in (*g.input, *g.initializer)}
    assert {name for n in g.node for name in n.input} <= made and len({n.name for n in g.node}) == len(g.node)
    factor = next(numpy_helper.to_array(t) for t in g.initializer if t.name == g.node[1].input[1])
    assert factor == 8 and g.output[0].name == g.node[-1].output[0]
    assert [len(v) for v in (g.input, g.output, g.quantization_annotation)] == [1, 1, 2]


def test_stages_that_do_not_fit_are_refused(folder, tmp_path):
    fits = plain(tmp_path / "fits.onnx", [1, 70])
    for stages, error, said in [
        ([fits], OptionError, "1 stages given, expected two at least"),
        ([plain(tmp_path / "a.onnx", [1, 69]), folder], UnsupportedError, r"gives \[1, 69\], .* takes \[1, 70\]"),
        ([plain(tmp_path / "b.onnx", [1, 70], step=0.25), folder], UnsupportedError, r"multiples of 2\*\*-2, .* takes"),
        ([plain(tmp_path / "c.onnx", [1, 70], step=0.3), folder], UnsupportedError, "end it with a quantizer"),
        ([fits, plain(tmp_path / "d.onnx", [1, 70], opset=17)], UnsupportedError, "different opsets"),
        ([fits, tmp_path / "none.onnx"], InputFileError, "none.onnx"),
    ]:
        with pytest.raises(error, match=said):
            splice(stages, tmp_path / "all.onnx")
    shutil.copytree(folder, tmp_path / "foreign")
    model = onnx.load(tmp_path / "foreign" / "finn.onnx")
    next(a for a in model.graph.node[0].attribute if a.name == "unit").s = b"../../units"
    onnx.save(model, tmp_path / "foreign" / "finn.onnx")
    with pytest.raises(InputFileError, match="names unit '../../units'; expected the name of a folder"):
        splice([fits, tmp_path / "foreign"], tmp_path / "all.onnx")
    assert not (tmp_path / "all.onnx").exists()
