"""Area and depth of products, matrix units and quantizers by Yosys, beside the open MX RTL; writes docs/hardware.md.

    python benchmarks/units.py

MX-for-FPGA is combinational, and was counted in the same flow: synth_xilinx for UltraScale+, flat, no pads. Its dot
products of 32 are what its repository gives; a LUT is a LUT cell, LC is Yosys's estimate of packed logic cells, where
an instantiated LUT6_2 counts as one in both columns.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import write
from torch import nn

import mxexport as mx
from mxexport.fpga.datapaths.accumulator import sized
from mxexport.fpga.datapaths.weights import Weight
from mxexport.fpga.library import in_order, rtl_sources
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.streams.words import write_mem
from mxexport.fpga.tools.yosys import SynthResult, synthesize
from mxexport.fpga.unit import Folding, Unit, parameters_of
from mxexport.fpga.units import MatMul, Quantize
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import get_format

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "hardware.md"
PEER = {  # LUT, LC
    "mxfp4_e2m1": (1_343, 1_068),
    "mxfp6_e2m3": (2_893, 2_194),
    "mxfp6_e3m2": (3_157, 2_460),
    "mxfp8_e4m3": (5_631, 4_562),
    "mxfp8_e5m2": (8_225, 6_944),
    "mxint8": (6_284, 3_882),
}
CLOCK = 200  # MHz
FINN_MMACS_PER_LUT = 2.96  # TFC-w2a2: 59 k multiply-accumulates, 1.43 million frames/s, 28.5 k LUT


def dot(name: str) -> SynthResult:
    """A block of 32 in LUTs."""
    p = fixedpoint.element_parameters(get_format(name).element)
    e, m = p["exponent_bits"], p["mantissa_bits"]
    return synthesize("mx_dot", rtl_sources(), {"AExpBits": e, "AManBits": m, "WExpBits": e, "WManBits": m, "Simd": 32})


def unit_area(unit: Unit, folding: Folding) -> SynthResult:
    with tempfile.TemporaryDirectory() as directory:
        for kind, memory in unit.memories(folding).items():
            write_mem(Path(directory) / f"{kind}.mem", memory.fields, memory.width)
        files = {kind: f"{kind}.mem" for kind in unit.memory_kinds}
        parameters = in_order(unit.module, parameters_of(unit, folding, files))
        return synthesize(unit.module, rtl_sources(), parameters, memory_dir=Path(directory))


def matmul(name: str) -> MatMul:
    """256 inputs, 64 outputs; ten codes of activation scales, seven of weight scales."""
    rng, fmt = np.random.default_rng(0), get_format(name)
    codes = rng.integers(0, 2**fmt.element.bits, (64, 256)).astype(np.uint8)
    if name == "mxint8":
        codes[codes == 128] = 0  # quantizers never make it
    weight = Weight(fmt, codes, rng.integers(118, 125, (64, 8)).astype(np.uint8), 32)
    source = Blocks((256,), name, 32, 118, 127)
    found = sized("matmul", source, weight, None)
    return MatMul(source, weight, found.bias, found.scale_offset, found.width, found.lsb_exp)


def quantizer(name: str, signed: bool) -> Quantize:
    """Of 28 bits, 64 channels."""
    element = get_format(name).element
    limits = {"round_bias": 0, "code_min": 100, "code_max": 127}
    made = fixedpoint.BlockQuantizer(**fixedpoint.element_parameters(element), emax=element.emax, **limits)
    return Quantize(Wide((64,), 28, -30, nonnegative=not signed), made, 32, name)


def dots_table() -> str:
    rows = ["| dot of 32 | LUT | LC | FF | MHz | MX-for-FPGA LUT | LC | ours / theirs |", "|---" * 8 + "|"]
    for name, (lut, lc) in PEER.items():
        r = dot(name)
        own = r.lc + r.srl + r.lutram
        rows.append(
            f"| `{name}` | {r.total_lut:,} | {own:,} | {r.ff:,} | {r.fmax_mhz:.0f} | {lut:,} | {lc:,} "
            f"| {r.total_lut / lut:.2f}, {own / lc:.2f} |"
        )
    return "\n".join(rows)


def units_table() -> str:
    rows = ["| unit | LUT | LC | FF | DSP | BRAM36 | MHz | longest path |", "|---" * 8 + "|"]

    def row(title: str, r: SynthResult) -> str:
        memories = r.bram36 + r.bram18 / 2
        return (
            f"| {title} | {r.total_lut:,} | {r.lc + r.srl + r.lutram:,} | {r.ff:,} | {r.dsp} | {memories:g} "
            f"| {r.fmax_mhz:.0f} | {r.path} |"
        )

    for name in list(PEER)[:4] + ["mxint8"]:
        rows.append(row(f"matrix 256 x 64, 8 x 8 at once, `{name}`", unit_area(matmul(name), Folding(8, 8))))
    for name in ("mxint8", "mxfp8_e4m3", "mxfp4_e2m1"):
        for signed, title in ((True, ""), (False, ", behind a ReLU")):
            r = unit_area(quantizer(name, signed), Folding(4, 4))
            rows.append(row(f"quantizer of 28 bits, 4 lanes, `{name}`{title}", r))
    return "\n".join(rows)


def tfc_table() -> str:
    """The demo's MLP by shape at the rate of FINN's TFC."""
    rows = ["| 784-128-64-10 | frames/s | LUT | FF | DSP | BRAM36 | MHz | MMAC/s a LUT | FINN |", "|---" * 9 + "|"]
    macs = 784 * 128 + 128 * 64 + 64 * 10
    for name in ("mxint8", "mxfp4_e2m1"):
        torch.manual_seed(0)
        layers = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
        model = mx.quantize_model(nn.Sequential(*layers).eval(), name, name)
        x = np.random.default_rng(0).integers(-128, 128, (64, 784)).astype(np.float32) / 128
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            mx.export(model, (torch.from_numpy(x),), path / "m.onnx")
            design = mx.compile(path / "m.onnx", path / "d", calibration=x, target_fps=1.4e6, clock_mhz=CLOCK)
            total = design.area()["total"]
        rate = design.report["frames_per_second"]
        per_lut = macs * rate / 1e6 / total["lut"]
        rows.append(
            f"| `{name}` | {rate:,.0f} | {total['lut']:,} | {total['ff']:,} | {total['dsp']} | {total['bram36']:g} "
            f"| {total['fmax_mhz']:.0f} | {per_lut:.1f} | {FINN_MMACS_PER_LUT} |"
        )
    return "\n".join(rows)


def main() -> None:
    start = time.monotonic()
    for marker, table in (("dots", dots_table), ("units", units_table), ("tfc", tfc_table)):
        text = table()
        print(text, flush=True)
        write(text, DOCUMENT, (f"<!-- hardware-{marker} -->", f"<!-- /hardware-{marker} -->"))
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
