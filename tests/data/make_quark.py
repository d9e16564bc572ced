"""Makes tests/data/checkpoints/quark-*: models quantized and stored by amd-quark 0.13 itself, on the CPU.

    pip install --no-deps amd-quark==0.13 tqdm ninja plotly evaluate pandas transformers … (see make_compressed_tensors)
    QUARK_DISABLE_COMPILE=1 python -m tests.data.make_quark

Files as there: config.json and model.safetensors of the tool, expected.npz of the tool's own fake-quantized model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from quark.torch import ModelQuantizer, export_safetensors
from quark.torch.quantization.config.config import (
    OCP_MXFP4Spec,
    OCP_MXFP6E2M3Spec,
    OCP_MXFP6E3M2Spec,
    QConfig,
    QLayerConfig,
)

from tests.checkpoint_network import edge_inputs, token_ids
from tests.data.transformers_network import transformers_network

FOLDER = Path(__file__).parent / "checkpoints"
SPECS = {"mxfp4": OCP_MXFP4Spec, "mxfp6-e2m3": OCP_MXFP6E2M3Spec, "mxfp6-e3m2": OCP_MXFP6E3M2Spec}


@torch.no_grad()
def main() -> None:
    for name, spec in SPECS.items():
        folder = FOLDER / f"quark-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        weight = spec(ch_axis=-1, is_dynamic=False).to_quantization_spec()
        inputs = spec(ch_axis=-1, is_dynamic=True).to_quantization_spec()
        config = QConfig(global_quant_config=QLayerConfig(weight=weight, input_tensors=inputs), exclude=["head"])
        quantizer = ModelQuantizer(config)
        model = quantizer.quantize_model(transformers_network(), [token_ids()])
        model = quantizer.freeze(model)
        recorded = {"output": model(token_ids()).numpy()}
        recorded["up.quantized"] = model.up._input_quantizer(edge_inputs()).numpy()
        np.savez_compressed(folder / "expected.npz", **recorded)
        export_safetensors(model, folder)
        (folder / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
