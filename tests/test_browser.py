"""Pages in a real browser: reports in both themes and Netron on what is exported; with MXEXPORT_SCREENSHOTS=1 the
pictures of the docs are made anew."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.cli.pages import export_page
from mxexport.reporting.viewing import labelled

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_KEEP_EVAL = """const own = window.eval; Object.defineProperty(window, "eval", {get: () => own, set: () => {}})"""
"""Netron takes `eval` away, which the driver needs to look at the page."""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small network with a residual connection: exported with its page, cleaned, compiled."""
    directory = tmp_path_factory.mktemp("browser")
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.head(torch.relu(x + self.conv(x)).mean((2, 3)))

    x = np.random.default_rng(0).random((32, 1, 8, 8), np.float32)
    model, became = mx.quantize_model(Net(), "mxfp4_e2m1", "mxint8", return_report=True)
    with contextlib.chdir(directory):  # names without a machine's own directories
        report = mx.export(model, (torch.tensor(x[:1]),), "model.onnx")
        Path("export.html").write_text(export_page(report, became).to_html())
        mx.clean("model.onnx", "clean.onnx")
        mx.compile("clean.onnx", "design", calibration=x)
    return directory


def picture(page, name: str, **how) -> None:
    """A screenshot; for the docs where that is asked for."""
    data = page.screenshot(**how)
    assert len(data) > 10_000  # more than an empty page
    if os.environ.get("MXEXPORT_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{name}.png").write_bytes(data)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "file, words",
    [
        ("export.html", ["Worth knowing", "stem.weight_quant: elements", "mxfp4_e2m1", "What became of every module"]),
        ("design/report.html", ["The pipeline", "FIFO", "conv", "frames a second", "Against the model", "Interfaces"]),
    ],
)
def test_a_page_shows_everything_in_both_themes_and_asks_for_nothing(files, browser, file, words, theme):
    context = browser.new_context(color_scheme=theme, viewport={"width": 1180, "height": 1000})
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((files / file).as_uri())
    text = page.locator("body").text_content()
    assert all(w in text for w in words), [w for w in words if w not in text]
    assert said == [] and asked == [(files / file).as_uri()]
    ground, ink = (page.evaluate(f"getComputedStyle(document.body).{p}") for p in ("backgroundColor", "color"))
    assert _light(ground) > 200 > 100 > _light(ink) if theme == "light" else _light(ground) < 60 < 150 < _light(ink)
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]  # wide tables scroll in their own frame
    picture(page, f"{file.partition('.')[0].replace('/', '-')}-{theme}", full_page=False)
    context.close()


def _light(color: str) -> float:
    numbers = [float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3


def test_a_page_prints(files, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto((files / "design" / "report.html").as_uri())
    assert page.pdf().startswith(b"%PDF")
    context.close()


@pytest.fixture
def netron(browser):
    """Opens a file in Netron; gives the page once the graph is drawn."""
    import netron as viewer

    address, context = ("localhost", _free_port()), browser.new_context(viewport={"width": 1000, "height": 1150})
    url = f"http://{address[0]}:{address[1]}"
    context.add_cookies([{"name": "consent", "value": "1", "url": url}])
    context.route(lambda where: not where.startswith(url), lambda route: route.abort())

    def show(path: Path):
        viewer.start(str(path), address=address, browse=False)
        page = context.new_page()
        page.add_init_script(_KEEP_EVAL)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#target g.node", state="attached", timeout=60_000)
        page.wait_for_timeout(500)
        return page

    yield show
    context.close()
    viewer.stop(address)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def test_netron_shows_formats_and_contracted_scales_without_a_click(files, netron, tmp_path):
    (tmp_path / "model.onnx").write_bytes(labelled(onnx.load(files / "model.onnx")).SerializeToString())
    page = netron(tmp_path / "model.onnx")
    text = page.locator("#target").text_content()
    assert "Quant mxfp4_e2m1" in text and "Quant mxint8" in text
    assert "scale〈16×1×3×3〉" in text  # [16, 16, 3, 3] in groups of 32 along the channels
    for name in ("stem.weight_quant", "conv", "head.input_scale"):
        assert name in text, text  # shown where the mouse rests
    assert page.errors == []
    picture(page, "netron-model")


def test_netron_opens_the_files_themselves(files, netron):
    """As they are: names on hover, formats in the description of a node, bodies behind its sign."""
    page = netron(files / "design" / "dataflow.onnx")
    text = page.locator("#target").text_content()
    for words in ("MXQuantize", "MXMatMul", "W_scale", "stem.window", "Show Function Definition"):
        assert words in text
    assert page.errors == []
    picture(page, "netron-dataflow")


def test_what_viewers_tell_of_a_file(files):
    """The texts behind a click: of the model, of every quantizer and unit, of every body, of inputs and outputs."""
    model, dataflow = onnx.load(files / "model.onnx"), onnx.load(files / "design" / "dataflow.onnx")
    assert "mxfp4_e2m1" in model.doc_string and "contracted" in model.doc_string
    assert "one unit" in dataflow.doc_string
    assert all("along axis" in n.doc_string for n in model.graph.node if n.op_type.endswith("Quant"))
    assert all(n.doc_string for n in dataflow.graph.node)
    assert all(f.doc_string for f in (*model.functions, *dataflow.functions) if f.domain == "mxexport.ops")
    for value in (*dataflow.graph.input, *dataflow.graph.output):
        assert "in units of 2**" in value.doc_string


def test_view_serves_a_file_and_refuses_what_is_none(files, tmp_path, monkeypatch):
    import urllib.request

    import netron as viewer
    from typer.testing import CliRunner

    from mxexport.cli import app

    port, seen, done = _free_port(), [], threading.Event()

    def wait():
        with urllib.request.urlopen(f"http://localhost:{port}/data/dataflow.onnx") as answer:
            seen.append(onnx.load_from_string(answer.read()))
        viewer.stop(("localhost", port))
        done.set()

    monkeypatch.setattr(viewer, "wait", wait)
    result = CliRunner().invoke(app, ["view", str(files / "design"), "--port", str(port)])
    assert result.exit_code == 0 and done.is_set() and f"http://localhost:{port}" in result.output
    assert any(n.op_type == "MXMatMul mxfp4_e2m1" for n in seen[0].graph.node)
    (tmp_path / "x.onnx").write_text("no model")
    assert "x.onnx" in str(CliRunner().invoke(app, ["view", str(tmp_path / "x.onnx")]).exception)
