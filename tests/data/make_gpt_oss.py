"""Makes tests/data/checkpoints/gpt-oss: experts as gpt-oss stores them, decoded by transformers 5.24.

    pip install --no-deps transformers==5.24.0 … (see make_compressed_tensors)
    python -m tests.data.make_gpt_oss

`expected.npz`: every parameter as transformers decodes it. Elements are drawn from all codes, scales from 110 to 130.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.checkpoint_network import WIDTH

FOLDER = Path(__file__).parent / "checkpoints" / "gpt-oss"


def main() -> None:
    generator, tensors, decoded = torch.Generator().manual_seed(0), {}, {}
    for name, rows in (("gate_up_proj", 2 * WIDTH), ("down_proj", WIDTH)):
        blocks = torch.randint(256, (2, rows, WIDTH // 32, 16), generator=generator).to(torch.uint8)
        scales = torch.randint(110, 131, (2, rows, WIDTH // 32), generator=generator).to(torch.uint8)
        tensors |= {f"experts.{name}_blocks": blocks, f"experts.{name}_scales": scales}
        tensors[f"experts.{name}_bias"] = torch.randn(2, rows, generator=generator)
        decoded[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FOLDER / "model.safetensors")
    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (FOLDER / "config.json").write_text(json.dumps({"quantization_config": config}, indent=2))
    np.savez_compressed(FOLDER / "expected.npz", **decoded)


if __name__ == "__main__":
    main()
