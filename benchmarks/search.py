"""Formats by layer that `mx.search` finds for trained networks, against 8 bits everywhere.

    python benchmarks/search.py                 prints the tables and writes them into docs/search.md
    python benchmarks/search.py --json          prints plain data and writes nothing
    python benchmarks/search.py --workers 2     also the search for few bytes in one process and in so many, with times
    python benchmarks/search.py --scheduler tcp://host:8786

Digits of MNIST (5,000 real ones): 3,000 to train in float, 1,000 to search on, 1,000 that neither has seen, on which
both networks are then measured; one image is 0.1 points. The search is of the trained float network
(`recipe="robust"`); both networks are then trained on for two epochs of the same 3,000. "trained": every network of
the search is trained on so before it is measured (`finetune`). Bytes: of all weights, scales and biases as a packed
file has them. LUT: of the whole design, by `design.estimate()`, at 20,000 frames per second with products in LUTs. What
is trained and measured is kept in --kept: a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import add_cluster, cluster_of, write
from torch import nn

import mxexport as mx
from mxexport import cluster
from mxexport.cli.demo_run import Digits, load_digits, logits, train
from mxexport.cli.digit_networks import NETWORKS
from mxexport.searching import SearchResult
from mxexport.searching.problem import Problem, measure

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "search.md"
MARKERS = "<!-- search-table -->", "<!-- /search-table -->"
TIMES = "<!-- search-times -->", "<!-- /search-times -->"
WITHIN = 0.3
"""Points on the images that are searched on."""
EPOCHS = {"depthwise": (16, 1e-3), "transformer": (32, 2e-3)}


@dataclass(frozen=True)
class Goal:
    objective: str
    formats: tuple
    evaluations: int
    target: dict | None = None
    trained: bool = False
    """Whether every network is trained on before it is measured."""


GOALS = {
    "bytes": Goal("bytes", ("mxint8", *((f"mxint{n}", "mxint8") for n in (6, 5, 4, 3))), 80),
    "trained": Goal("bytes", ("mxint8", *((f"mxint{n}", "mxint8") for n in (5, 4, 3, 2))), 16, trained=True),
    "lut": Goal(
        "lut", ("mxint8", "mxint6", "mxint5", "mxint4"), 12, {"target_fps": 20_000, "resources": "lut"},
    ),
}  # fmt: skip

CASES = ("depthwise-bytes", "transformer-bytes", "depthwise-trained", "transformer-trained", "depthwise-lut")
"""What the table has. A design of the transformer takes a minute: `--only transformer-lut` searches that, too."""


@dataclass(frozen=True)
class Row:
    """Of a search: accuracies in percent on unseen images (after the search, and trained on), and the objective, for 8
    bits everywhere and as found."""

    network: str
    objective: str
    uniform_accuracy: tuple[float, float]
    accuracy: tuple[float, float]
    uniform: float
    found: float
    saved_percent: float
    layers: str
    seconds: float


@dataclass(frozen=True)
class Images:
    """As (inputs, labels): to train on, to search on, to measure on."""

    train: tuple
    search: tuple
    test: tuple

    @classmethod
    def of(cls, network: str) -> Images:
        given, test = (digits.framed(NETWORKS[network].frame) for digits in load_digits())
        return cls((given.x[:3000], given.y[:3000]), (given.x[3000:], given.y[3000:]), (test.x, test.y))


def trained(name: str, images: Images, kept: Path) -> nn.Module:
    """The float network; its parameters stay in `kept`."""
    torch.manual_seed(0)
    model, file = NETWORKS[name](), kept / f"{name}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    train(model, Digits(*images.train), *EPOCHS[name])
    kept.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return model


def train_on(model: nn.Module, images: tuple) -> None:
    """Two epochs, of the images that the float network was trained on."""
    train(model, Digits(*images), 2, 3e-4)


def searched(name: str, model: nn.Module, images: Images, goal: Goal, journal: Path | None, where) -> SearchResult:
    def tell(what: str) -> None:
        print(f"{name}, {goal.objective}: {what}", file=sys.stderr, flush=True)

    how = {"objective": goal.objective, "target": goal.target, "evaluations": goal.evaluations, "journal": journal}
    how["finetune"] = functools.partial(train_on, images=images.train) if goal.trained else None
    return mx.search(
        model, images.search, formats=goal.formats, within=WITHIN, recipe="robust", cluster=where, progress=tell, **how
    )


def accuracies(model: nn.Module, formats: dict, images: Images) -> tuple[float, float]:
    """On images that nobody saw: as the search has it, and trained on."""
    calibration = torch.as_tensor(images.search[0][:128])
    quantized = mx.quantize_model(model, formats=formats, recipe="robust", calibration=calibration).eval()
    before = _accuracy(quantized, images.test)
    train_on(quantized, images.train)
    return before, _accuracy(quantized, images.test)


def _accuracy(model: nn.Module, data: tuple) -> float:
    return round(100 * float((logits(model, data[0]).argmax(1) == data[1]).mean()), 1)


def seconds_of_one(model: nn.Module, images: Images, result: SearchResult, goal: Goal) -> float:
    """CPU time of measuring the network that was found; another load of the machine does not change it."""
    inputs, labels = map(torch.as_tensor, images.search)
    finetune = functools.partial(train_on, images=images.train) if goal.trained else None
    problem = Problem(model, inputs, (inputs, labels), "accuracy", {"recipe": "robust"}, goal.target, finetune)
    start = time.process_time()
    measure(problem, result.best.formats)
    return round(time.process_time() - start, 2)


def row(name: str, model: nn.Module, images: Images, result: SearchResult, goal: Goal) -> Row:
    uniform = dict.fromkeys(result.formats(), "mxint8")
    measured = (accuracies(model, formats, images) for formats in (uniform, result.formats()))
    costs = (result.reference.costs[result.objective], result.best.costs[result.objective])
    saved, seconds = round(result.saved_percent, 1), seconds_of_one(model, images, result, goal)
    objective = f"{result.objective}, trained" if goal.trained else result.objective
    return Row(name, objective, *measured, *costs, saved, result.best.in_short(), seconds)


def speedup(name: str, model: nn.Module, images: Images, workers: int) -> dict[str, float]:
    """Seconds of the same search in this process and in several that are up; it has to find the same."""
    found, seconds = {}, {}
    for count in (0, workers):
        with cluster.connected(count or None) as runner:
            runner.map(_warm, range(4 * max(count, 1)))
            start = time.perf_counter()
            found[count] = searched(name, model, images, GOALS["bytes"], None, runner)
            seconds[count] = time.perf_counter() - start
    same = [[(e.formats, e.metric) for e in result.evaluations] for result in found.values()]
    assert same[0] == same[1], "the results depend on where they were measured"
    return {
        "in process": seconds[0],
        f"{workers} processes": seconds[workers],
        "speedup": seconds[0] / seconds[workers],
    }


def _warm(_: int) -> None:
    """Import what is needed, before a clock runs."""
    import mxexport.searching.problem  # noqa: F401

    time.sleep(0.2)


def table(rows: list[Row]) -> str:
    lines = [
        "| network | searched for | 8 bits | searched | saved | 8 bits: accuracy, trained on | searched | layers |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for r in rows:
        before, after = (", ".join(f"{value:.1f}" for value in pair) for pair in (r.uniform_accuracy, r.accuracy))
        cells = (
            r.network,
            r.objective,
            f"{r.uniform:,.0f}",
            f"{r.found:,.0f}",
            f"{r.saved_percent:.0f}%",
            before,
            after,
        )
        lines.append(f"| {' | '.join((*cells, r.layers))} |")
    return "\n".join(lines)


def times(rows: list[Row]) -> str:
    """What so many workers would do with as many networks chosen at once, from what one network took."""
    lines = ["| network | searched for | one network | 1,000 networks on 1 | on 10 | on 1,000 workers |"]
    lines += ["|---|---|---|---|---|---|"]
    for r in rows:
        spans = " | ".join(_span(1000 * r.seconds / workers) for workers in (1, 10, 1000))
        lines.append(f"| {r.network} | {r.objective} | {r.seconds:.2g} s | {spans} |")
    return "\n".join(lines)


def _span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [f"{network}-{goal}" for network in EPOCHS for goal in GOALS]
    parser.add_argument("--only", nargs="+", choices=every, default=[*CASES], metavar="NETWORK-GOAL")
    add_cluster(parser)
    parser.add_argument("--kept", type=Path, default=Path("build/search"))
    parser.add_argument("--json", action="store_true", help="print plain data and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one gives the same sums everywhere
    rows, clocks = [], {}
    with cluster.connected(cluster_of(options)) as runner:
        for case in options.only:
            name, goal = case.split("-")
            images = Images.of(name)
            model = trained(name, images, options.kept)
            result = searched(name, model, images, GOALS[goal], options.kept / f"{case}.jsonl", runner)
            rows.append(row(name, model, images, result, GOALS[goal]))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            if options.workers and goal == "bytes":
                clocks[name] = speedup(name, model, images, options.workers)
    if options.json:
        print(json.dumps({"rows": [asdict(r) for r in rows], "seconds": clocks}, indent=2))
        return
    if options.only == [*CASES]:
        write(table(rows), DOCUMENT, MARKERS)
        write(times(rows), DOCUMENT, TIMES)
    print(f"{table(rows)}\n\n{times(rows)}")
    for name, seconds in clocks.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.2f}" for what, value in seconds.items()))


if __name__ == "__main__":
    main()
