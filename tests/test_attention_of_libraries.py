"""Attention of transformers and timm, where installed; blocks of their shape are in tests/test_own_products.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mxexport as mx
from tests.helpers import assert_equal_up_to_turned_codes

TOKENS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
TEXT = {"input_ids": TOKENS}
PADDED = TEXT | {"attention_mask": (torch.arange(7) < torch.tensor([[7], [4]])).long()}
IMAGE = {"pixel_values": torch.linspace(-2, 2, 2 * 3 * 16 * 16).sin().reshape(2, 3, 16, 16)}
BERT = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
MODELS = {
    "bert": ("Bert", BERT | {"vocab_size": 50}, PADDED),
    "vit": ("ViT", BERT | {"image_size": 16, "patch_size": 8}, IMAGE),
    "distilbert": ("DistilBert", {"n_layers": 1, "dim": 32, "n_heads": 2, "hidden_dim": 48, "vocab_size": 50}, PADDED),
    "gpt2": ("GPT2", {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 50, "use_cache": False}, TEXT),
    "llama": ("Llama", BERT | {"vocab_size": 50, "num_key_value_heads": 1, "use_cache": False}, TEXT),
}
HELD = {"eager": ["product_1", "product_2"], "sdpa": ["attention_1"]}


@pytest.mark.parametrize("way", HELD)
@pytest.mark.parametrize("name", MODELS)
def test_products_of_transformers(name, way, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kind, sizes, inputs = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation=way)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    quantized = mx.quantize_model(model, "mxint8", "mxint8", attention=True)
    check(model, quantized, inputs, HELD[way])
    mx.export(quantized, (), tmp_path / "m.onnx", kwargs=inputs, dynamic_batch=False)
    found = mx.run(tmp_path / "m.onnx", {key: value.numpy() for key, value in inputs.items()})
    with torch.no_grad():
        expected = quantized(**inputs).last_hidden_state.numpy()
    assert_equal_up_to_turned_codes(found["last_hidden_state"], expected)


@pytest.mark.parametrize("way", HELD)
def test_products_of_timm(way, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    timm.layers.set_fused_attn(way == "sdpa")
    try:
        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
        model = timm.models.vision_transformer.VisionTransformer(**sizes).eval()
    finally:
        timm.layers.set_fused_attn(True)
    quantized = mx.quantize_model(model, "mxint8", "mxint8", attention=True)
    inputs = {"x": IMAGE["pixel_values"]}
    check(model, quantized, inputs, HELD[way])
    mx.export(quantized, (inputs["x"],), tmp_path / "m.onnx")
    (found,) = mx.run(tmp_path / "m.onnx", inputs["x"].numpy()).values()
    with torch.no_grad():
        assert_equal_up_to_turned_codes(found, quantized(**inputs).numpy())


def check(model: nn.Module, quantized: nn.Module, inputs: dict, held: list[str]) -> None:
    """The products of its one attention are quantized, nothing else is, and it loses little."""
    with torch.no_grad():
        exact, found = model(**inputs), quantized(**inputs)
    report = mx.conversion_report(quantized)
    products = [c.name for c in report.converted if c.kind in ("QuantMatMul", "QuantScaledDotProductAttention")]
    assert [name.rpartition(".")[2] for name in products] == held
    assert not report.products_in_float and not report.products_to_come
    exact, found = (getattr(y, "last_hidden_state", y) for y in (exact, found))
    assert 0 < (found - exact).std() < 0.05 * exact.std()
