"""Several inputs and outputs, and what the borders of a design do with frames that are broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import ShapeError
from mxexport.fpga.tools.simulator import Feed


class TwoEnds(nn.Module):
    """Two images in, the sum's features and a vector out; the first output is read inside, too."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(2, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, left, right):
        image = torch.relu(self.left(left)) + self.right(right)
        return image, self.head(image.mean((2, 3)))


def drawn(frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"left": (frames, 3, 6, 5), "right": (frames, 2, 6, 5)}
    return {name: rng.integers(-128, 128, shape).astype(np.float32) / 128 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ends")
    torch.manual_seed(0)
    model = mx.quantize_model(TwoEnds().eval(), "mxint8", "mxint8")
    example = tuple(torch.from_numpy(a) for a in drawn(2).values())
    names = {"input_names": ["left", "right"], "output_names": ["image", "logits"]}
    mx.export(model, example, directory / "model.onnx", **names)
    mx.clean(directory / "model.onnx", directory / "clean.onnx")
    return mx.compile(directory / "clean.onnx", directory / "fpga", calibration=drawn(40))


@pytest.mark.parametrize("stalls", [{}, {"stall_in": 0.4, "stall_out": 0.3, "seed": 3}], ids=["free", "stalls"])
def test_several_inputs_and_outputs_equal_the_dataflow_graph(design, stalls):
    x = drawn(6, 1)
    expected, found = design.run_dataflow(x), design.simulate(x, **stalls)
    assert set(found.raw) == {"image", "logits"} == set(design.report["outputs"])
    assert found.raw["image"].shape == (6, 8, 6, 5)
    for name, array in expected.raw.items():
        np.testing.assert_array_equal(found.raw[name], array)


def test_inputs_come_in_order_or_by_name(design):
    x = drawn(3, 2)
    by_name = design.run_dataflow(x).raw["logits"]
    np.testing.assert_array_equal(design.run_dataflow(tuple(x.values())).raw["logits"], by_name)
    with pytest.raises(ShapeError, match="left given; the network takes left, right"):
        design.simulate({"left": x["left"]})
    with pytest.raises(ShapeError, match="3 of left, 2 of right; expected as many frames"):
        design.simulate({"left": x["left"], "right": x["right"][:2]})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    model = mx.quantize_model(nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 6)), "mxint8", "mxint8")
    mx.export(model, (torch.zeros(1, 40),), directory / "model.onnx")
    return mx.compile(directory / "model.onnx", directory / "fpga", calibration=vectors(60), folding={"0": (2, 8)})


def vectors(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (frames, 40)).astype(np.float32) / 128


def sent(design, x: np.ndarray) -> tuple[list[np.ndarray], int]:
    """(beats of every frame, beats of an output frame)."""
    from mxexport.fpga.checking.framing import to_fixed

    network, placed = design.network, design._placed
    source, lanes = network.source.at_border(), placed.lanes(network.inputs[0])
    beats, _ = source.pack(to_fixed(x, network.source), lanes)
    return np.split(beats, len(x)), network.result.beats(placed.lanes(network.outputs[0]))


def received(design, run, frames: int) -> np.ndarray:
    network, placed = design.network, design._placed
    raw = network.result.at_border().unpack(run.outputs[0].beats, placed.lanes(network.outputs[0]))
    assert raw.shape[0] == frames
    return raw


@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.4, 0.4)], ids=str)
def test_a_misplaced_last_costs_its_own_frame(classifier, stalls):
    """Frame 1 ends early, frame 3 goes on too long, frame 5 has no end at all before frame 6 begins."""
    x = vectors(9, 5)
    frames, out_beats = sent(classifier, x)
    ends = [np.arange(len(f)) == len(f) - 1 for f in frames]
    frames[1], ends[1] = frames[1][:2], ends[1][:2] | [False, True]
    frames[3], ends[3] = np.concatenate([frames[3], frames[3][:3]]), np.roll(np.append(ends[3], [False] * 3), 3)
    ends[5] = np.zeros_like(ends[5])  # so frame 6 is taken for its tail
    feed = Feed(np.concatenate(frames), np.concatenate(ends), stalls[0])
    good = [0, 2, 4, 7, 8]
    run = classifier._build().run_streams([feed], [len(good) * out_beats], stall_out=stalls[1], drain=2000)
    np.testing.assert_array_equal(received(classifier, run, len(good)), classifier.run_dataflow(x).raw[good])
    counters = {name: int.from_bytes(run.status[name], "little") for name in ("dropped_o", "misplaced_o", "error_o")}
    assert counters == {"dropped_o": 3, "misplaced_o": 3, "error_o": 1} and run.outputs[0].surplus == 0


def test_values_beyond_the_input_s_width_saturate_and_are_counted(classifier):
    x = vectors(4, 6)
    frames, out_beats = sent(classifier, x)
    kind, lanes = classifier.network.source, classifier._placed.lanes(classifier.network.inputs[0])
    top = 2 ** (kind.width - 1)
    given = kind.at_border().unpack(np.concatenate(frames), lanes).copy()
    given[1, 3], given[2, 0], given[3, 39] = top, -top - 1, 2 ** (kind.at_border().width - 1) - 1
    beats, last = kind.at_border().pack(given, lanes)
    run = classifier._build().run_streams([Feed(beats, last)], [4 * out_beats])
    from mxexport.running import executors

    (expected,) = executors.run(classifier.files()["dataflow"], np.clip(given, -top, top - 1)).values()
    np.testing.assert_array_equal(received(classifier, run, 4), expected)
    assert int.from_bytes(run.status["saturated_o"], "little") == 3


def test_a_reset_in_the_middle_of_a_frame_and_late_ready(classifier):
    x = vectors(5, 7)
    frames, out_beats = sent(classifier, x)
    feed = Feed(np.concatenate(frames), np.tile(np.arange(len(frames[0])) == len(frames[0]) - 1, 5), 0.2)
    for options in ({"reset_at": 3}, {"reset_at": 61}, {"ready_after_valid": True}):
        run = classifier._build().run_streams([feed], [5 * out_beats], **options)
        np.testing.assert_array_equal(received(classifier, run, 5), classifier.run_dataflow(x).raw)
        assert not any(run.status["error_o"])
