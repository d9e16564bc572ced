"""Makes tests/data/checkpoints/llm-compressor-mxfp4: a model that llm-compressor 0.14 quantizes and saves by itself.

    pip install --no-deps llmcompressor==0.14.0.1 datasets accelerate pyarrow dill xxhash multiprocess pandas … \\
        (and what make_compressed_tensors needs)
    python -m tests.data.make_llm_compressor

config.json and model.safetensors are the tool's; expected.npz holds `output`, of the tool's fake-quantized model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, PreTrainedTokenizerFast

from tests.checkpoint_network import token_ids
from tests.data.transformers_network import Config, transformers_network

FOLDER = Path(__file__).parent / "checkpoints" / "llm-compressor-mxfp4"


def main() -> None:
    AutoConfig.register("network", Config)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    model = transformers_network()
    with tempfile.TemporaryDirectory() as source:  # it wants to know where the model came from
        model.config.save_pretrained(source)
        model.config._name_or_path = model.name_or_path = source
        recipe = QuantizationModifier(targets=["Linear"], scheme="MXFP4", ignore=["head"])
        oneshot(model=model, tokenizer=tokenizer, recipe=recipe)
        output = model(token_ids()).detach().numpy()
        model.save_pretrained(FOLDER, save_compressed=True)
    (FOLDER / "recipe.yaml").unlink(missing_ok=True)
    np.savez_compressed(FOLDER / "expected.npz", output=output)


if __name__ == "__main__":
    main()
