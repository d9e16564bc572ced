"""Makes tests/data/checkpoints/modelopt-*: models quantized and stored by nvidia-modelopt 0.47 itself, on the CPU.

    pip install --no-deps nvidia-modelopt==0.47.0 omegaconf antlr4-python3-runtime==4.9.3 pulp nvidia-ml-py rich \\
        scipy tqdm ninja transformers … (see make_compressed_tensors)
    python -m tests.data.make_modelopt

The tool quantizes and stores on a CPU and computes on GPUs only, so `expected.npz` holds no output of its layers:
`X` is the weight of layer X behind the tool's own dequantization of what it stored.
"""

from __future__ import annotations

import copy
from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.torch.export import unified_export_hf
from modelopt.torch.quantization.qtensor import MXFP4QTensor, MXFP8QTensor, NVFP4QTensor
from safetensors.torch import load_file

from tests.checkpoint_network import token_ids
from tests.data.transformers_network import transformers_network

FOLDER = Path(__file__).parent / "checkpoints"
CONFIGS = {"mxfp8": mtq.MXFP8_DEFAULT_CFG, "mxfp4": mtq.MXFP4_DEFAULT_CFG, "nvfp4": mtq.NVFP4_DEFAULT_CFG}


@torch.no_grad()
def main() -> None:
    # Its export runs the model, to see which layers share an input; the kernels for that need a GPU.
    unified_export_hf.requantize_resmooth_fused_llm_layers = lambda model: None
    for name, config in CONFIGS.items():
        folder = FOLDER / f"modelopt-{name}"
        model = transformers_network()
        config = copy.deepcopy(config)
        model = mtq.quantize(model, config, (lambda calibrated: calibrated(token_ids())) if name == "nvfp4" else None)
        unified_export_hf.export_hf_checkpoint(model, dtype=torch.float32, export_dir=folder)
        np.savez_compressed(folder / "expected.npz", **dequantized(load_file(folder / "model.safetensors"), name))


def dequantized(tensors: dict, name: str) -> dict[str, np.ndarray]:
    found = {}
    for key, scale in tensors.items():
        layer, _, part = key.rpartition(".")
        if part != "weight_scale":
            continue
        weight = tensors[f"{layer}.weight"]
        shape = torch.Size((len(weight), weight.shape[1] * (1 if name == "mxfp8" else 2)))
        if name == "mxfp8":
            value = MXFP8QTensor(shape, torch.float32, weight).dequantize(torch.float32, scale=scale)
        elif name == "mxfp4":
            kept = MXFP4QTensor(shape, torch.float32, weight)
            value = kept.dequantize(torch.float32, scale=scale, block_sizes={-1: 32})
        else:
            kept = NVFP4QTensor(shape, torch.float32, weight)
            upper = tensors[f"{layer}.weight_scale_2"]
            value = kept.dequantize(torch.float32, scale=scale, double_scale=upper, block_sizes={-1: 16})
        found[layer] = value.numpy()
    return found


if __name__ == "__main__":
    main()
