"""pad_groups: the last group is filled up with zeros, in weight and activation alike."""

from __future__ import annotations

import numpy as np
import pytest

from mxexport.model import graph
from mxexport.numbers import bits
from mxexport.passes.fold.fold_transposes import fold_transposes
from mxexport.passes.fold.pad_groups import pad_groups
from tests.pass_helpers import Build, apply, apply_within, execute, op_types, random_inputs


def array(*shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def bound(k: int, largest: float) -> float:
    return 2 * k * 2.0**-24 * k * largest


@pytest.mark.parametrize("activation", ["mxfp8_e4m3", "mxint8", None])
@pytest.mark.parametrize("weight", ["mxfp4_e2m1", "mxint8"])
def test_matmul_is_padded(weight, activation):
    b = Build(x=("N", 3, 70))
    x = b.quant(b.inputs[0], activation, 2, "q") if activation else b.inputs[0]
    model = b.model(b.op("MatMul", x, b.weight(array(70, 8), weight, 0, "fc"), name="fc"))
    assert len(apply_within(pad_groups, model, bound(70, 20)).changed) == 1
    assert all(
        n.inputs[0].shape[n.attributes["axis"].value] % 32 == 0
        for n in model.graph
        if graph.is_ours(n, graph.QUANTIZERS)
    )
    assert not apply(pad_groups, model).changed


def test_padded_quantizers_keep_every_bit():
    b = Build(x=(4, 70))
    model = b.model(
        b.op("MatMul", b.quant(b.inputs[0], "mxfp8_e4m3", 1, "q"), b.weight(array(70, 8), "mxint8", 0, "w"))
    )
    inputs = random_inputs(model)
    (before,) = execute(model, inputs, ["q"]).values()
    pad_groups(model)
    quantizer = next(n for n in model.graph if n.op_type == "MXFloatQuant")
    (after,) = execute(model, inputs, [quantizer.outputs[0].name]).values()
    assert after.shape == (4, 96) and bits.equal_bits(after[:, :70], before).all() and not after[:, 70:].any()


def test_convolution_is_padded_along_its_input_channels():
    b = Build(x=("N", 12, 5, 5))
    x = b.quant(b.inputs[0], "mxint8", 1, "q")
    model = b.model(b.op("Conv", x, b.weight(array(6, 12, 3, 3), "mxfp6_e2m3", 1, "c"), array(6), pads=[1, 1, 1, 1]))
    assert apply_within(pad_groups, model, bound(12 * 9, 20)).changed
    assert op_types(model).count("Pad") == 1
    assert not apply(pad_groups, model).changed


def test_projections_of_one_input_share_its_padding():
    b = Build(x=("N", 70))
    x = b.quant(b.inputs[0], "mxint8", 1, "q")
    model = b.model(*(b.op("MatMul", x, b.weight(array(70, 8), "mxint8", 0, n)) for n in ("query", "key")))
    assert len(apply_within(pad_groups, model, bound(70, 20)).changed) == 2
    assert op_types(model).count("Pad") == op_types(model).count("MXScale") == 1


def test_whole_groups_are_left_alone():
    b = Build(x=("N", 64))
    outcome = apply(pad_groups, b.model(b.op("MatMul", b.inputs[0], b.weight(array(64, 8), "mxint8", 0, "fc"))))
    assert not outcome.changed and not outcome.declined


def test_depthwise_and_transposed_weights_are_declined():
    b = Build(x=("N", 8, 5, 5), y=("N", 70))
    depthwise = b.op("Conv", b.inputs[0], b.weight(array(8, 1, 3, 3), "mxint8", 1, "d"), group=8, name="depthwise")
    linear = b.op("MatMul", b.inputs[1], b.op("Transpose", b.weight(array(8, 70), "mxint8", 1, "w")), name="fc")
    model = b.model(depthwise, linear)
    outcome = apply(pad_groups, model)
    assert not outcome.changed
    assert dict(outcome.declined) == {
        "depthwise": "groups of `d.weight_quant` not padded: its 8 convolution groups would each need padding of their "
        "own",
        "fc": "groups of `w.weight_quant` not padded: run fold_transposes first",
    }
    fold_transposes(model)
    assert apply_within(pad_groups, model, bound(70, 20)).changed


def test_inputs_grouped_otherwise_are_declined():
    b = Build(x=(4, 70))
    x = b.quant(b.inputs[0], "mxint8_g16", 1, "q")
    outcome = apply(pad_groups, b.model(b.op("MatMul", x, b.weight(array(70, 8), "mxint8", 0, "w"), name="fc")))
    assert not outcome.changed and "`q` is grouped otherwise" in outcome.declined[0][1]
