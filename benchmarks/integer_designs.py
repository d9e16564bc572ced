"""Softmax, LayerNorm and GELU in integers: ours beside published integer-only designs, on the same rows.

    python benchmarks/integer_designs.py

Signal to noise ratio in dB against float64. What others compute is written anew here from their papers and golden
models: I-BERT (Kim et al., 2021): exponentials and erf by second-order polynomials, square roots by Newton's
iteration; I-ViT (Li and Gu, 2023): exponentials and GELU by shifts, base 2, here with divisions that lose nothing; ITA
(Islamoglu et al., 2023): 8-bit scores over 8 octaves, beyond which they saturate, powers of two only; SOLE (Wang et
al., ICCAD 2023, arXiv 2510.17189): exponentials quantized to powers of two in 4 bits and a division by the leading one
of their sum (E2Softmax), statistics of a norm from 4-bit magnitudes and a table of squares (AILayerNorm).

Of SOLE no golden model is public. Known, from its abstract, a review of it and what others implemented after it: the
log2 of an exponential as x + x/2 - x/16 by shifts, kept in 4 bits; the division as 2**-(ky + ks) times 0.818 or 0.568,
by whether the mantissa of the sum reaches 1.5; of AILayerNorm 8-bit inputs, magnitudes compressed to 4 bits, a table of
16 squares, sums of values and squares in one pass, a table for the inverse root. Assumed here: log2 is rounded to
nearest; the sum has 15 bits below the point; the maximum of a row is known first, where the paper corrects sums as it
grows; magnitudes from 64 on keep bits 7 to 4, others bits 5 to 2, cut off; one factor takes the inputs of a norm to 8
bits (a calibrated scale for each spread; its factors by channel would change nothing on these rows); the inverse root
has 48 entries of 8 bits over two octaves of the variance; what the norm puts out is not rounded to 8 bits.

All get the same inputs on a grid of 2**-10 (ITA and the norm of SOLE: 8 bits made of them). Softmaxes put out 8 bits,
as there, or 16. Every function gives integers; `Design.scale` is their step. Writes the table of docs/hardware.md;
integer_hardware.py adds what each takes in hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from common import write

from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Unit
from mxexport.fpga.units import Activation, Norm, Softmax

DOCUMENT, MARKER = Path(__file__).resolve().parents[1] / "docs" / "hardware.md", "integer-designs"
STEP, WIDTH = -10, 20
ROWS, LENGTH = 400, 128
SPREADS = (0.3, 1.5, 4.0)


@dataclass(frozen=True)
class Design:
    """`compute` takes rows of integers, steps of 2**STEP, and gives integers whose steps are `scale`; `module` and
    `parameters` say what puts out the same in benchmarks/integer_designs, and in how many bits."""

    compute: Callable[[np.ndarray], np.ndarray]
    scale: float
    module: str
    bits: int
    parameters: dict[str, int] = field(default_factory=dict)
    signed: bool = True


def snr(found: np.ndarray, wanted: np.ndarray) -> float:
    return 10 * math.log10(float((wanted**2).sum() / ((found - wanted) ** 2).sum()))


def our_unit(kind: str, length: int = LENGTH) -> Unit:
    source = Wide((length,), WIDTH, STEP)
    if kind == "softmax":
        return Softmax.of(source)
    if kind == "LayerNorm":
        return Norm.of(source, True, 1e-5, np.ones(length), np.zeros(length))
    return Activation.of(source, "gelu")


def ours(kind: str) -> Design:
    def compute(q: np.ndarray) -> np.ndarray:
        unit = our_unit(kind, q.shape[-1])
        return unit.operator.reference(q, *unit.constants().values(), **unit.attributes())[0]

    result = our_unit(kind).result
    return Design(compute, 2.0**result.lsb_exp, our_unit(kind).module, result.width)


# --- softmax ------------------------------------------------------------------------------------------------------


def exact_softmax(q: np.ndarray) -> np.ndarray:
    x = np.ldexp(q.astype(float), STEP)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


LN2, EXP_B, EXP_C = (math.floor(v) for v in (math.log(2) / 2.0**STEP, 1.353 / 2.0**STEP, 0.344 / 0.3585 / 4.0**STEP))


def ibert_softmax(q: np.ndarray, bits: int = 8) -> np.ndarray:
    """exp(p) on (-ln 2, 0] as 0.3585 * (p + 1.353)**2 + 0.344, then a shift."""
    d = q - q.max(-1, keepdims=True)
    d = np.maximum(d, -30 * LN2)
    z = d // -LN2
    e = ((d + z * LN2 + EXP_B) ** 2 + EXP_C) >> z
    factor = 2**32 // e.sum(-1, keepdims=True)
    return (e * factor) >> (32 - bits)


def shift_exp(d: np.ndarray, most: int) -> np.ndarray:
    """2**(d * 1.0111b) of d <= 0 with 2**r as 1 + r / 2; one is 2**(most - STEP)."""
    one = round(2.0**-STEP)
    p = np.maximum(d + (d >> 1) - (d >> 4), -most * one)
    whole = p // -one
    rest = -(p + whole * one)
    return (one - (rest >> 1)) << (most - whole)


def ivit_softmax(q: np.ndarray, bits: int = 8) -> np.ndarray:
    e = shift_exp(q - q.max(-1, keepdims=True), 15)
    return (e << (bits - 1)) // e.sum(-1, keepdims=True)


ITA_FACTOR = round(math.log2(math.e) * 32 * 2.0 ** (24 + STEP))


def ita_softmax(q: np.ndarray) -> np.ndarray:
    """8-bit scores whose 32 steps are one octave; exponentials are powers of two, so are the shares up to a factor."""
    x = np.clip((q * ITA_FACTOR + 2**23) >> 24, -128, 127)
    shift = (x.max(-1, keepdims=True) - x) >> 5
    total = (2**8 >> shift).sum(-1, keepdims=True)
    return ((2**8 - 1) * 2**8 // total) >> shift


SOLE_SHARES = 0.818, 0.568
"""1/(1 + s) for s below and from 1/2: Mitchell's 1 - s/2 in the middle of each, less its mean error."""


def sole_softmax(q: np.ndarray, bits: int = 8) -> np.ndarray:
    """E2Softmax: exponentials 2**-k of 4-bit k; their sum is 2**ks * (1 + s), of s the first bit is looked at."""
    d = q.max(-1, keepdims=True) - q
    k = np.minimum((d + (d >> 1) - (d >> 4) + 2 ** (-STEP - 1)) >> -STEP, 15)
    total = (2**15 >> k).sum(-1, keepdims=True)
    top = np.frexp(total.astype(float))[1] - 1
    low, high = (round(share * 2**bits) for share in SOLE_SHARES)
    return np.where(total >> (top - 1) & 1, high, low) >> (k + top - 15)


# --- LayerNorm ----------------------------------------------------------------------------------------------------


def exact_norm(q: np.ndarray) -> np.ndarray:
    x = np.ldexp(q.astype(float), STEP)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def newton_norm(q: np.ndarray, start: int, steps: int) -> np.ndarray:
    """I-BERT and I-ViT: the mean rounded, an integer square root of the sum of squares, 31 bits of its inverse."""
    d = q - np.rint(q.mean(-1, keepdims=True)).astype(np.int64)
    total = (d * d).sum(-1, keepdims=True)
    root = np.full_like(total, start)
    for _ in range(steps):
        root = (root + total // root) >> 1
    return d * (2**31 // root) >> 1


SOLE_SPREAD = 4.5
"""The largest input by so many deviations: normal rows."""
SOLE_ROOTS = [round(2**8 / math.sqrt((i + 0.5) / 16)) for i in range(16, 64)]


def sole_factor(spread: float) -> int:
    """What takes an input to 8 bits, by 2**-16: one for a whole tensor, as a calibration would find it."""
    return round(127 / (SOLE_SPREAD * spread) * 2.0 ** (16 + STEP))


def sole_norm(q: np.ndarray, factor: int) -> np.ndarray:
    """AILayerNorm: 8-bit inputs; squares of four bits of a magnitude; the inverse root from a table of 48 by 8 bits."""
    x = np.clip((q * factor + 2**15) >> 16, -127, 127)
    magnitude, length = np.abs(x), q.shape[-1]
    square = np.where(magnitude >= 64, (magnitude >> 4) ** 2 << 8, (magnitude >> 2) ** 2 << 4)
    total = x.sum(-1, keepdims=True)
    variance = np.maximum(length * square.sum(-1, keepdims=True) - total**2, 1)
    half = (np.frexp(variance.astype(float))[1] - 1) >> 1
    root = np.array(SOLE_ROOTS)[(variance << 4 >> 2 * half) - 16]
    return (length * x - total) * root >> half


# --- GELU ---------------------------------------------------------------------------------------------------------


def exact_gelu(q: np.ndarray) -> np.ndarray:
    x = np.ldexp(q.astype(float), STEP)
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


ERF_STEP = -0.2888 * 4.0**STEP / 2
ERF_B, ERF_ONE = math.floor(-1.769 * math.sqrt(2) / 2.0**STEP), math.floor(1 / ERF_STEP)


def ibert_gelu(q: np.ndarray) -> np.ndarray:
    """erf(x) as sign(x) * (-0.2888 * (min(|x|, 1.769) - 1.769)**2 + 1)."""
    magnitude = np.minimum(np.abs(q), -ERF_B)
    erf = np.sign(q) * ((magnitude + ERF_B) ** 2 + ERF_ONE)
    return q * (erf + ERF_ONE)


def ivit_gelu(q: np.ndarray, bits: int = 8) -> np.ndarray:
    """x * sigmoid(1.702 * x): 1.702 is 1.1011b, the sigmoid a quotient of exponentials by shifts."""
    p = q + (q >> 1) + (q >> 3) + (q >> 4)
    top = np.maximum(p, 0)
    e, rest = shift_exp(p - top, 23), shift_exp(-top, 23)
    return q * ((e << (bits - 1)) // (e + rest))


def softmaxes(bits: int) -> dict[str, Design]:
    more = f", {bits} bits out" * (bits > 8)
    constants = {"OutBits": bits, "Ln2": LN2, "B": EXP_B, "C": EXP_C, "Inverse": -(-(2**24) // LN2)}
    low, high = (round(share * 2**bits) for share in SOLE_SHARES)
    shares = {"Point": -STEP, "OutBits": bits, "Low": low, "High": high}
    return {
        f"I-BERT{more}": Design(
            partial(ibert_softmax, bits=bits), 2.0**-bits, "ibert_softmax", bits + 1, constants, False
        ),
        f"I-ViT{more}": Design(
            partial(ivit_softmax, bits=bits),
            2.0 ** (1 - bits),
            "ivit_softmax",
            bits,
            {"Point": -STEP, "OutBits": bits},
            False,
        ),
        f"SOLE{more}": Design(partial(sole_softmax, bits=bits), 2.0**-bits, "sole_softmax", bits, shares, False),
    }


def norms(spread: float) -> dict[str, Design]:
    scale = math.sqrt(LENGTH) / 2**30
    factor = sole_factor(spread)
    return {
        "I-BERT": Design(partial(newton_norm, start=2**16, steps=20), scale, "root_norm", 32),
        "I-ViT": Design(partial(newton_norm, start=2**16, steps=10), scale, "root_norm", 32),
        "SOLE": Design(partial(sole_norm, factor=factor), 2.0**-8, "sole_norm", 24, {"Factor": factor}),
    }


def designs(spread: float) -> dict[str, tuple[Callable, dict[str, Design]]]:
    """By what they compute: in float64, and of each design. `spread` of the rows: SOLE's norm is calibrated to it."""
    ita = Design(ita_softmax, 2.0**-8, "ita_softmax", 8, {"Factor": ITA_FACTOR}, False)
    gelus = {
        "I-BERT": Design(ibert_gelu, 2.0**STEP * ERF_STEP / 2, "ibert_gelu", 45),
        "I-ViT": Design(ivit_gelu, 2.0 ** (STEP - 7), "ivit_gelu", 28),
    }
    return {
        "softmax": (exact_softmax, {"ours": ours("softmax"), **softmaxes(8), "ITA": ita, **softmaxes(16)}),
        "LayerNorm": (exact_norm, {"ours": ours("LayerNorm"), **norms(spread)}),
        "GELU": (exact_gelu, {"ours": ours("GELU"), **gelus}),
    }


def rows(spread: float, count: int = ROWS) -> np.ndarray:
    """Integers [count, LENGTH], normal, of this spread in steps of 2**STEP."""
    rng = np.random.default_rng(int(10 * spread))
    return np.rint(np.ldexp(rng.normal(0, spread, (count, LENGTH)), -STEP)).astype(np.int64)


def quality() -> dict[tuple[str, str], list[float]]:
    """SNR in dB of every design, by what it computes and its name, at every spread."""
    found: dict[tuple[str, str], list[float]] = {}
    for spread in SPREADS:
        q = rows(spread)
        for kind, (exact, named) in designs(spread).items():
            for name, design in named.items():
                found.setdefault((kind, name), []).append(snr(design.compute(q) * design.scale, exact(q)))
    return found


def table() -> str:
    lines = ["| | " + " | ".join(f"spread {s:g}" for s in SPREADS) + " |", "|---" * (len(SPREADS) + 1) + "|"]
    for (kind, name), found in quality().items():
        what = kind if kind == "GELU" else f"{kind}, rows of {LENGTH}"
        lines.append(f"| {what}: {name} | {' | '.join(f'{value:.1f}' for value in found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = table()
    print(text)
    write(text, DOCUMENT, (f"<!-- {MARKER} -->", f"<!-- /{MARKER} -->"))
