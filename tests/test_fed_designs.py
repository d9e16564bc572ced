"""Designs whose weights come from outside: the same results as with weights in the bitstream, through every file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError
from mxexport.fpga import open_design
from tests import test_package as packages
from tests.helpers import in_full

X = np.random.default_rng(0).standard_normal((24, 1, 4, 6)).astype(np.float32)
MEMORY = {"conv": "stream:4", "first": "load", "second": "stream", "head": "load"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.first, self.second, self.head = nn.Linear(144, 20), nn.Linear(20, 12), nn.Linear(12, 5)

    def forward(self, x):
        y = torch.relu(self.conv(x)).flatten(1)
        return self.head(torch.relu(self.second(torch.relu(self.first(y)))))


def compiled(directory, name: str, turned: bool = False, **options):
    """`turned`: the last layer's weights and biases have the other sign."""
    torch.manual_seed(0)
    net = Net()
    if turned:
        net.head.weight.data.neg_()
        net.head.bias.data.neg_()
    quantized = mx.quantize_model(net, "mxfp4_e2m1", "mxint8")
    mx.export(quantized, (torch.tensor(X[:1]),), directory / f"{name}.onnx")
    return mx.compile(directory / f"{name}.onnx", directory / name, calibration=X, **options)


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("fed"), "net-1", memory=MEMORY, memory_bits=64)


def test_results_are_those_of_the_dataflow_graph_under_stalls(design):
    again = open_design(design.path)
    expected = design.run_dataflow(X[:5]).raw
    for stalls in ({}, {"stall_in": 0.4}, {"stall_in": 0.2, "stall_out": 0.6, "seed": 3}):
        np.testing.assert_array_equal(again.simulate(X[:5], **stalls).raw, expected)


def test_units_alone_take_their_weights_too(design):
    found = design.simulate_units(X[:2])
    fed = [run for run in found.values() if run.module == "mx_matmul_fed"]
    assert len(fed) == 4 and all(run.difference is None for run in found.values())


def test_the_report_says_where_weights_lie_and_what_travels(design):
    rows = {row["layer"]: row for row in design.report["memory"]["layers"]}
    assert {layer: row["kind"] for layer, row in rows.items()} == {k: v.split(":")[0] for k, v in MEMORY.items()}
    assert rows["conv"]["tile"] == 4 and rows["conv"]["loads_per_frame"] == 6
    assert rows["second"]["loads_per_frame"] == 1 and rows["first"]["loads_per_frame"] == 0
    for row in rows.values():
        assert row["bits"] <= row["bits_sent"] == 64 * row["beats"]
    sent = sum(row["beats"] for row in rows.values() if row["kind"] == "load")
    assert (design.path / "mem" / "weights.bin").stat().st_size == 8 * sent
    read = sum(row["beats"] * row["loads_per_frame"] for row in rows.values())
    assert design.report["cycles_per_frame"] >= read
    assert not list((design.path / "mem").glob("*_weight.mem"))


def test_other_weights_of_the_same_shape_can_be_sent(design, tmp_path):
    other = compiled(tmp_path, "net-1", turned=True, memory=MEMORY, memory_bits=64)
    tops = [(d.path / "rtl" / "mx_top.sv").read_text() for d in (design, other)]
    assert tops[0] == tops[1]
    root = tmp_path / "copy"
    shutil.copytree(design.path, root)
    for file in ("weights.bin", "weights_streamed.bin"):
        shutil.copy(other.path / "mem" / file, root / "mem" / file)
    found = open_design(root).simulate(X[:3]).raw
    np.testing.assert_array_equal(found, other.run_dataflow(X[:3]).raw)
    assert not np.array_equal(found, design.run_dataflow(X[:3]).raw)


@in_full
def test_the_package_brings_the_weights(design, tmp_path):
    packages.test_the_test_bench_passes_and_can_fail(design, tmp_path)


def test_the_package_is_whole(design):
    packages.test_the_wrapper_lints(design)
    packages.test_the_ip_is_valid_by_its_schema_and_names_what_there_is(design)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"memory": "ram"}, "memory is 'ram'; expected rom, load, stream"),
        ({"memory": {"head": "stream:x"}}, "memory of 'head' is 'stream:x'"),
        ({"memory": {"heads": "load"}}, "no matrix product called heads; those .* conv, first, second, head"),
        ({"memory": {"conv": "stream:5"}}, "stream:5; expected a divisor of the 24 vectors"),
        ({"memory": "load", "memory_bits": 96}, "memory_bits is 96; expected one of 32, 64"),
    ],
)
def test_a_place_that_cannot_be_is_refused(options, words, tmp_path):
    with pytest.raises(OptionError, match=words):
        compiled(tmp_path, "net", **options)
