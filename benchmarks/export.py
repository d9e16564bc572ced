"""How long `mxexport.export` takes, as a multiple of torch's own export of the float model, and how small files get.

    python benchmarks/export.py [--layers 12] [--repeat 3] [--json]

Both sides export the same transformer, once before the clock starts; each round times one after the other, and the
ratio is that of the fastest rounds. Sizes are those of whole files with packed weights: graph, biases and norms count.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import torch
from common import verdict
from torch import nn

import mxexport as mx
from mxexport.numbers.formats import MX_FORMATS, get_format

RATIO, SIZE = 1.5, 1.04


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.query, self.key, self.value))
        scores = q @ k.transpose(-2, -1) / (q.shape[-1] ** 0.5)
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """[N, L] tokens -> [N, L, vocabulary]."""

    def __init__(self, layers: int, width: int = 384, heads: int = 6, vocabulary: int = 512, length: int = 64):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def export_float(model: nn.Module, tokens: torch.Tensor, path: Path) -> None:
    torch.onnx.export(model, (tokens,), path, dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},))


def seconds(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def measure(layers: int, repeat: int) -> dict:
    tokens, model = torch.randint(0, 512, (2, 32)), Transformer(layers).eval()
    quantized = mx.quantize_model(model, "mxfp8_e4m3", "mxfp8_e4m3")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        small = Transformer(1, 32, 2).eval()
        export_float(small, tokens, path)
        mx.export(mx.quantize_model(small, "mxfp8_e4m3", "mxfp8_e4m3"), (tokens,), path)
        rounds = [
            (seconds(export_float, model, tokens, path), seconds(mx.export, quantized, (tokens,), path))
            for _ in range(repeat)
        ]
    plain, ours = (min(column) for column in zip(*rounds, strict=True))
    parameters = sum(p.numel() for p in model.parameters())
    return {"layers": layers, "parameters": parameters, "float_s": plain, "mxexport_s": ours, "ratio": ours / plain}


def packed_sizes(layers: int) -> dict[str, tuple[float, float]]:
    """Format -> (bits per quantized weight of the whole packed file, bits of an element and its share of a scale)."""
    tokens, sizes = torch.randint(0, 512, (2, 32)), {}
    for name in MX_FORMATS:
        model = mx.quantize_model(Transformer(layers).eval(), name, "mxfp8_e4m3")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            mx.export(model, (tokens,), path, weights="packed", external_data=False)
            weights = sum(
                m.weight.numel() for m in model.modules() if isinstance(m, (mx.QuantLinear, mx.QuantEmbedding))
            )
            fmt = get_format(name)
            sizes[name] = (8 * path.stat().st_size / weights, fmt.element.bits + 8 / fmt.group_size)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    result = measure(options.layers, options.repeat) | {"bits_per_weight": packed_sizes(options.layers)}
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['layers']} layers, {result['parameters'] / 1e6:.1f}M parameters")
    print(f"torch.onnx.export, float model: {result['float_s']:.2f} s")
    print(f"mxexport.export, quantized:     {result['mxexport_s']:.2f} s")
    print(f"ratio: {verdict(result['ratio'], RATIO)}")
    for name, (bits, ideal) in result["bits_per_weight"].items():
        print(f"{name}: {bits:.3f} bits per weight, {verdict(bits / ideal, SIZE)} of {ideal}")


if __name__ == "__main__":
    main()
