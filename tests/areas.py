"""What every hardware unit takes by Yosys: measured here, kept in data/areas.json, held by test_areas.py, and what the
area model is fitted to (benchmarks/estimates.py).

python -m tests.areas           measures what the table does not have yet (an hour for all of it on two cores)
python -m tests.areas PATTERN   measures again what matches
    --workers 4                 by so many processes; otherwise by one for each core
    --scheduler tcp://host:8786 by workers of dask that find this checkout, with its cache on a disk they share
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
import tempfile
from pathlib import Path

import numpy as np

from mxexport import cluster
from mxexport.cluster.runner import Work
from mxexport.fpga import library
from mxexport.fpga.datapaths.accumulator import sized
from mxexport.fpga.datapaths.weights import Weight
from mxexport.fpga.datapaths.windows import Window
from mxexport.fpga.scheduling import copies
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.words import write_mem
from mxexport.fpga.tools import yosys
from mxexport.fpga.unit import Folding, Unit
from mxexport.fpga.units import Affine, AveragePool, MatMul, MaxPool, MXWindow, Product
from mxexport.fpga.units.fed_matmul import FedMatMul
from mxexport.numbers.formats import get_format
from tests.test_hardware_units import CASES, depthwise, finite_codes, folding_of, matmul, quantize, written

TABLE = Path(__file__).parent / "data" / "areas.json"
LESS_IS_BETTER = ("lut", "ff", "dsp", "bram36", "uram", "cycles", "latency")
_ALIKE = (  # of several formats, one says enough
    "window-mxfp",
    "window-int",
    "window-uint",
    "insert-mxfp",
    "product-row",
    "product-uint8",
    "product-int8",
    "quantize_tokens-mxfp6",
    "quantize_tokens-mxint4",
)
_LARGE = re.compile("(matmul|product)-.*-blocks|depthwise-.*-(four|3x3|stride|dilation)")
"""Hundreds of products at once: Yosys takes minutes and gigabytes, and smaller ones have the same parts."""
MIXED = (
    ("mxint8", "mxfp6_e3m2"),
    ("mxfp8_e4m3", "mxfp6_e2m3"),
    ("mxfp8_e5m2", "mxfp6_e2m3"),
    ("mxfp8_e5m2", "mxint8"),
    ("mxfp6_e2m3", "mxfp6_e3m2"),
    ("mxfp6_e3m2", "mxfp8_e5m2"),
)
_TOLD = ("int8", "e4m3", "e5m2")


@functools.cache
def measured() -> dict[str, tuple[Unit, Folding]]:
    """What the table has: units of the tests at every folding of theirs, and larger ones as networks have them."""
    named = {name: CASES[name] for name in gated()} | _larger() | _mixed() | _hundreds()
    found = {}
    for name, (unit, foldings) in named.items():
        for folding in map(folding_of, foldings):
            if folding.taps * folding.pixels * folding.simd <= 512:
                found[f"{name}, {folding}"] = unit, folding
    return found


def gated() -> list[str]:
    """Units of the tests that say something of their own."""
    short = [name for name in CASES if name.endswith("-short") and not any(f in name for f in _TOLD)]
    left_out = {*short, *(name for name in CASES if _LARGE.fullmatch(name))}
    return [name for name in CASES if name not in left_out and not name.startswith(_ALIKE)]


def _larger() -> dict[str, tuple[Unit, list]]:
    rng, found = np.random.default_rng(3), {}
    for name in ("mxint8", "mxfp4_e2m1", "mxfp6_e2m3", "mxfp8_e4m3"):
        for length, rows in ((256, 64), (784, 100)):
            foldings = [(8, 8), (4, 4), (2, 16), (8, 4, 1, 1, 1)] if rows == 64 else [(4, 8), (1, 16)]
            found[f"matmul-{name}-{length}x{rows}"] = (
                _matrix(rng, name, name, length, rows),
                [Folding(*f) for f in foldings if len(f) < 5 or name == "mxint8"],
            )
        found[f"quantize-{name}-28"] = quantize(Wide((128,), 28, -16), name, span=14), [1, 2, 4, 8]
        positive = Wide((128,), 24, -12, nonnegative=True)
        found[f"quantize-{name}-positive"] = quantize(positive, name, span=8), [2, 4]
    for name in ("mxint8", "mxfp8_e4m3"):
        image = Blocks((14, 14, 32), name, 32, 118, 125)
        found[f"window-{name}-14x14"] = MXWindow(image, Window((3, 3), pads=(1, 1, 1, 1))), [1, 4, 16]
        found[f"depthwise-{name}-14x14"] = depthwise(image, Window((3, 3), pads=(1, 1, 1, 1)), name), [1, 4]
    for a, b in (("mxint8", "mxint8"), ("mxfp8_e4m3", "mxfp8_e4m3"), ("mxfp4_e2m1", "mxfp4_e2m1")):
        sides = Blocks((64, 2, 64), a, 32, 118, 124), Blocks((64, 2, 64), b, 32, 118, 124)
        foldings = [(4, 8), (8, 16), (4, 8, 1, 1, 1)] if a == "mxint8" else [(4, 8)]
        found[f"product-{a}-64x64"] = Product.of("product", *sides), [Folding(*f) for f in foldings]
    for name, tile, foldings in (
        ("mxint8", 0, [(8, 8), (2, 16)]),
        ("mxint8", 1, [(4, 8)]),
        ("mxint8", 4, [(8, 16)]),
        ("mxfp4_e2m1", 0, [(4, 16)]),
        ("mxfp4_e2m1", 1, [(8, 8)]),
        ("mxfp4_e2m1", 4, [(4, 8)]),
        ("mxfp8_e4m3", 0, [(4, 8)]),
        ("mxfp8_e4m3", 4, [(2, 8)]),
    ):
        made = matmul(Blocks((8, 256), name, 32, 118, 125), name, 96)
        unit = FedMatMul.of(dataclasses.replace(made, scale_offset=238, width=40), 128, tile)
        found[f"matmul_fed-{name}-{tile}"] = unit, [Folding(*f) for f in foldings]
    wide = Wide((14, 14, 32), 24, -12)
    found["max_pool-14x14"] = MaxPool(wide, Window((2, 2), (2, 2))), [1, 4, 16]
    found["average_pool-7x7"] = AveragePool(Wide((7, 7, 64), 28, -14), Window((7, 7))), [1, 4]
    gain, offset = rng.integers(-(2**17) + 1, 2**17, 64), rng.integers(-(2**30), 2**30, 64)
    found["affine-64"] = Affine(Wide((64,), 28, -20), gain, offset, 12, -25), [1, 4]
    return found


def _matrix(rng: np.random.Generator, activations: str, weights: str, length: int, rows: int) -> MatMul:
    """A matrix layer whose accumulator is as wide as its weights need."""
    fmt, source = get_format(weights), Blocks((length,), activations, 32, 118, 127)
    weight = Weight(
        fmt,
        finite_codes(rng, fmt.element, (rows, -(-length // 32) * 32))[:, :length],
        rng.integers(118, 125, (rows, -(-length // 32))).astype(np.uint8),
        32,
    )
    a = sized("matmul", source, weight, None)
    return MatMul(source, weight, rng.integers(-999, 999, rows), a.scale_offset, a.width, a.lsb_exp)


def _mixed() -> dict[str, tuple[Unit, list]]:
    """Products of two formats: each way in which mx_mul makes them that no other row has."""
    rng, pairs = np.random.default_rng(4), {}
    for activations, weights in MIXED:
        unit = _matrix(rng, activations, weights, 128, 16)
        pairs[f"matmul-{activations}-{weights}"] = unit, [Folding(2, 8)]
    return pairs


def _hundreds() -> dict[str, tuple[Unit, list]]:
    """Units of hundreds of products at once, with weights and accumulators as networks have them."""
    rng = np.random.default_rng(5)
    return {
        "matmul-mxfp6_e2m3-mxfp6_e3m2-256x64": (
            _matrix(rng, "mxfp6_e2m3", "mxfp6_e3m2", 256, 64),
            [Folding(1, 8)],  # of hundreds, it would take Yosys a quarter of an hour
        ),
        "matmul-hundreds-mxint8": (
            _matrix(rng, "mxint8", "mxint8", 256, 64),
            [Folding(16, 32), Folding(16, 32, threes=1), Folding(8, 32, luts=1)],
        ),
        "matmul-hundreds-mxfp4_e2m1": (_matrix(rng, "mxfp4_e2m1", "mxfp4_e2m1", 256, 64), [Folding(16, 32)]),
    }


def cells() -> dict[str, tuple[str, dict[str, int | str]]]:
    """Cells between units, at sizes that networks have."""
    found = {f"mx_fifo {w}x{d}": ("mx_fifo", {"Width": w, "Depth": d}) for w, d in
             ((9, 16), (33, 32), (64, 64), (40, 128), (80, 256), (24, 512), (72, 1024), (33, 2048))}  # fmt: skip
    found |= {f"mx_fork {n}": ("mx_fork", {"Width": 32, "Outputs": n}) for n in (2, 3, 5)}
    found |= {f"mx_skid {n}": ("mx_skid", {"Width": n}) for n in (8, 33, 120)}
    for numbers in ((1, 4, 8, 40), (4, 1, 8, 40), (8, 2, 20, 64), (2, 16, 28, 64), (16, 8, 12, 9), (4, 8, 24, 4)):
        found[f"mx_lanes {numbers}"] = "mx_lanes", dict(zip(("InLanes", "OutLanes", "ElemWidth", "K"), numbers))  # noqa: B905
    for numbers in ((8, 8, 1, 10, 10), (12, 16, 4, 40, 120), (20, 32, 8, 64, 8), (9, 16, 2, 3, 400)):
        found[f"mx_ingress {numbers}"] = "mx_ingress", dict(zip(("Width", "Slot", "Lanes", "K", "Beats"), numbers))  # noqa: B905
    for numbers in ((20, 32, 1, 1), (28, 32, 4, 1), (31, 32, 8, 2)):
        found[f"mx_egress {numbers}"] = "mx_egress", dict(zip(("Width", "Slot", "Lanes", "Inputs"), numbers))  # noqa: B905
    found |= {f"mx_deal {n}": ("mx_deal", {"Width": n, "First": 300, "Rest": 4000}) for n in (64, 128)}
    for width, turns in ((26, 3), (104, 6), (832, 12)):
        numbers = {"Width": width, "Turns": turns}
        found |= {f"{m} {width}x{turns}": (m, numbers) for m in ("mx_turns_in", "mx_turns_out")}
    for width, beats, turns in ((2, 32, 6), (8, 4, 3), (16, 64, 12), (26, 96, 2), (64, 512, 6)):
        numbers = {"Width": width, "Beats": beats, "Turns": turns}
        found[f"mx_turns_beside {width}x{beats}x{turns}"] = ("mx_turns_beside", numbers)
    for channels, bus in ((1, 128), (3, 64), (12, 128)):
        numbers = {"Channels": channels, "Bus": bus, "Burst": 16, "TableFile": "regions.mem"}
        found[f"mx_axi_read {channels}x{bus}"] = "mx_axi_read", numbers
    return found


def synthesized(unit: Unit, folding: Folding) -> yosys.SynthResult:
    """Of one of its copies, where a folding has several."""
    single, own = copies.one(unit, folding)
    with tempfile.TemporaryDirectory() as directory:
        parameters = written(single, own, Path(directory))
        return yosys.synthesize(single.module, library.rtl_sources(), parameters, memory_dir=Path(directory))


def _row(found: yosys.SynthResult) -> dict[str, float | str]:
    return {
        "lut": found.total_lut,
        "ff": found.ff,
        "dsp": found.dsp,
        "bram36": found.bram36 + found.bram18 / 2,
        "uram": found.uram,
        "fmax_mhz": found.fmax_mhz,
        "series_7_mhz": found.series_7_mhz,
        "path": str(found.path),
    }


def measure(name: str) -> dict[str, float | str]:
    """Area and longest path by Yosys; of units, cycles a frame and latency by the timing model."""
    if name in cells():
        module, parameters = cells()[name]
        with tempfile.TemporaryDirectory() as directory:
            regions = np.arange(2 * parameters.get("Channels", 1)).reshape(-1, 2) * 10_000
            write_mem(Path(directory) / "regions.mem", regions, 32)
            return _row(yosys.synthesize(module, library.rtl_sources(), parameters, memory_dir=Path(directory)))
    unit, folding = measured()[name]
    timing = {"cycles": copies.cycles(unit, folding), "latency": copies.timing(unit, folding).latency}
    return _row(synthesized(unit, folding)) | timing


def worse(found: dict, kept: dict) -> list[str]:
    """In words, where `found` is worse than the table by more than 2% and one."""
    more = [
        f"{key} {found[key]:g} instead of {kept[key]:g}"
        for key in LESS_IS_BETTER
        if found.get(key, 0) > 1.02 * kept.get(key, 0) + 1
    ]
    slower = found["fmax_mhz"] < 0.98 * kept["fmax_mhz"]
    return more + [f"{found['fmax_mhz']:g} MHz instead of {kept['fmax_mhz']:g}: {found['path']}"] * slower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--scheduler")
    options = parser.parse_args()
    names = [*measured(), *cells()]
    kept = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    left = [n for n in names if (n not in kept if options.pattern is None else re.search(options.pattern, n))]
    kept = {name: row for name, row in kept.items() if name in names}
    with cluster.connected(options.scheduler or options.workers) as runner:
        found = runner.completed(Work(measure, left, resources={"synth": 1}))
        for done, (i, row) in enumerate(found, 1):
            print(f"{done}/{len(left)} {left[i]}: {row['lut']} LUT, {row['fmax_mhz']:g} MHz, {row['path']}", flush=True)
            kept[left[i]] = row
            TABLE.write_text(json.dumps({n: kept[n] for n in names if n in kept}, indent=1) + "\n")


if __name__ == "__main__":
    from tests import areas  # workers find what has a module of its own

    areas.main()
