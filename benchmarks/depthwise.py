"""Trained depthwise networks quantized after training: the formats alone, and `recipe="robust"`.

    make .venv/models/.ready
    PYTHONPATH=.venv/models python benchmarks/depthwise.py         prints the table, writes it into docs/accuracy.md
    PYTHONPATH=.venv/models python benchmarks/depthwise.py --json  prints plain data and writes nothing

256 crops of photographs (see `depthwise_networks`). Answers: how many top-1 answers are those of the float network;
SQNR: 10 log10(sum y**2 / sum (y - yq)**2) of the logits. Both columns have their batch norms folded.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from accuracy import DOCUMENT
from common import write
from depthwise_networks import crops, efficientnet_lite0, efficientnet_lite1, mobilenet_v2
from torch import Tensor, nn

import mxexport as mx

MARKERS = "<!-- depthwise-table -->", "<!-- /depthwise-table -->"
FORMATS = (
    ("mxint8", "mxint8"),
    ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("mxfp6_e2m3", "mxfp6_e2m3"),
    ("mxfp4_e2m1", "mxint8"),
    ("mxfp4_e2m1", "mxfp8_e4m3"),
)
ROADS = {"folded": {"fold_batch_norm": True}, "robust": {"recipe": "robust"}}


@dataclass(frozen=True)
class Network:
    title: str
    make: Callable[[], nn.Module]
    size: int
    scaled: Callable[[Tensor], Tensor]


NETWORKS = {
    "mobilenet-v2": Network("MobileNetV2, 19 breeds of dogs", mobilenet_v2, 160, lambda x: x / 127.5 - 1),
    "efficientnet-lite0": Network("EfficientNet-lite0, ImageNet", efficientnet_lite0, 224, lambda x: (x - 127) / 128),
    "efficientnet-lite1": Network("EfficientNet-lite1, ImageNet", efficientnet_lite1, 240, lambda x: (x - 127) / 128),
}


@dataclass(frozen=True)
class Row:
    """sqnr in dB and answers in percent, by road."""

    network: str
    weight: str
    activation: str
    sqnr: dict[str, float]
    answers: dict[str, float]


def measure(network: Network, count: int) -> list[Row]:
    model = network.make()
    x = network.scaled(crops(count, network.size))
    exact, rows = run(model, x), []
    for weight, activation in FORMATS:
        found = {road: run(mx.quantize_model(model, weight, activation, **how), x) for road, how in ROADS.items()}
        ratios = {road: round(sqnr(exact, y), 1) for road, y in found.items()}
        answers = {
            road: round(100 * float((y.argmax(1) == exact.argmax(1)).double().mean()), 1) for road, y in found.items()
        }
        rows.append(Row(network.title, weight, activation, ratios, answers))
        print(as_line(rows[-1]), file=sys.stderr, flush=True)
    return rows


@torch.inference_mode()
def run(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in x.split(32)])


def sqnr(exact: Tensor, found: Tensor) -> float:
    exact, found = exact.double(), found.double()
    return float(10 * torch.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def table(rows: list[Row]) -> str:
    head = '| network | weights/activations | folded | same answers | recipe="robust" | same answers |'
    return "\n".join([head, "|---|---|---|---|---|---|", *map(as_line, rows)])


def as_line(row: Row) -> str:
    figures = (cell for road in ROADS for cell in (f"{row.sqnr[road]:.1f} dB", f"{row.answers[road]:.0f}%"))
    return f"| {row.network} | `{row.weight}`/`{row.activation}` | {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--crops", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="print plain data and write nothing")
    options, start = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)  # one gives the same sums everywhere
    warnings.simplefilter("ignore")  # what depthwise layers cost is what the table says
    try:
        rows = [row for name in options.networks for row in measure(NETWORKS[name], options.crops)]
    except ModuleNotFoundError as error:
        sys.exit(f"package {error.name} is not installed (see --help)")
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    if options.networks == [*NETWORKS] and options.crops == 256:
        write(table(rows), DOCUMENT, MARKERS)
        print(f"written to {DOCUMENT.relative_to(DOCUMENT.parents[1])}", file=sys.stderr)
    print(f"{table(rows)}\n\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
