"""Transformers trained on real digits: as accurate in hardware as in torch, every word of the RTL as the dataflow graph
computes it."""

from __future__ import annotations

import pytest
import torch

import mxexport as mx
from mxexport.cli.demo_run import Digits, load_digits, logits, train
from mxexport.cli.digit_networks import Transformer
from tests.helpers import FULL

EPOCHS = 30 if FULL else 12
IMAGES = 1000 if FULL else 200
FORMATS = [("mxfp4_e2m1", "mxfp8_e4m3"), *([("mxint8", "mxint8")] if FULL else [])]


@pytest.fixture(scope="module")
def trained():
    """The float network, and the digits in its frames."""
    digits = [d.framed(Transformer.frame) for d in load_digits()]
    torch.manual_seed(0)
    model = Transformer()
    train(model, digits[0], EPOCHS, 2e-3)
    return model, *digits


@pytest.fixture(scope="module", params=FORMATS, ids=str)
def compiled(request, trained, tmp_path_factory):
    """(accuracies by stage, design, simulation, what the dataflow graph computes)."""
    model, train_set, test = trained
    folder = tmp_path_factory.mktemp("transformer")
    quantized = mx.quantize_model(model, *request.param)
    train(quantized, train_set, 1, 5e-4)
    mx.export(quantized, (torch.from_numpy(test.x[:2]),), folder / "model.onnx")
    mx.clean(folder / "model.onnx", folder / "clean.onnx")
    design = mx.compile(folder / "clean.onnx", folder / "fpga", calibration=train_set.x[:512])
    test = Digits(test.x[: max(IMAGES, 500)], test.y[: max(IMAGES, 500)])
    dataflow = design.run_dataflow(test.x)
    units = [i.name for i in design.network.instances]
    simulated = design.simulate(test.x[:IMAGES], probe=units if FULL else units[::7])
    stages = {"float": logits(model, test.x), "torch": logits(quantized, test.x), "dataflow": dataflow.values}
    stages["rtl"] = simulated.values
    right = {name: [int(p) for p in v.argmax(1) == test.y[: len(v)]] for name, v in stages.items()}
    return right, design, simulated, dataflow


def test_hardware_is_as_accurate_as_quantized_torch(compiled):
    right, *_ = compiled
    accuracy = {name: 100 * sum(found) / len(found) for name, found in right.items()}
    assert accuracy["float"] > 80 and accuracy["torch"] > accuracy["float"] - 3
    assert abs(accuracy["dataflow"] - accuracy["torch"]) <= 0.5
    same = right["torch"][:IMAGES]
    assert abs(sum(right["rtl"]) - sum(same)) <= 0.005 * IMAGES


def test_every_word_of_the_rtl_is_that_of_the_dataflow_graph(compiled):
    _, _, simulated, dataflow = compiled
    assert (simulated.raw == dataflow.raw[:IMAGES]).all()
    assert simulated.difference is None and simulated.probes


def test_it_takes_as_many_cycles_as_the_report_says(compiled):
    _, design, simulated, _ = compiled
    cycles = design.report["cycles_per_frame"]
    assert abs(simulated.cycles / IMAGES - cycles) <= 0.02 * cycles + design.report["latency_cycles"] / IMAGES
