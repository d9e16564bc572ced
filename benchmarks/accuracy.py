"""Accuracy of MNIST networks in the six MX formats: float, quantized after training (PTQ), trained on quantized (QAT).

    python benchmarks/accuracy.py            prints the table and writes it into docs/accuracy.md
    python benchmarks/accuracy.py --json     prints plain data and writes nothing
    python benchmarks/accuracy.py --workers 2, --scheduler tcp://host:8786: formats on several processes, a cluster

Weights and activations of every layer take the format, first and last layer included. Data, training and test split
are the demo's: 4,000 training and 1,000 test images, so one image is 0.1 points; one fixed seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import add_cluster, cluster_of, write
from torch import nn

import mxexport as mx
from mxexport import cluster
from mxexport.cli.demo_run import Digits, load_digits, logits
from mxexport.cli.digit_networks import MLP
from mxexport.numbers.formats import MX_FORMATS
from mxexport.searching.problem import one_thread

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
MARKERS = "<!-- accuracy-table -->", "<!-- /accuracy-table -->"
FLOAT = "float32"


class DigitCNN(nn.Module):
    """Two convolutions with pooling, then 1568 - 56 - 10: 93,234 parameters. Takes [N, 784], like `MLP`."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(32 * 7 * 7, 56), nn.Linear(56, 10)

    def forward(self, x):
        x = x.unflatten(1, (1, 28, 28))
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(nn.functional.relu(conv(x)), 2)
        return self.fc2(nn.functional.relu(self.fc1(x.flatten(1))))


@dataclass(frozen=True)
class Recipe:
    """Epochs and rate of training in float, and of training on with quantization."""

    network: type[nn.Module]
    title: str
    epochs: int
    qat_epochs: int
    rate: float = 3e-3
    qat_rate: float = 3e-4


RECIPES = (
    Recipe(MLP, "MLP 784-128-64-10", epochs=60, qat_epochs=10),
    Recipe(DigitCNN, "CNN, 93k parameters", epochs=30, qat_epochs=4),
)


@dataclass(frozen=True)
class Row:
    """Accuracy in percent: after training under the rules `floor` and `rceil`, and trained on under `floor`.

    The float row's `qat` is the float network trained on for the same epochs.
    """

    network: str
    format: str
    ptq: float
    ptq_rceil: float
    qat: float


def train(model: nn.Module, data: Digits, epochs: int, rate: float) -> None:
    """Adam under a one-cycle rate, cross entropy, batches of 64, every image shifted by up to two pixels."""
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * -(-len(x) // 64))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(_shifted(x[batch], generator)), y[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def _shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    padded = nn.functional.pad(x.unflatten(1, (28, 28)), (2, 2, 2, 2))
    rows, columns = torch.randint(0, 5, (2, len(x), 1), generator=generator) + torch.arange(28)
    return padded[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]].flatten(1)


def accuracy(model: nn.Module, data: Digits) -> float:
    return round(100 * float((logits(model, data.x).argmax(1) == data.y).mean()), 2)


def measure(
    recipe: Recipe,
    train_set: Digits,
    test: Digits,
    formats: tuple[str, ...] = MX_FORMATS,
    runner: cluster.Runner | None = None,
) -> list[Row]:
    """The float row, then one row per format, all from one trained float network."""
    torch.manual_seed(0)
    model = recipe.network()
    train(model, train_set, recipe.epochs, recipe.rate)
    given = (recipe, model, train_set, test)
    return (runner or cluster.InProcess()).map(row_of, (FLOAT, *formats), shared=given)


def row_of(recipe: Recipe, model: nn.Module, train_set: Digits, test: Digits, name: str) -> Row:
    with one_thread():
        tuned = quantized(model, name, "floor")
        ptq = [accuracy(tuned, test), accuracy(quantized(model, name, "rceil"), test)]
        train(tuned, train_set, recipe.qat_epochs, recipe.qat_rate)
        return Row(recipe.title, name, *ptq, accuracy(tuned, test))


def quantized(model: nn.Module, name: str, scale_rule: str) -> nn.Module:
    """A copy of `model` with every layer in the format `name`; a plain copy for float."""
    if name == FLOAT:
        return copy.deepcopy(model)
    return mx.quantize_model(model, name, name, scale_rule=scale_rule).eval()


def table(rows: list[Row]) -> str:
    """Markdown; differences in points from the float network that was quantized."""
    lines = [
        "| network | format | bits per element | PTQ | to float | PTQ, rceil | to float | QAT | to float |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reference = {row.network: row.ptq for row in rows if row.format == FLOAT}
    for row in rows:
        base = reference[row.network]
        bits = "32" if row.format == FLOAT else f"{mx.get_format(row.format).bits_per_element:g}"
        figures = (cell for value in (row.ptq, row.ptq_rceil, row.qat) for cell in _cells(value, base))
        cells = (row.network, f"`{row.format}`", bits, *figures)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(value: float, base: float) -> tuple[str, str]:
    return f"{value:.1f}", f"{value - base:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print plain data and write nothing")
    add_cluster(parser)
    options, start = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)  # small layers: threads cost more than they give, and one gives the same sums everywhere
    with cluster.connected(cluster_of(options)) as runner:
        rows = [row for recipe in RECIPES for row in measure(recipe, *load_digits(), runner=runner)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    write(table(rows), DOCUMENT, MARKERS)
    print(table(rows))
    print(f"\n{time.perf_counter() - start:.0f} s; written to {DOCUMENT.relative_to(DOCUMENT.parents[1])}")


if __name__ == "__main__":
    main()
