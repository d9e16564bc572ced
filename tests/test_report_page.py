"""The pages for people: what is measured is right, what is found is named, nothing in a name becomes markup."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import InputFileError, OptionError, ShapeError
from mxexport.model import graph
from mxexport.numbers import quantized
from mxexport.reporting.charts import Box, Flow, flow_svg
from mxexport.reporting.histograms import weight_histograms
from mxexport.reporting.model_page import model_page
from mxexport.reporting.page import Page, Table, shown
from mxexport.reporting.products import products
from tests.helpers import FULL

X = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)


class Net(nn.Module):
    """A product of every kind, one of them left in float."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc, self.head = nn.Linear(256, 40), nn.Linear(40, 5)

    def forward(self, x):
        return self.head(torch.relu(self.fc(self.up(self.depthwise(torch.relu(self.conv(x)))).flatten(1))))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    model = mx.quantize_model(Net(), "mxfp6_e2m3", "mxfp8_e4m3", exclude=["head"])
    mx.export(model, (torch.tensor(X[:1]),), directory / "m.onnx")
    mx.clean(directory / "m.onnx", directory / "c.onnx")
    mlp = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 4))
    mx.export(mx.quantize_model(mlp), (torch.zeros(1, 40),), directory / "mlp.onnx")
    mx.compile(directory / "mlp.onnx", directory / "design", calibration=X.reshape(24, -1)[:, :40])
    np.save(directory / "x.npy", X)
    np.save(directory / "flat.npy", X.reshape(24, -1)[:, :40])
    np.save(directory / "labels.npy", np.arange(24) % 4)
    return directory


def section(page: Page, title: str):
    return next(s for s in page.sections if s.title == title)


@pytest.mark.parametrize("name", ["m", "c"])
def test_multiply_accumulates_are_those_of_the_shapes(files, name):
    found = {p.name: p.macs for p in products(graph.load(files / f"{name}.onnx"))}
    assert found == {
        "conv": 8 * 4 * 4 * 3 * 9,
        "depthwise": 8 * 4 * 4 * 9,
        "up": 8 * 4 * 4 * 4 * 4,
        "fc": 256 * 40,
        "head": 200,
    }


def test_a_scalar_that_calls_itself_a_matrix_has_no_sums(files):
    model = graph.load(files / "c.onnx")
    for product in products(model):
        for value in product.node.inputs[:2]:
            value.shape = ir.Shape([])
    assert [p.macs for p in products(model)] == [None] * 5


def test_what_is_worth_knowing_is_named(files):
    page = model_page(graph.load(files / "m.onnx"), "m")
    told = {(f.where, f.what) for f in section(page, "Worth knowing").items}
    assert ("head", "Gemm multiplies a float weight and a float activation") in told
    assert any(where == "depthwise.weight_quant" and "is padding" in what for where, what in told)
    assert any(where == "fc" and "mxfp8_e4m3 products take many LUTs" in what for where, what in told)
    rows = {row[0]: row for row in section(page, "Layers").rows}
    assert rows["fc"][2:4] == ("mxfp6_e2m3", "mxfp8_e4m3") and rows["head"][2:4] == ("float", "float")
    assert rows["fc"][7] > 15  # SQNR


def test_scales_that_are_no_powers_of_two_and_clipped_weights_are_named(tmp_path):
    layer = nn.Linear(64, 4, bias=False)
    layer.weight.data[:] = 1.99  # int8 has 127/64 = 1.984 at most under the scale that floor gives
    mx.export(mx.quantize_model(layer, "mxint4", None), (torch.zeros(1, 64),), tmp_path / "a.onnx")
    mx.export(mx.quantize_model(layer, "int4_g32", None), (torch.zeros(1, 64),), tmp_path / "b.onnx")
    texts = [[f.what for f in section(model_page(graph.load(tmp_path / n), n), "Worth knowing").items] for n in
             ("a.onnx", "b.onnx")]  # fmt: skip
    assert any("100.00% of the elements lie beyond" in what for what in texts[0])
    assert "its scales are no powers of two" in texts[1] and "its scales are no powers of two" not in texts[0]


@pytest.mark.parametrize("name", ["m", "c"])
def test_histograms_count_every_element_once(files, name):
    model, float_weights = graph.load(files / f"{name}.onnx"), dict(Net().named_parameters())
    checked = 0
    for node in model.graph:
        if graph.is_quantized_constant(node):
            charts = weight_histograms(node)
            shape = graph.quantized_shape(node)
            assert sum(charts["elements"].counts) == np.prod(shape.numpy())
            assert sum(charts["scales"].counts) == np.prod(node.inputs[1].shape)
            checked += 1
    assert checked == 4 and len(float_weights) == 10


@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "mxfp4_e2m1", "mxint4", "int8_g32", "nvfp4"])
def test_histograms_are_those_of_the_codes(tmp_path, fmt):
    torch.manual_seed(1)
    layer = nn.Linear(96, 16, bias=False)
    mx.export(mx.quantize_model(layer, fmt, None), (torch.zeros(1, 96),), tmp_path / "m.onnx")
    (node,) = [n for n in graph.load(tmp_path / "m.onnx").graph if graph.is_quantized_constant(n)]
    bars = weight_histograms(node)["elements"]
    codes = quantized.quantize(layer.weight.detach().numpy(), fmt, 1).codes
    if fmt in ("mxfp4_e2m1", "nvfp4"):
        magnitudes = {f"{v:g}": i for i, v in enumerate((0, 0.5, 1, 1.5, 2, 3, 4, 6))}
        for label, count in zip(bars.labels, bars.counts, strict=True):
            code = magnitudes[label.lstrip("-")]
            wanted = code | 8 if label.startswith("-") else code
            assert count == (codes == wanted).sum() + (code == 0) * (codes == 8).sum()
    elif fmt == "mxint4":
        wanted = [int((codes.view(np.int8) == int(label)).sum()) for label in bars.labels]
        assert list(bars.counts) == wanted
    assert sum(bars.counts) == 96 * 16


@pytest.mark.parametrize("fmt", ["mxint8", "mxfp8_e5m2", "mxint4"])
def test_scale_codes_are_those_that_are_stored(tmp_path, fmt):
    torch.manual_seed(2)
    layer = nn.Linear(64, 16, bias=False)
    mx.export(mx.quantize_model(layer, fmt, None), (torch.zeros(1, 64),), tmp_path / "m.onnx")
    (node,) = [n for n in graph.load(tmp_path / "m.onnx").graph if graph.is_quantized_constant(n)]
    bars = weight_histograms(node)["scales"]
    codes = quantized.quantize(layer.weight.detach().numpy(), fmt, 1).scale_codes
    told = {
        int(label.rpartition(" ")[2]): count for label, count in zip(bars.labels, bars.counts, strict=True) if count
    }
    assert told == {int(code): int((codes == code).sum()) for code in np.unique(codes)}


def test_names_are_text_and_no_markup(tmp_path):
    name = "<script>alert(1)</script>\"'&"
    mx.export(mx.quantize_model(nn.Linear(32, 4)), (torch.zeros(1, 32),), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    for node in proto.graph.node:
        node.name = name + node.name
    onnx.save(proto, tmp_path / "m.onnx")
    text = model_page(graph.load(tmp_path / "m.onnx"), name).to_html()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r'(src|href)="(?!#)', text) and "@import" not in text and "url(http" not in text


def test_lines_that_pass_boxes_by_have_lanes_of_their_own():
    boxes = [Box(("a",), ()), Box(("b",), (0,)), Box(("c",), (1, 0)), Box(("d",), (2, 1, 0))]
    text = flow_svg(Flow(tuple(boxes), {(0, 3): "FIFO 16"}))
    assert text.count('class="wire"') == 6 and "FIFO 16" in text
    assert len(set(re.findall(r"H([\d.]+)V", text))) == 2  # lines from a share one, that from b has another


def test_cells_are_shown_as_readers_want_them():
    assert [shown(c) for c in (None, 1234567, 0.123456, 12345.6, "a", True)] == [
        "–", "1,234,567", "0.1235", "12,346", "a", "yes"]  # fmt: skip
    assert Table("t", ("a", "b", "c"), [(1, None, "x"), (None, None, "y")]).numeric() == [True, False, False]


def test_a_compiled_design_has_its_page_and_a_report_that_is_complete(files):
    report = json.loads((files / "design" / "report.json").read_text())
    assert report["version"] == mx.__version__ and len(report["model"]["sha256"]) == 64
    assert report["latency_us"] > 0 and report["calibration"]["margin"] == 1
    assert report["inputs"]["input"]["bus_bits"] % 8 == 0
    cells = {cell["name"]: cell for cell in report["cells"]}
    assert {source for cell in cells.values() for source in cell["sources"]} <= set(cells)
    total = sum(cell["estimate"]["dsp"] for cell in cells.values())
    assert total == report["estimate"]["dsp"]
    text = (files / "design" / "report.html").read_text()
    for words in (
        "The pipeline",
        "mx_matmul",
        "Interfaces",
        "frames a second",
        report["model"]["sha256"],
        "margin of 1",
    ):
        assert words in text
    assert all((files / "design" / p).exists() for p in mx.open_design(files / "design").files().values())


def test_finns_names_hold_what_they_mean_there(tmp_path):
    """The MLP of the table, and a depthwise layer, which has one weight for every tap and channel."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Flatten(), nn.Linear(8 * 16, 4))
    mx.export(mx.quantize_model(net), (torch.zeros(1, 8, 4, 4),), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((8, 8, 4, 4)).astype(np.float32)
    design, folder = mx.compile(tmp_path / "m.onnx", tmp_path / "d", calibration=x), tmp_path / "d"

    def read(name):
        return json.loads((folder / name).read_text())

    counts = read("report/op_and_param_counts.json")
    assert counts["0"] == {"op_mac_mxint8_x_mxint8": 8 * 9 * 16, "param_weight_mxint8": 8 * 9}
    assert counts["2"] == {"op_mac_mxint8_x_mxint8": 128 * 4, "param_weight_mxint8": 128 * 4}
    assert counts["total"]["op_mac_mxint8_x_mxint8"] == 8 * 9 * 16 + 128 * 4
    performance, cycles = read("report/estimate_network_performance.json"), read("report/estimate_layer_cycles.json")
    assert performance["max_cycles"] == max(cycles.values()) == cycles[performance["max_cycles_node_name"]]
    resources = read("report/estimate_layer_resources.json")
    assert resources["total"]["LUT"] == design.report["estimate"]["lut"]
    assert resources["total"]["BRAM_18K"] == 2 * design.report["estimate"]["bram36"]
    assert list(read("time_per_step.json"))[:2] == ["reading the model", "calibrating"]


def test_the_page_on_the_command_line(files, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)))

    data = ("--inputs", files / "flat.npy", "--labels", files / "labels.npy", *(["--synth"] if FULL else []))
    done = call("report", files / "mlp.onnx", files / "design", *data, "--html", tmp_path / "d.html", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["stages"]
    assert [row["same_predictions_percent"] for row in told] == [100, 100] and told[1]["sqnr_db"] > 40
    text = (tmp_path / "d.html").read_text()
    assert "Stages" in text and "accuracy %" in text
    if FULL:
        assert "Synthesis" in text and "longest path" in text
        kept = json.loads(call("report", files / "design", "--json").stdout)["synthesis"]  # until the next compile
        assert kept["l0_matmul"]["dsp"] > 0 and " ns" in kept["l0_matmul"]["longest_path"]
        assert "Synthesis" in (files / "design" / "report.html").read_text()
    done = call("report", files / "m.onnx", "--html", tmp_path / "m.html")
    assert done.exit_code == 0 and "depthwise" in done.stdout and "page:" in done.stdout
    assert call("report", files / "m.onnx", "--html", tmp_path / "m.html").exception.args[0].endswith("write over it")
    assert json.loads(call("report", files / "c.onnx", "--json").stdout)["sections"][0]["pairs"]["products"] == 5
    done = call("clean", files / "m.onnx", tmp_path / "c.onnx", "--html", tmp_path / "c.html", "--verify")
    assert done.exit_code == 0
    text = (tmp_path / "c.html").read_text()
    assert "Passes that changed something" in text and "extract_conv_bias" in text and "equal" in text


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (["mlp.onnx", "design"], OptionError, "give --inputs x.npy"),
        (["design", "--labels", "labels.npy"], OptionError, "give --inputs x.npy"),
        (["m.onnx", "mlp.onnx", "--inputs", "x.npy"], ShapeError, "input"),
        (["mlp.onnx", "--inputs", "flat.npy", "--labels", "flat.npy"], ShapeError, "labels: found float32"),
        (["absent.onnx"], InputFileError, "absent.onnx"),
        (["design", "--html", "absent/p.html"], InputFileError, "no such directory"),
    ],
)
def test_what_cannot_be_reported(files, monkeypatch, arguments, error, words):
    monkeypatch.chdir(files)
    done = CliRunner().invoke(app, ["report", *arguments])
    assert isinstance(done.exception, error) and words in str(done.exception)
