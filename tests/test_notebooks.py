"""Objects that show themselves: short in a terminal, as a table in notebooks, names never as markup."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app

X = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    directory = tmp_path_factory.mktemp("notebooks")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))
    model, conversion = mx.quantize_model(net, "mxfp4_e2m1", "mxint8", exclude="2", return_report=True)
    export = mx.export(model, (torch.zeros(1, 32),), directory / "m.onnx")
    whole = mx.export(mx.quantize_model(net), (torch.zeros(1, 32),), directory / "w.onnx")
    clean = mx.clean(directory / "w.onnx", directory / "c.onnx")
    design = mx.compile(directory / "c.onnx", directory / "d", calibration=X)
    equal, other = (mx.verify(directory / "w.onnx", directory / n, X) for n in ("w.onnx", "m.onnx"))
    assert whole.layers and equal and not other
    return {
        "conversion": conversion, "export": export, "clean": clean, "design": design, "equal": equal, "other": other,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["conversion", "export", "clean", "design", "equal", "other"])
def test_reports_are_tables_in_notebooks(shown, name):
    text = shown[name]._repr_html_()
    assert text.startswith("<p>") and text.count("<table>") == 1 and text.endswith("</table>")
    rows = text.count("<tr>") - 1
    wanted = {"conversion": 2, "export": 2, "clean": len(shown["clean"].before.operators), "design": 2, "equal": 0}
    assert rows >= 1 if name == "other" else rows >= wanted[name]


def test_short_words_of_them(shown):
    assert repr(shown["conversion"]) == "<ConversionReport: 1 layers quantized, 1 left as they are>"
    assert repr(shown["clean"]).startswith("<CleanReport ") and "fold_weights" in repr(shown["clean"])
    assert repr(shown["design"]).startswith("<Design ")
    assert all(len(repr(shown[name])) < 400 for name in ("conversion", "clean", "design"))
    assert repr(mx.QuantSpec("mxint8")) == "QuantSpec('mxint8')"
    static = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
    assert repr(static) == "QuantSpec('int8', source='static', scaling_per_output='tensor')"
    assert eval(repr(static), {"QuantSpec": mx.QuantSpec}) == static


def test_names_are_text(shown):
    from mxexport.reporting.cells import html_table

    assert "<b>" not in html_table("<b>", ("<b>",), [("<b>", None)])


def test_a_key_has_one_type_wherever_it_stands(shown, tmp_path):
    """Shapes are lists in every command, paths are texts."""
    path = shown["export"].path
    np.save(tmp_path / "x.npy", X)
    told = [
        json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
        for arguments in (
            ["info", path],
            ["run", path, str(tmp_path / "x.npy"), "--out", str(tmp_path / "y.npy")],
            ["check", path],
            ["report", path],
            ["clean", path, str(tmp_path / "c.onnx")],
        )
    ]
    types: dict[str, set] = {}

    def look(thing):
        for key, value in thing.items() if isinstance(thing, dict) else ():
            if value is not None and key in ("shape", "scale_shape", "path", "name", "format"):
                types.setdefault(key, set()).add(type(value))
            look(value)
        for value in thing if isinstance(thing, list) else ():
            look(value)

    look(told)
    assert types["shape"] == types["scale_shape"] == {list} and types["path"] == {str}
    assert all(len(kinds) == 1 for kinds in types.values()), types
