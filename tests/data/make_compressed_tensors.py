"""Makes tests/data/checkpoints/compressed-tensors-*: models quantized and stored by compressed-tensors 0.20 itself.

    pip install --no-deps compressed-tensors==0.20.0 transformers huggingface_hub tokenizers httpx2 click loguru \\
        psutil pydantic pydantic-core annotated-types typing-inspection regex
    python -m tests.data.make_compressed_tensors

Each folder holds config.json and model.safetensors, as the tool writes them, and expected.npz: `output`, of the tool's
own fake-quantized model, and `up.quantized`: `edge_inputs()` behind the tool's quantizer of the input of layer `up`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from torch import nn

from tests.checkpoint_network import edge_inputs, network, token_ids

FOLDER = Path(__file__).parent / "checkpoints"
PRESETS = ("MXFP4", "MXFP4A16", "MXFP6A8", "MXFP8", "NVFP4", "NVFP4A16")


def quantized(preset: str) -> nn.Module:
    """The model with the tool's own forward and its calibrated scales, frozen."""
    model = network()
    groups = {"group_0": preset_name_to_scheme(preset, ["Linear"])}
    if preset == "MXFP8":
        groups["group_1"] = preset_name_to_scheme("MXFP8A16", ["re:.*embed"])
    config = QuantizationConfig(config_groups=groups, ignore=["head"], quantization_status="initialized")
    seen = inputs_of_layers(model)
    apply_quantization_config(model, config, show_progress=False)
    for name, layer in model.named_modules():
        if hasattr(layer, "quantization_scheme"):
            calibrate(layer, seen.get(name))
    return model


def inputs_of_layers(model: nn.Module) -> dict[str, torch.Tensor]:
    seen, hooks = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]})))
    model(token_ids())
    for hook in hooks:
        hook.remove()
    return seen


def calibrate(layer: nn.Module, seen: torch.Tensor | None) -> None:
    """Scales as the tool's min-max observers find them."""
    scheme, weight = layer.quantization_scheme, layer.weight
    group = weight.unflatten(1, (-1, scheme.weights.group_size))
    overall = None
    if hasattr(layer, "weight_global_scale"):
        overall = generate_gparam(weight.amin(), weight.amax())
        layer.weight_global_scale.copy_(overall)
    if hasattr(layer, "input_global_scale"):
        layer.input_global_scale.copy_(generate_gparam(seen.amin(), seen.amax()))
    scale, _ = calculate_qparams(group.amin(2), group.amax(2), scheme.weights, overall)
    layer.weight_scale.copy_(scale)
    layer.quantization_status = QuantizationStatus.FROZEN


def expected(model: nn.Module) -> dict[str, np.ndarray]:
    recorded = {"output": model(token_ids()).numpy()}
    if args := model.up.quantization_scheme.input_activations:
        recorded["up.quantized"] = forward_quantize(model.up, edge_inputs(), "input", args).numpy()
    return recorded


def main() -> None:
    for preset in PRESETS:
        folder = FOLDER / f"compressed-tensors-{preset.lower()}"
        folder.mkdir(parents=True, exist_ok=True)
        model = quantized(preset)
        np.savez_compressed(folder / "expected.npz", **expected(model))
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"architectures": ["Network"]}))
        compressor.update_config(str(folder))


if __name__ == "__main__":
    main()
