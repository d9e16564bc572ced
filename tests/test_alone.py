"""Units of a design simulated alone on recorded words: equal to the dataflow graph, as fast as claimed; one that is not
is named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport.cli import app
from mxexport.errors import InputFileError, OptionError, VerificationError
from mxexport.fpga import open_design
from mxexport.fpga.checking import alone
from mxexport.fpga.scheduling import copies
from tests.helpers import FULL
from tests.test_compile_transformers import compiled
from tests.transformer_networks import NETWORKS

SOME = ["layer.self_attn.scores", "layer.self_attn.context.product", "layer.self_attn_12", "layer.norm1", "layer_3.add"]
"""Units of every kind that only transformers have, and the residual."""


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """(design of a transformer with a mask, inputs by name)."""
    make, inputs, formats = NETWORKS["padded"]
    torch.manual_seed(0)
    given = inputs()
    design, _ = compiled(make(), given, formats, tmp_path_factory.mktemp("alone"))
    return design, {name: x.numpy() for name, x in given.items()}


def some(x: dict[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    return {name: array[:frames] for name, array in x.items()}


def copied(design, folder):
    shutil.copytree(design.path, folder)
    return open_design(folder)


def test_units_of_a_transformer_do_what_the_dataflow_graph_says(padded):
    design, x = padded
    told: list[str] = []
    found = design.simulate_units(some(x, 3), units=[] if FULL else SOME, progress=told.append)
    meant = [i for i in design.network.instances if FULL or {i.name, i.layer} & set(SOME)]
    assert set(found) == {i.name for i in meant} and len(told) == len(meant)
    for instance in meant:
        run, expected = found[instance.name], copies.cycles(instance.unit, design.foldings[instance.name])
        values = instance.unit.result.length if len(instance.values) == 1 else None
        assert run.difference is None and run.frames == 3 and run.module == instance.unit.module
        assert run.claimed == expected and run.as_claimed, run
        assert values is None or run.words == 3 * values
    rows = alone.kinds(found)
    assert sum(row.instances for row in rows) == len(found) and not any(row.unequal for row in rows)
    assert sum(row.words for row in rows) == sum(run.words for run in found.values())


def test_stalls_change_no_word(padded):
    design, x = padded
    found = design.simulate_units(some(x, 2), units=SOME[:3], stall_in=0.3, stall_out=0.4, seed=5)
    assert all(run.difference is None and run.cycles is None and run.as_claimed for run in found.values())


def test_a_fault_in_a_memory_is_found_in_its_unit_alone(padded, tmp_path):
    design, x = padded
    faulty = copied(design, tmp_path / "faulty")
    (file,) = faulty.path.glob("mem/*norm1_norm_gain.mem")
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([f"{int(first, 16) ^ 64:0{len(first)}x}", *rest]) + "\n")
    found = faulty.simulate_units(some(x, 1), units=SOME[2:])
    assert [name for name, run in found.items() if run.difference] == ["layer.norm1.norm"]
    (row,) = (row for row in alone.kinds(found) if row.unequal)
    assert row.kind.startswith("WideNorm") and list(row.unequal) == ["layer.norm1.norm"]
    assert "RTL" in row.unequal["layer.norm1.norm"] and "dataflow" in row.unequal["layer.norm1.norm"]


@pytest.mark.parametrize(
    "right, wrong, words",
    [
        ("assign m_axis_tlast", "assign m_axis_tlast = 1'b0; wire unused_last", "TLASTs misplaced"),
        ("assign m_axis_tvalid", "assign m_axis_tvalid = 1'b0; wire unused_valid", "stands still"),
    ],
)
def test_a_fault_in_a_module_is_found(padded, tmp_path, right, wrong, words, monkeypatch):
    design, x = padded
    faulty = copied(design, tmp_path / "faulty")
    file = faulty.path / "rtl" / "mx_slice.sv"
    assert file.read_text().count(f"{right} ") == 1
    file.write_text(file.read_text().replace(f"{right} ", f"{wrong} "))
    monkeypatch.setattr(alone, "PATIENCE", 1000)
    found = faulty.simulate_units(some(x, 1), units=["gather.slice"])
    assert words in found["gather.slice"].difference


class Twins(nn.Module):
    """Two layers with the same weights in another order: the same accumulators, other memories, in pieces of RAM."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(96, 32), nn.Linear(96, 32)
        with torch.no_grad():
            self.other.weight.copy_(self.one.weight.flip(0))
            self.other.bias.copy_(self.one.bias.flip(0))

    def forward(self, x):
        return self.one(x) - self.other(x).relu()


def test_units_that_differ_in_memories_alone_share_a_simulator(tmp_path):
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 96)).astype(np.float32)
    mx.export(mx.quantize_model(Twins().eval(), "mxint8", "mxint8"), (torch.from_numpy(x[:2]),), tmp_path / "m.onnx")
    design = mx.compile(tmp_path / "m.onnx", tmp_path / "d", calibration=x, folding={"one": (1, 1), "other": (1, 1)})
    assert len(list(design.path.glob("mem/*weight.mem.0"))) == 2
    one, other = design.simulate_units(x, units=["one.matmul", "other.matmul"]).values()
    assert one.build == other.build and one.kind == other.kind and not one.difference and not other.difference
    (row,) = alone.kinds({"one": one, "other": other})
    assert (row.instances, row.builds, row.words) == (2, 1, 2 * 8 * 32)


def test_the_command_shows_units_and_fails_where_one_differs(tmp_path):
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x[:2])
    mx.export(mx.quantize_model(nn.Linear(32, 3), "mxint8", "mxint8"), (torch.from_numpy(x[:2]),), tmp_path / "m.onnx")
    design = mx.compile(tmp_path / "m.onnx", tmp_path / "d", calibration=x)
    command = ["simulate", str(design.path), str(tmp_path / "x.npy"), "--each-unit"]
    shown = CliRunner().invoke(app, [*command, "--json"])
    rows = json.loads(shown.stdout)
    assert [row["module"] for row in rows] == ["mx_quantize", "mx_matmul"] and rows[1]["words"] == 2 * 3
    (file,) = design.path.glob("mem/*_scale.mem")
    first, *rest = file.read_text().splitlines()
    file.write_text("\n".join([f"{int(first, 16) ^ 1:0{len(first)}x}", *rest]) + "\n")
    failed = CliRunner().invoke(app, command)
    assert isinstance(failed.exception, VerificationError) and "unit gemm.matmul: 'gemm.wide' at" in str(
        failed.exception
    )
    assert "MXMatMul [32] mxint8 x mxint8 to [3]" in failed.stdout


def test_a_design_may_be_silent_while_a_frame_is_on_its_way(padded, monkeypatch):
    design, x = padded
    monkeypatch.setattr("mxexport.fpga.design._SILENCE", 1)
    fresh = open_design(design.path)
    assert fresh._patience == 2 * design.report["latency_cycles"]


def test_copies_side_by_side_take_their_vectors(tmp_path):
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((8, 2, 4, 8), np.float32)
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    mx.export(mx.quantize_model(network.eval(), "mxint8", "mxint8"), (torch.from_numpy(x[:2]),), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    design = mx.compile(tmp_path / "c.onnx", tmp_path / "d", calibration=x, target_fps=2e7)
    several = [i for i in design.network.instances if copies.count(i.unit, design.foldings[i.name]) > 1]
    assert several
    found = design.simulate_units(x[:3], units=[i.name for i in several[:2]])
    assert all(run.difference is None and run.as_claimed for run in found.values())


def test_what_is_missing_or_unknown_is_said(padded, tmp_path):
    design, x = padded
    with pytest.raises(OptionError, match="no layer or unit called 'nobody'"):
        design.simulate_units(some(x, 1), units=["nobody"])
    with pytest.raises(OptionError, match="stall_in"):
        design.simulate_units(some(x, 1), stall_in=1.5)
    broken = copied(design, tmp_path / "broken")
    (file,) = broken.path.glob("mem/*norm1_norm_gain.mem")
    file.unlink()
    with pytest.raises(InputFileError, match="no .*norm1_norm_gain.mem; compile the design again"):
        broken.simulate_units(some(x, 1), units=["layer.norm1.norm"])
