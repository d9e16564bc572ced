"""How long `mxexport.export` takes, as a multiple of torch's own export of the float model, and how small files get.

    python benchmarks/export.py [--networks transformer mobilenet ...] [--layers 12] [--repeat 3] [--json]

Both sides export the same network at the same opset with the batch left open, once before the clock starts; each round
times one after the other, and the ratio is that of the fastest rounds. Torch's table of operators, which torch reads
anew for every model and we once, is in the figures: how long it takes alone is printed. Sizes are those of whole files
with packed weights: graph, biases and norms count.
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
from depthwise_networks import MOBILENET_V2, InvertedResiduals
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

import mxexport as mx
from mxexport.exporting.exporter import DEFAULT_OPSET
from mxexport.numbers.formats import MX_FORMATS, get_format

RATIO, SIZE = 1.3, 1.04
FORMAT = "mxfp8_e4m3"


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


class Small(nn.Sequential):
    """[N, 3, 32, 32] -> [N, 10]: two convolutions with batch norm and a linear layer."""

    def __init__(self):
        super().__init__(*_stage(nn.Conv2d, 3, 16), nn.MaxPool2d(2), *_stage(nn.Conv2d, 16, 32), nn.MaxPool2d(2))
        self.extend([nn.Flatten(), nn.Linear(32 * 64, 10)])


class Signal(nn.Sequential):
    """[N, 4, 128] -> [N, 8]: five convolutions along time with batch norm."""

    def __init__(self):
        layers, widths = [], (4, 32, 64, 64, 64, 128)
        for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [*_stage(nn.Conv1d, inputs, outputs), *([nn.MaxPool1d(2)] if i in (1, 3) else [])]
        super().__init__(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 8))


def _stage(convolution: type[nn.Module], inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm1d if convolution is nn.Conv1d else nn.BatchNorm2d
    return convolution(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU()


def networks(layers: int) -> dict[str, tuple[nn.Module, torch.Tensor, bool]]:
    """Name -> (float network, example input, whether batch norms are folded into the quantized layers)."""
    mobilenet, image = InvertedResiduals(MOBILENET_V2, 10, 64), torch.randn(2, 3, 64, 64)
    return {
        "transformer": (Transformer(layers), torch.randint(0, 512, (2, 32)), False),
        "mobilenet": (mobilenet, image, False),
        "mobilenet-folded": (mobilenet, image, True),
        "small": (Small(), torch.randn(2, 3, 32, 32), False),
        "signal": (Signal(), torch.randn(2, 4, 128), False),
    }


def export_float(model: nn.Module, x: torch.Tensor, path: Path) -> None:
    shapes = ({0: "batch"},)
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False, dynamic_shapes=shapes, opset_version=DEFAULT_OPSET)


def seconds(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def measure(model: nn.Module, x: torch.Tensor, folds: bool, repeat: int) -> dict:
    model = model.eval()
    quantized = mx.quantize_model(model, FORMAT, FORMAT, fold_batch_norm=folds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        rounds = [
            (seconds(export_float, model, x, path), seconds(mx.export, quantized, (x,), path))
            for _ in range(repeat + 1)
        ]
    plain, ours = (min(column) for column in zip(*rounds[1:], strict=True))
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "float_s": plain, "mxexport_s": ours, "ratio": ours / plain}


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
    parser.add_argument("--networks", nargs="+", choices=list(networks(1)), default=list(networks(1)))
    parser.add_argument("--layers", type=int, default=12, help="of the transformer")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    chosen = {name: network for name, network in networks(options.layers).items() if name in options.networks}
    table = min(seconds(ONNXRegistry.from_torchlib, DEFAULT_OPSET) for _ in range(options.repeat + 1))
    exports = {}
    for name, network in chosen.items():
        exports[name] = found = measure(*network, options.repeat)
        if not options.json:
            ratio, alike = verdict(found["ratio"], RATIO), found["mxexport_s"] / (found["float_s"] - table)
            print(
                f"{name}, {found['parameters'] / 1e6:.1f}M parameters: torch.onnx.export of the float network "
                f"{found['float_s']:.2f} s, mxexport.export {found['mxexport_s']:.2f} s; ratio {ratio}, "
                f"{alike:.2f} without torch's table ({table:.2f} s)",
                flush=True,
            )
    sizes = packed_sizes(options.layers)
    if options.json:
        print(json.dumps({"table_s": table, "exports": exports, "bits_per_weight": sizes}, indent=2))
        return
    for name, (bits, ideal) in sizes.items():
        print(f"{name}: {bits:.3f} bits per weight, {verdict(bits / ideal, SIZE)} of {ideal}")


if __name__ == "__main__":
    main()
