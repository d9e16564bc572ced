"""merge_residual_quantizers: one quantizer before a fork whose branches quantize alike."""

from __future__ import annotations

import numpy as np
import pytest

from mxexport.passes.fold.fold_reshapes import fold_reshapes
from mxexport.passes.fold.fold_transposes import fold_transposes
from mxexport.passes.fold.merge_quantizers import merge_quantizers
from mxexport.passes.fold.merge_residual_quantizers import merge_residual_quantizers
from tests.pass_helpers import Build, apply, op_types

LAYOUTS = {
    "Transpose": (lambda b, x: b.op("Transpose", x, perm=[0, 2, 1], name="t"), 1),
    "Unsqueeze": (lambda b, x: b.op("Unsqueeze", x, np.array([1]), name="t"), 3),
    "Reshape": (lambda b, x: b.op("Reshape", x, np.array([-1, 70]), name="t"), 1),
}


def branches(layout: str, first: str = "mxfp8_e4m3", second: str = "mxfp8_e4m3", flip: bool = False):
    make, axis = LAYOUTS[layout]
    b = Build(x=("N", 5, 70))
    x = b.op("Relu", b.inputs[0])
    here = [lambda: b.op("Neg", b.quant(x, first, 2, "a")), lambda: b.op("Neg", b.quant(make(b, x), second, axis, "b"))]
    return b.model(*(f() for f in (reversed(here) if flip else here)))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_quantizers_of_two_branches_become_one(layout, flip):
    model = branches(layout, flip=flip)
    assert len(apply(merge_residual_quantizers, model).changed) == 1
    assert op_types(model).count("MXScale") == op_types(model).count("MXFloatQuant") == 1
    for other in (merge_residual_quantizers, fold_transposes, fold_reshapes, merge_quantizers):
        assert not apply(other, model).changed


def test_formats_that_differ_stay_apart():
    outcome = apply(merge_residual_quantizers, branches("Transpose", second="mxint8"))
    assert not outcome.changed
    assert outcome.declined == [
        ("b", "not merged with `a` on the other branch: formats differ (mxfp8_e4m3 and mxint8)")
    ]
    outcome = apply(merge_residual_quantizers, branches("Transpose", second="mxfp8_e4m3_g16"))
    assert "group_size is 32 there and 16 here" in outcome.declined[0][1]


def test_a_sum_of_quantized_branches_is_left_alone():
    b = Build(x=(4, 64), y=(4, 64))
    model = b.model(b.op("Add", *(b.quant(v, "mxint8", 1, v.name + "_q") for v in b.inputs)))
    assert not apply(merge_residual_quantizers, model).changed
