"""Fit the area model to Yosys, and say how far it is off; writes mxexport/fpga/areas/area_model.json and
docs/hardware.md.

    python -m benchmarks.estimates

What Yosys counts is tests/data/areas.json (python -m tests.areas): units of every kind, format and folding that the
tests have, and larger ones as networks have them. LUTs and flip-flops of each kind of part are found by non-negative
least squares of relative errors; DSP slices and memories are not fitted but known.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from benchmarks.common import write
from mxexport.fpga.areas import area
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.scheduling import copies
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.units import Product
from mxexport.fpga.units.fed_matmul import FedMatMul
from tests.areas import TABLE, cells, measured
from tests.test_hardware_units import CASES, FORMATS, depthwise, matmul

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "hardware.md"
FEW = 24
"""Cells that no relative error is seen in: a row of fewer counts as so many."""
PRIOR, ROUNDS = 0.03, 4
ALIKE = {"mx_product": "mx_matmul", "mx_matmul_fed": "mx_matmul"}
"""Module -> another one around the same datapath, whose rows say more of the kinds that both have."""


def parts_by_name() -> dict[str, tuple[str, area.Parts]]:
    """Name in the table -> its module and parts."""
    found = {}
    for name, (unit, folding) in measured().items():
        single, own = copies.one(unit, folding)
        found[name] = single.module, single.parts(own)
    return found | {name: (module, area.glue_parts(module, p)) for name, (module, p) in cells().items()}


def every_kind() -> dict[str, set[str]]:
    """Module -> the kinds of parts that any of its units may have: all formats with all others, at every folding."""
    found = defaultdict(set)
    units = [unit for unit, _ in CASES.values()]
    for a, w in itertools.product([*FORMATS, "int8", "uint8", "uint3"], FORMATS):
        codes = (134, 134) if a.startswith(("int", "uint")) else (100, 102)
        source = Blocks((3, 2, 40), a, 8, *codes)
        units += [FedMatMul.of(matmul(source, w, 5), 128, tile) for tile in (0, 1, 2)]
        units += [matmul(source, w, 5), depthwise(source, Window((2, 2)), w)]
        units.append(Product(source, Blocks((3, 2, 40), w, 8, 100, 102), 200, 62, -9))
    for unit in units:
        for folding in copies.foldings(unit):
            single, own = copies.one(unit, folding)
            found[single.module] |= set(single.parts(own))
    return found


def fit(rows: list[tuple[area.Parts, dict]], key: str) -> dict[str, float]:
    """Kind of part -> cells of one, for `key` of lut and ff; variants that share no kind are fitted apart."""
    variants: list[tuple[set[str], list]] = []
    for row in rows:
        alike = [v for v in variants if v[0] & set(row[0])]
        kinds = set(row[0]).union(*(v[0] for v in alike))
        variants = [v for v in variants if v not in alike] + [(kinds, [row, *(r for v in alike for r in v[1])])]
    return {kind: cells for kinds, found in variants if kinds for kind, cells in _fit(found, key).items()}


def _fit(rows: list[tuple[area.Parts, dict]], key: str) -> dict[str, float]:
    """By relative errors; a kind that the rows do not settle stays near 1."""
    kinds = list(dict.fromkeys(kind for parts, _ in rows for kind in parts))
    counted = np.array([max(row[key], FEW) for _, row in rows], float)
    wanted = np.array([row[key] for _, row in rows]) / counted
    shares = np.array([[getattr(parts[k], key) if k in parts else 0.0 for k in kinds] for parts, _ in rows])
    shares = shares / counted[:, None]
    prior = np.diag(PRIOR * np.sqrt((shares**2).sum(0)))
    weight = np.ones(len(rows))
    for _ in range(ROUNDS):
        matrix = np.vstack([shares * weight[:, None], prior])
        found, _ = nnls(matrix, np.concatenate([wanted * weight, prior.diagonal()]))
        off = np.abs(shares @ found - wanted)
        weight *= 1 + off / max(off.max(), 1e-9)  # towards the least largest error
        weight *= np.sqrt(len(rows)) / np.linalg.norm(weight)
    return {kind: round(float(c), 4) for kind, c in zip(kinds, found, strict=True)}


def main() -> None:
    kept, parts = json.loads(TABLE.read_text()), parts_by_name()
    rows = defaultdict(dict)
    for name, (module, made) in parts.items():
        if name not in kept:
            raise SystemExit(f"{TABLE} has no {name}; run python -m tests.areas")
        rows[module][name] = made, kept[name]
    model = {module: _fits([*found.values(), *_alike(rows, module)]) for module, found in sorted(rows.items())}
    for module, kinds in every_kind().items():
        for cells_of in model[module].values():
            for kind in sorted(kinds - set(cells_of)):
                like = kind.removeprefix("of_few_").removeprefix("tap_")
                cells_of[kind] = cells_of.get(like, 1.0)  # as it is counted
    area.MODEL.write_text(json.dumps(model, indent=1) + "\n")
    table = residuals(rows, model)
    print(table)
    write(table, DOCUMENT, ("<!-- hardware-estimates -->", "<!-- /hardware-estimates -->"))


def _alike(rows: Mapping[str, Mapping[str, tuple[area.Parts, dict]]], module: str) -> list[tuple[area.Parts, dict]]:
    """Rows of the module around the same datapath."""
    return [*rows[ALIKE[module]].values()] if module in ALIKE else []


def _fits(rows: Iterable[tuple[area.Parts, dict]]) -> dict[str, dict[str, float]]:
    rows = list(rows)
    return {key: fit(rows, key) for key in ("lut", "ff")}


def off(cells: Mapping[str, float], parts: area.Parts, row: dict, key: str) -> float:
    """How far an estimate is off, relative to what was counted (of few cells, to FEW); kinds never fitted take 1."""
    claimed = sum(cells.get(kind, 1.0) * getattr(part, key) for kind, part in parts.items())
    return abs(claimed - row[key]) / max(row[key], FEW)


def residuals(rows: Mapping[str, Mapping[str, tuple[area.Parts, dict]]], model: dict) -> str:
    """The table of the documentation: by module, how far estimates are off, and how far they would be if the unit, at
    all its foldings, had not been measured (the median)."""
    lines = ["| module | measured | LUT: median, worst | left out | FF: median, worst | left out |", "|---" * 6 + "|"]
    every: dict[str, list[float]] = defaultdict(list)

    def shown(errors: Mapping[str, list[float]], key: str) -> str:
        median, apart = (100 * statistics.median(errors[k]) for k in (key, f"{key} out"))
        return f"{median:.0f}%, {100 * max(errors[key]):.0f}% | {apart:.0f}%"

    for module, found in sorted(rows.items()):
        cases = {name.split(",")[0] for name in found}
        without = {
            case: _fits([*(r for n, r in found.items() if n.split(",")[0] != case), *_alike(rows, module)])
            for case in cases
        }
        errors = defaultdict(list)
        for name, (made, row) in found.items():
            for key in ("lut", "ff"):
                errors[key].append(off(model[module][key], made, row, key))
                errors[f"{key} out"].append(off(without[name.split(",")[0]][key], made, row, key))
        for key, numbers in errors.items():
            every[key] += numbers
        columns = [shown(errors, key) for key in ("lut", "ff")]
        lines.append(f"| `{module}` | {len(found)} | {' | '.join(columns)} |")
    columns = [shown(every, key) for key in ("lut", "ff")]
    return "\n".join([*lines, f"| all | {len(every['lut'])} | {' | '.join(columns)} |"])


if __name__ == "__main__":
    main()
