"""Every kind of layer: converted with its state_dict names, trained, exported with bit-exact quantizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import graph, runtime, verification

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(40, 6, 3, padding=1), (2, 40, 9)),
    "conv2d depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (2, 8, 6, 6)),
    "conv2d grouped": (lambda: nn.Conv2d(8, 6, 3, groups=2), (2, 8, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(4, 5, 2), (2, 4, 4, 4, 4)),
    "conv transposed 1d": (lambda: nn.ConvTranspose1d(40, 5, 3, stride=2), (2, 40, 6)),
    "conv transposed 2d": (lambda: nn.ConvTranspose2d(6, 4, 3), (2, 6, 5, 5)),
    "linear on 3d input": (lambda: nn.Linear(40, 5), (2, 7, 40)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_with_quantized_weight_and_input(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    quantized = mx.quantize_model(layer, "mxfp6_e2m3", "mxfp8_e4m3")
    reference = make()
    reference.load_state_dict(layer.state_dict())
    with torch.no_grad():
        reference.weight.copy_(quantized.quant_weight().value)
    assert torch.equal(quantized(x), reference(quantized.input_quant(x)))
    assert list(quantized.state_dict()) == list(layer.state_dict())
    scale, weight = quantized.quant_weight().scale_, layer.weight
    axis = quantized.quant_weight().axis
    assert scale.shape[axis] == -(-weight.shape[axis] // 32) and scale.shape[axis + 1] == 1


@pytest.mark.parametrize("name", LAYERS)
def test_exported_layer_has_bit_exact_quantizers(name, tmp_path):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model, x = mx.quantize_model(nn.Sequential(make()), "mxint8", "mxfp4_e2m1").eval(), torch.randn(shape)
    mx.export(model, (x,), tmp_path / "m.onnx")
    for execute in (runtime.run, runtime.run_qonnx):
        differences = verification.count_quantizer_differences(graph.load(tmp_path / "m.onnx"), x.numpy(), execute)
        assert len(differences) >= 3 and not any(differences.values()), differences
    (y,) = runtime.run(tmp_path / "m.onnx", x.numpy()).values()
    # Float32 sums in another order.
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-4, atol=1e-4)


def test_attention_block_converts_trains_and_exports(tmp_path):
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.norm = nn.Embedding(50, 64), nn.LayerNorm(64)
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
            self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)

        def forward(self, ids):
            x = self.tokens(ids)
            y = self.norm(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.down(nn.functional.gelu(self.up(x)))

    model = Block()
    quantized = mx.quantize_model(model, "mxfp8_e4m3", "mxfp8_e4m3")
    assert list(quantized.state_dict()) == list(model.state_dict())
    ids = torch.randint(0, 50, (3, 7))
    quantized(ids).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantized.parameters())
    quantized.eval()
    mx.export(quantized, (ids,), tmp_path / "m.onnx")
    differences = verification.count_quantizer_differences(graph.load(tmp_path / "m.onnx"), ids.numpy())
    assert len(differences) >= 10 and not any(differences.values()), differences


def test_formats_can_differ_by_layer():
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4))
    quantized = mx.quantize_model(model, "mxint8", "mxint8", exclude=["2"])
    assert type(quantized[2]) is nn.Linear and quantized[0].weight_quant.format.name == "mxint8"
