"""Checkpoints of other tools: codes as stored, activations and outputs as the tools' own, damage told in one line.

The files were made by the tools themselves (tests/data/make_*.py); `expected.npz` holds what the tools computed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mxexport as mx
from mxexport.frontends.stored import StoredEmbedding, StoredLinear
from tests.checkpoint_network import edge_inputs, network, token_ids
from tests.helpers import assert_equal_bits

FOLDER = Path(__file__).parent / "data" / "checkpoints"
MADE = sorted(path.name for path in FOLDER.iterdir())
WITH_INPUTS = [name for name in MADE if "up.quantized" in np.load(FOLDER / name / "expected.npz")]
each = pytest.mark.parametrize("name", MADE)


@pytest.fixture(scope="module")
def read():
    """Name -> the model with exact zeros, read once."""
    models = {}
    return lambda name: models.setdefault(name, mx.from_checkpoint(network(1), FOLDER / name, exact_zeros=True))


def stored_bytes(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer -> bytes of its elements and of its scales, as they stand in the file."""
    tensors, found = load_file(FOLDER / name / "model.safetensors"), {}
    for key, tensor in tensors.items():
        layer, _, part = key.rpartition(".")
        scale = tensors.get(f"{layer}.weight_scale")
        if scale is not None and part in ("weight", "weight_packed"):
            found[layer] = tuple(t.view(torch.uint8).numpy() for t in (tensor, scale))
    return found


@each
def test_outputs_are_the_tools_own(name, read):
    """Bits of quantizers are compared below; products may be summed in another order on another machine."""
    expected = np.load(FOLDER / name / "expected.npz")["output"]
    found = read(name)(token_ids()).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-4)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("name", WITH_INPUTS)
def test_activations_have_the_tools_bits(name, read):
    expected, quantizer = np.load(FOLDER / name / "expected.npz")["up.quantized"], read(name).up.input_quant
    assert_equal_bits(quantizer(edge_inputs()).numpy(), expected)
    plain = mx.from_checkpoint(network(1), FOLDER / name).up.input_quant
    np.testing.assert_array_equal(plain(edge_inputs()).numpy(), expected)  # -0 equals +0 here


@each
def test_files_hold_the_stored_bytes_and_run_to_the_tools_output(name, read, tmp_path):
    model, path = read(name), tmp_path / "model.onnx"
    mx.export(model, (token_ids(),), path, weights="packed")
    initializers = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    stored = stored_bytes(name)
    assert len(stored) == sum(isinstance(m, (StoredLinear, StoredEmbedding)) for m in model.modules()) >= 6
    for layer, (codes, scales) in stored.items():
        np.testing.assert_array_equal(initializers[f"{layer}.weight_codes"], codes)
        if "nvfp4" not in name:
            np.testing.assert_array_equal(initializers[f"{layer}.weight_scale_codes"], scales.reshape(len(codes), -1))
    expected = np.load(FOLDER / name / "expected.npz")["output"]
    found = next(iter(mx.run(path, token_ids().numpy()).values()))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["compressed-tensors-mxfp8", "compressed-tensors-nvfp4"])
def test_quantizers_keep_their_bits_through_the_file(name, read, tmp_path):
    """Of an input quantizer alone: onnxruntime, and the numpy reference of every operator."""

    class Alone(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.quantizer = layer, layer.input_quant

        def forward(self, x):
            return self.quantizer(x)

    path, expected = tmp_path / "model.onnx", np.load(FOLDER / name / "expected.npz")["up.quantized"]
    mx.export(Alone(read(name).up), (edge_inputs(),), path)
    assert_equal_bits(next(iter(mx.run(path, edge_inputs().numpy()).values())), expected)
