"""Every network of the matrix in docs/fpga-toolflows.md through FINN+'s steps.

python -m tests.finn.matrix      writes the table (MXEXPORT_FINN names the Python that FINN+ is installed in)
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.running import execution
from mxexport.targets import finn
from tests.finn import networks

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "fpga-toolflows.md"
MARKERS = "<!-- finn-matrix -->", "<!-- /finn-matrix -->"
ROUNDING = 2e-6
"""Scales that are no powers of two round once in every step that moves them: relative to the largest output."""
STEPS = 11
MX = ("mxint4", "mxint8")


@dataclass(frozen=True)
class Case:
    """`weight`: a format, "int4 per channel", or how Brevitas scales; `clean`: through `mx.clean` first."""

    network: str
    weight: str
    clean: bool = False

    @property
    def exact(self) -> bool:
        """Whether all scales are powers of two, so that nothing rounds."""
        return "channel" not in self.weight and "float" not in self.weight

    def __str__(self) -> str:
        return f"{self.network}, {self.weight}, {'clean' if self.clean else 'exported'}"


CASES = [
    *(Case("MLP", w, c) for w in (*MX, "int4 per channel") for c in (False, True)),
    Case("MLP, groups 2**4 apart", "mxint4"),
    Case("MLP, groups 2**9 apart", "mxint8"),
    *(Case("CNN", w, c) for w in (*MX, "int4 per channel") for c in (False, True)),
    *(Case("CNN, quantizers twice", w) for w in MX),
    *(Case("depthwise", w) for w in (*MX, "int4 per channel")),
    *(Case(n, "mxint4") for n in ("shapes", "sequence", "residual MLP")),
    *(Case("residual", w, c) for w in (*MX, "int4 per channel") for c in (False, True)),
    *(Case(f"Brevitas {n}", f"4 bits, {s} scales", c)
      for n in ("MLP", "CNN") for s in ("fixed-point", "float") for c in (False, True)),
]  # fmt: skip
REFUSED = {
    "residual, pool in front of the quantizer": "pool: its output goes to add, conv2, expected one",
    "residual, pool behind the quantizer": "pool: its output goes to add, conv2, expected one",
}


@dataclass(frozen=True)
class Row:
    """A line of the table. `worst`: the largest difference after any step, in parts of the largest output."""

    case: Case
    reached: int
    differing: int
    values: int
    worst: float
    outside: list[str]
    weights: list[str]
    accumulators: list[str]
    error: str | None

    def __str__(self) -> str:
        c = self.case
        equal = "equal" if not self.differing else f"within {ROUNDING:g}" if self.worst <= ROUNDING else "DIFFERENT"
        cells = (c.network, c.weight, "clean" if c.clean else "exported", f"{self.reached} of {STEPS}", equal,
                 ", ".join(self.outside) or "none", " ".join(self.weights), " ".join(self.accumulators))  # fmt: skip
        return f"| {' | '.join(cells)} |"


HEAD = "\n".join(
    [
        "| network | weights | file | steps | values after each | outside partition | weights in FINN | accumulators |",
        "|---|---|---|---|---|---|---|---|",
    ]
)


def converted(case: Case, folder: Path) -> tuple[Path, Path, np.ndarray]:
    """The file that is converted, the one for FINN, and samples. Raises what the conversion raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brevitas' own, and what it does otherwise than OCP
        model, x = networks.made(case.network, case.weight)
        source = folder / "model.onnx"
        mx.export(model, (x[:1],), source)
        if case.clean:
            mx.clean(source, source := folder / "clean.onnx")
    mx.convert(source, folder / "finn.onnx", to="finn")
    return source, folder / "finn.onnx", x.numpy()


def run(case: Case) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target, x = converted(case, folder)
        model = graph.load(source)
        (feed,) = (value.name for value in execution.graph_inputs(model))
        outputs = [next(iter(execution.execute(model, {feed: sample[None]}).values())) for sample in x]
        np.savez(folder / "samples.npz", x=x, y=np.concatenate(outputs))
        found = finn.run_finn(os.environ["MXEXPORT_FINN"], target, folder, "--check", str(folder / "samples.npz"))
    last = list(found["steps"].values())
    units = found["units"].values()
    return Row(
        case, len(last), max(s["differing"] for s in last), last[0]["values"], max(s["largest"] for s in last),
        found["outside"], [u["weights"] for u in units if "accumulator" in u],
        [u["accumulator"] for u in units if "accumulator" in u], found.get("error"),
    )  # fmt: skip


def refusal(network: str, weight: str, folder: Path) -> UnsupportedError:
    try:
        converted(Case(network, weight), folder)
    except UnsupportedError as error:
        return error
    raise AssertionError(f"{network} was converted")


def main() -> None:
    torch.set_num_threads(1)
    rows = [run(case) for case in CASES]
    before, rest = DOCUMENT.read_text().split(MARKERS[0])
    text = "\n".join([HEAD, *map(str, rows)])
    DOCUMENT.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}")
    print(text)


if __name__ == "__main__":
    main()
