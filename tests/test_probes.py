"""What a simulation shows of the inside: words of units, stalls at FIFOs, traces, and who waits in a standstill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError, VerificationError
from mxexport.fpga.writing import emit


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head((self.second(x) + x).mean((2, 3)))


def images(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 3, 8, 7)).astype(np.float32) / 256


def compiled(directory):
    torch.manual_seed(0)
    mx.export(
        mx.quantize_model(Residual().eval(), "mxint8", "mxfp8_e4m3"), (torch.zeros(2, 3, 8, 7),), directory / "m.onnx"
    )
    mx.clean(directory / "m.onnx", directory / "clean.onnx")
    # Slow designs are small, and so are their simulators.
    return mx.compile(directory / "clean.onnx", directory / "fpga", calibration=images(30), target_fps=20_000)


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("probes"))


def test_words_of_every_unit_equal_the_dataflow_graph(design):
    x = images(4, 1)
    every = [i.name for i in design.network.instances]
    result = design.simulate(x, probe=every, stall_out=0.3)
    assert list(result.probes) == every and result.difference is None
    for instance in design.network.instances:
        assert list(result.probes[instance.name]) == list(instance.values)
        assert all(len(array) == 4 for array in result.probes[instance.name].values())
    np.testing.assert_array_equal(result.raw, design.run_dataflow(x).raw)


def test_the_first_unit_that_differs_is_named(tmp_path):
    design = compiled(tmp_path)
    (file,) = design.path.glob("mem/*second*weight*.mem")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([f"{int(lines[0], 16) ^ 1:0{len(lines[0])}x}", *lines[1:]]) + "\n")
    unit, text = design.simulate(images(3, 2), probe=["first", "second", "head"]).difference
    assert unit == "second.matmul" and "RTL" in text and "dataflow" in text


def test_a_probe_that_names_nothing_is_refused(design):
    with pytest.raises(OptionError, match="no layer or unit called 'third'; layers: first, second"):
        design.simulate(images(1), probe="third")


def test_fifos_say_how_long_they_were_full(design):
    free, slow = (design.simulate(images(6, 3), stall_out=p) for p in (0.0, 0.9))
    assert set(free.stalls) == set(design.report["fifos"]) and free.stalls
    assert all(count == 0 for count in free.stalls.values()) and slow.cycles > free.cycles


def test_the_deepest_fifo_could_not_be_half_as_deep(design, tmp_path, monkeypatch):
    depths = emit.fifo_depths(design.network, design.foldings)
    deepest = max(depths, key=depths.get)

    def rate(built) -> int:
        return built.simulate(images(8, 3)).cycles - built.simulate(images(1, 3)).cycles

    monkeypatch.setattr(emit, "fifo_depths", lambda network, foldings: depths | {deepest: depths[deepest] // 2})
    try:
        slower = rate(compiled(tmp_path))
    except VerificationError as error:  # it stands still
        assert "mx_fifo of" in str(error)
    else:
        assert slower > 1.01 * rate(design)


def test_a_trace_is_written(design, tmp_path):
    result = design.simulate(images(1, 4), trace=tmp_path / "wave.vcd")
    text = (tmp_path / "wave.vcd").read_text()
    assert "$enddefinitions" in text and "mx_top" in text
    np.testing.assert_array_equal(result.raw, design.run_dataflow(images(1, 4)).raw)


def test_a_standstill_names_the_units_that_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(emit, "fifo_depths", lambda network, foldings: {})
    design = compiled(tmp_path)
    with pytest.raises(VerificationError, match="stands still") as caught:
        design.simulate(images(2))
    text = str(caught.value)
    assert "first_relu_fork (mx_fork) holds a beat that add_add (mx_add) does not take" in text
    assert "add_add (mx_add) waits for" in text and "second_matmul (mx_matmul)" in text and "head" not in text
