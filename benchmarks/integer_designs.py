"""Softmax, LayerNorm and GELU in integers: ours beside published integer-only designs, on the same rows.

    python benchmarks/integer_designs.py

Signal to noise ratio in dB against float64. What others compute is written anew here from their papers and golden
models: I-BERT (Kim et al., 2021): exponentials and erf by second-order polynomials, square roots by Newton's
iteration; I-ViT (Li and Gu, 2023): exponentials and GELU by shifts, base 2, here with divisions that lose nothing; ITA
(Islamoglu et al., 2023): 8-bit scores over 8 octaves, beyond which they saturate, powers of two only. All get the same
inputs on a grid of 2**-10 (ITA: its 8 bits) and put out 8 bits, as there, or 16. Writes the table of docs/hardware.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import write

from mxexport.fpga.types import Wide
from mxexport.fpga.units import Activation, Norm, Softmax

DOCUMENT, MARKER = Path(__file__).resolve().parents[1] / "docs" / "hardware.md", "integer-designs"
STEP = -10
ROWS, LENGTH = 400, 128
SPREADS = (0.3, 1.5, 4.0)


def snr(found: np.ndarray, wanted: np.ndarray) -> float:
    return 10 * math.log10(float((wanted**2).sum() / ((found - wanted) ** 2).sum()))


# --- softmax ------------------------------------------------------------------------------------------------------


def exact_softmax(q: np.ndarray) -> np.ndarray:
    x = np.ldexp(q.astype(float), STEP)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def our_softmax(q: np.ndarray) -> np.ndarray:
    unit = Softmax.of(Wide((q.shape[-1],), 20, STEP))
    (y,) = unit.operator.reference(q, *unit.constants().values(), **unit.attributes())
    return np.ldexp(y.astype(float), unit.result.lsb_exp)


def ibert_softmax(q: np.ndarray, bits: int = 8) -> np.ndarray:
    """exp(p) on (-ln 2, 0] as 0.3585 * (p + 1.353)**2 + 0.344, then a shift."""
    s = 2.0**STEP
    ln2, b, c = math.floor(math.log(2) / s), math.floor(1.353 / s), math.floor(0.344 / (0.3585 * s * s))
    d = q - q.max(-1, keepdims=True)
    d = np.maximum(d, -30 * ln2)
    z = d // -ln2
    e = ((d + z * ln2 + b) ** 2 + c) >> z
    factor = 2**32 // e.sum(-1, keepdims=True)
    return ((e * factor) >> (32 - bits)) * 2.0**-bits


def ivit_softmax(q: np.ndarray, bits: int = 8, most: int = 15) -> np.ndarray:
    """2**(x * 1.0111b) with 2**r as 1 + r / 2."""
    one = round(2.0**-STEP)
    d = q - q.max(-1, keepdims=True)
    p = np.maximum(d + (d >> 1) - (d >> 4), -most * one)
    whole = p // -one
    rest = -(p + whole * one)
    e = (one - (rest >> 1)) << (most - whole)
    return ((e << (bits - 1)) // e.sum(-1, keepdims=True)) * 2.0 ** -(bits - 1)


def ita_softmax(q: np.ndarray) -> np.ndarray:
    """8-bit scores whose 32 steps are one octave; exponentials are powers of two, so are the shares up to a factor."""
    x = np.clip(np.rint(np.ldexp(q.astype(float), STEP) * math.log2(math.e) * 32), -128, 127).astype(np.int64)
    shift = (x.max(-1, keepdims=True) - x) >> 5
    total = ((1 << 8) >> shift).sum(-1, keepdims=True)
    return (((2**8 - 1) * 2**8 // total) >> shift) * 2.0**-8


# --- LayerNorm ----------------------------------------------------------------------------------------------------


def exact_norm(q: np.ndarray) -> np.ndarray:
    x = np.ldexp(q.astype(float), STEP)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def our_norm(q: np.ndarray) -> np.ndarray:
    unit = Norm.of(Wide((q.shape[-1],), 20, STEP), True, 1e-5, np.ones(q.shape[-1]), np.zeros(q.shape[-1]))
    (y,) = unit.operator.reference(q, *unit.constants().values(), **unit.attributes())
    return np.ldexp(y.astype(float), unit.result.lsb_exp)


def newton_norm(q: np.ndarray, start: int, steps: int) -> np.ndarray:
    """I-BERT and I-ViT: the mean rounded, an integer square root of the sum of squares, 31 bits of its inverse."""
    length = q.shape[-1]
    d = q - np.rint(q.mean(-1, keepdims=True)).astype(np.int64)
    total = (d * d).sum(-1, keepdims=True)
    root = np.full_like(total, start)
    for _ in range(steps):
        root = (root + total // root) >> 1
    return np.floor(d * (2**31 // root) / 2) * math.sqrt(length) / 2**30


# --- GELU ---------------------------------------------------------------------------------------------------------


def exact_gelu(q: np.ndarray) -> np.ndarray:
    x = np.ldexp(q.astype(float), STEP)
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def our_gelu(q: np.ndarray) -> np.ndarray:
    unit = Activation.of(Wide((q.shape[-1],), 20, STEP), "gelu")
    (y,) = unit.operator.reference(q, *unit.constants().values(), **unit.attributes())
    return np.ldexp(y.astype(float), unit.result.lsb_exp)


def ibert_gelu(q: np.ndarray) -> np.ndarray:
    """erf(x) as sign(x) * (-0.2888 * (min(|x|, 1.769) - 1.769)**2 + 1)."""
    s = 2.0**STEP / math.sqrt(2)
    b, c = math.floor(-1.769 / s), math.floor(1 / (-0.2888 * s * s))
    magnitude = np.minimum(np.abs(q), -b)
    erf = np.sign(q) * ((magnitude + b) ** 2 + c)
    scale = -0.2888 * s * s
    return np.ldexp((q * (erf + math.floor(1 / scale))).astype(float), STEP) * scale / 2


def ivit_gelu(q: np.ndarray, bits: int = 8) -> np.ndarray:
    """x * sigmoid(1.702 * x): 1.702 is 1.1011b, the sigmoid a quotient of exponentials by shifts."""
    one, most = round(2.0**-STEP), 23
    p = q + (q >> 1) + (q >> 3) + (q >> 4)

    def shift_exp(d: np.ndarray) -> np.ndarray:
        d = np.maximum(d + (d >> 1) - (d >> 4), -most * one)
        whole = d // -one
        return (one - (-(d + whole * one) >> 1)) << (most - whole)

    top = np.maximum(p, 0)
    e, rest = shift_exp(p - top), shift_exp(-top)
    gate = (e << (bits - 1)) // (e + rest)
    return np.ldexp((q * gate).astype(float), STEP - bits + 1)


CASES: dict[str, tuple[Callable, dict[str, Callable]]] = {
    "softmax, rows of 128": (
        exact_softmax,
        {"ours": our_softmax, "I-BERT": ibert_softmax, "I-BERT, 16 bits out": lambda q: ibert_softmax(q, 16),
         "I-ViT": ivit_softmax, "I-ViT, 16 bits out": lambda q: ivit_softmax(q, 16), "ITA": ita_softmax},
    ),
    "LayerNorm, rows of 128": (
        exact_norm,
        {"ours": our_norm, "I-BERT": lambda q: newton_norm(q, 2**16, 20), "I-ViT": lambda q: newton_norm(q, 2**16, 10)},
    ),
    "GELU": (exact_gelu, {"ours": our_gelu, "I-BERT": ibert_gelu, "I-ViT": ivit_gelu}),
}  # fmt: skip


def table() -> str:
    rng = np.random.default_rng(0)
    rows = ["| | " + " | ".join(f"spread {s:g}" for s in SPREADS) + " |", "|---" * (len(SPREADS) + 1) + "|"]
    inputs = [np.rint(np.ldexp(rng.normal(0, s, (ROWS, LENGTH)), -STEP)).astype(np.int64) for s in SPREADS]
    for name, (exact, designs) in CASES.items():
        for design, compute in designs.items():
            found = " | ".join(f"{snr(compute(q), exact(q)):.1f}" for q in inputs)
            rows.append(f"| {name}: {design} | {found} |")
    return "\n".join(rows)


if __name__ == "__main__":
    text = table()
    print(text)
    write(text, DOCUMENT, (f"<!-- {MARKER} -->", f"<!-- /{MARKER} -->"))
