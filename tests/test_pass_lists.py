"""All fold and streamline passes together, on graphs drawn by hypothesis: bits, fixed point, and which passes round."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings, strategies as st

from mxexport.passes.exactness import bound_of
from mxexport.passes.fold.contract_scales import contract_scales
from mxexport.passes.fold.pad_groups import pad_groups
from mxexport.passes.streamline.absorb_affines import absorb_affines
from mxexport.passes.streamline.merge_affines import merge_affines
from tests.pass_helpers import Build, outputs_of, random_inputs, same_bits
from tests.test_streamline_networks import FOLD, STREAMLINE

ROUNDING = {merge_affines, absorb_affines, pad_groups, contract_scales}
EXACT = [p for p in FOLD + STREAMLINE if p not in ROUNDING]
FORMATS = ("mxint8_g4", "mxfp8_e4m3_g4", "mxfp4_e2m1_g8")
KINDS = (
    "scale", "scale", "channels", "add", "quant", "quant", "transpose", "reshape", "residual", "matmul", "relu",
    "divide",
)  # fmt: skip
f32 = np.float32


def test_passes_say_whether_they_round():
    assert {p for p in {*FOLD, *STREAMLINE, pad_groups} if bound_of(p)} == ROUNDING


def drawn_graph(r: Random) -> ir.Model:
    """Scales, sums, forks, layouts, quantizers and products in any order; sums of few integers, which are exact."""
    b = Build(x=("N", 4, 8, 6))
    values = [(b.inputs[0], (4, 8, 6))]
    for _ in range(r.randint(3, 10)):
        x, shape = r.choice(values[-3:])
        kind = r.choice(KINDS)
        channels = (shape[0],) + (1,) * (len(shape) - 1)
        if kind == "scale":
            x = b.op("Mul", x, f32(r.choice([0.5, 2, 4, 0.3])))
        elif kind == "channels":
            x = b.op("Mul", x, np.exp2([r.randint(-2, 2) for _ in range(shape[0])]).astype(f32).reshape(channels))
        elif kind == "add":
            x = b.op("Add", x, np.array([r.randint(-8, 8) / 4 for _ in range(shape[0])], f32).reshape(channels))
        elif kind == "quant":
            x = b.quant(x, r.choice(FORMATS), r.randint(1, len(shape)), f"q{b.count}")
        elif kind == "transpose":
            order = r.sample(range(len(shape)), len(shape))
            x, shape = b.op("Transpose", x, perm=[0, *(i + 1 for i in order)]), tuple(shape[i] for i in order)
        elif kind == "reshape":
            shape = r.choice([(192,), (4, 48), (8, 24), (4, 8, 6)])
            x = b.op("Reshape", x, np.array([-1, *shape]))
        elif kind == "residual":
            x = b.op("Add", x, r.choice([v for v, s in values if s == shape] or [x]))
        elif kind == "matmul":
            w = np.array([r.randint(-3, 3) for _ in range(shape[-1] ** 2)], f32).reshape(shape[-1], shape[-1])
            x = b.op("MatMul", x, b.op("Transpose", b.weight(w, r.choice(FORMATS), 1, f"w{b.count}"), perm=[1, 0]))
        elif kind == "relu":
            x = b.op("Relu", x)
        else:
            x = b.op("Div", x, f32(4))
        values.append((x, shape))
    return b.model(*(v for v, _ in values[1:] if not v.uses()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_any_graph_keeps_its_bits_and_comes_to_rest(seed, all_passes):
    model = drawn_graph(Random(seed))
    inputs = random_inputs(model, seed % 97)
    before = outputs_of(model, inputs)
    passes = FOLD + STREAMLINE if all_passes else EXACT
    for _ in range(10):
        if not any([function(model).changed for function in passes]):
            break
    else:
        raise AssertionError("no fixed point after 10 rounds")
    after = outputs_of(model, inputs)
    if all_passes:  # a code may flip behind a rounded value: shapes and names only
        assert {n: a.shape for n, a in after.items()} == {n: a.shape for n, a in before.items()}
    else:
        same_bits(before, after)
