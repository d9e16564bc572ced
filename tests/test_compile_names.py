"""Layer names reach SystemVerilog as identifiers, files and comments, whatever letters they have."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.fpga import open_design
from mxexport.fpga.writing.identifiers import KEYWORDS, identifiers, one_line

NAMES = ("層", "层", "Module", "module", "x\nendmodule //")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Layers of torch modules with foreign letters; names that torch cannot trace are set in the file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("names") / "m.onnx"
    layers = OrderedDict((name if name.isalnum() else f"n{i}", nn.Linear(8, 8)) for i, name in enumerate(NAMES))
    mx.export(mx.quantize_model(nn.Sequential(layers), "mxint8_g8", "mxint8_g8").eval(), (torch.zeros(1, 8),), path)
    model = onnx.load(path)
    for node, name in zip((n for n in model.graph.node if n.op_type == "Gemm"), NAMES, strict=True):
        assert node.name == name or not name.isalnum()
        node.name = name
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def compiled(exported):
    x = np.random.default_rng(0).integers(-8, 9, (20, 8)).astype(np.float32)
    return mx.compile(exported, exported.parent / "fpga", calibration=x), x


def test_every_layer_has_memories_of_its_own(compiled):
    design, _ = compiled
    assert [layer["name"] for layer in design.report["layers"]] == list(NAMES)
    files = sorted(p.name for p in (design.path / "mem").iterdir())
    assert len({name.lower() for name in files}) == 3 * len(NAMES)
    assert all(name.isascii() for name in files)


def test_top_level_is_ascii_and_a_name_does_not_leave_its_comment(compiled):
    design, _ = compiled
    text = (design.path / "rtl" / "mx_top.sv").read_text()
    assert text.isascii() and text.count("endmodule\n") == 1


def test_simulation_equals_the_dataflow_graph_under_such_names(compiled):
    design, x = compiled
    simulated = open_design(design.path).simulate(x)
    np.testing.assert_array_equal(simulated.raw, design.run_dataflow(x).raw)
    assert list(simulated.clamped) == list(NAMES)


def test_layers_without_names_of_their_own_get_some(exported, tmp_path):
    model = onnx.load(exported)
    products = [node for node in model.graph.node if node.op_type == "Gemm"]
    for i, node in enumerate(products):
        node.name = "" if i % 2 else node.name
    onnx.save(model, tmp_path / "m.onnx")
    x = np.ones((4, 8), np.float32)
    design = mx.compile(tmp_path / "m.onnx", tmp_path / "fpga", calibration=x)
    names = [layer["name"] for layer in design.report["layers"]]
    assert names == ["層", "layer", "Module", "layer_1", "x\nendmodule //"]
    assert design.run_dataflow(x).raw.shape == (4, 8)


def test_identifiers_are_injective_ascii_and_no_keywords():
    names = [*KEYWORDS, *(k.upper() for k in KEYWORDS), *NAMES, "a.b", "a_b", "a b", "a__b", "a_b_1", "A.B", "", "é"]
    names += ["größe", "gröse", "1", "l1", 'quote"', "_", "fc" * 150, "fc" * 151, "x", "X"]
    found = identifiers(names)
    assert len({name.lower() for name in found}) == len(names)
    assert all(name.isascii() and name.isidentifier() and name[0] != "_" and "__" not in name for name in found)
    assert max(map(len, found)) < 110 and not KEYWORDS & {name.lower() for name in found}
    assert identifiers(["fc1", "layers.0.proj", "x"]) == ["fc1", "layers_0_proj", "x"]


def test_a_comment_is_one_line_of_ascii():
    assert one_line("größe\r\n`define x\u2028") == "gr\\xf6\\xdfe\\r\\n`define x\\u2028"
