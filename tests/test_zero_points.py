"""Zero points that a file holds only because an ONNX function has one signature: there while needed, gone otherwise."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from qonnx.core.modelwrapper import ModelWrapper
from torch import nn

import mxexport as mx
from mxexport.model import graph
from mxexport.passes import PIPELINE, as_transformation, fold_constants, infer_shapes, merge_quantizers, run_passes
from tests.pass_helpers import Build, op_types, outputs_of, random_inputs, same_bits


def zero_points(model: ir.Model) -> list[str]:
    return [n.inputs[2].name for n in model.graph if n.domain == "mxexport.ops" and len(n.inputs) > 2 and n.inputs[2]]


def mixed(batch="N") -> ir.Model:
    """A symmetric quantizer of the input beside an asymmetric weight."""
    b = Build(x=(batch, 64))
    x = b.quant(b.op("Relu", b.inputs[0]), "mxint8", 1, "q")
    scale, zero = np.full((64, 2), 0.25, np.float32), np.full((64, 2), 3, np.float32)
    weight = b.op("GroupwiseQuant", b.const(np.ones((64, 64), np.float32), "w"), scale, zero, name="w_quant",
                  domain="mxexport.ops", axis=1, group_size=32, bit_width=4, signed=0, narrow=0)  # fmt: skip
    model = b.model(b.op("MatMul", x, b.op("Transpose", weight, perm=[1, 0])))
    graph.drop_zero_points(model)  # made before shapes were known
    graph.attach_functions(model)
    return model


def test_export_clean_and_pack_leave_no_product_with_zero(tmp_path):
    network = nn.Sequential(nn.Linear(70, 32), nn.ReLU(), nn.Linear(32, 4))
    qmodel = mx.quantize_model(network, weight="uint4_g32", activation="mxint8")
    mx.export(qmodel, (torch.rand(2, 70),), tmp_path / "model.onnx")
    mx.clean(tmp_path / "model.onnx", tmp_path / "packed.onnx", pack=True, verify=True)
    packed = graph.load(tmp_path / "packed.onnx")
    assert not {"Mul", "Constant"} & set(op_types(packed))
    assert zero_points(packed) == ["0.weight_zero_point_transposed", "2.weight_zero_point_transposed"]
    again = mx.clean(tmp_path / "packed.onnx", tmp_path / "again.onnx", pack=True, verify=True)
    assert not again.changed and again.before == again.after


@pytest.mark.parametrize(("batch", "made"), [("N", ["Constant", "Mul"]), (3, [])])
def test_the_zeros_are_an_initializer_where_the_shape_is_known(batch, made):
    model = mixed(batch)
    assert [k for k in op_types(model) if k in ("Constant", "Mul")] == made and len(zero_points(model)) == 2
    before = op_types(model), zero_points(model)
    graph.attach_functions(model)  # a second time
    assert (op_types(model), zero_points(model)) == before
    inputs = random_inputs(model)
    expected = outputs_of(model, inputs)
    graph.drop_zero_points(model)
    assert len(zero_points(model)) == 1 and not {"Constant", "Mul"} & set(op_types(model))
    same_bits(expected, outputs_of(model, inputs))


def test_passes_look_behind_them_and_bodies_fit_in_the_end():
    model = mixed()
    record = run_passes(model, PIPELINE, verify=True)
    assert len(zero_points(record.model)) == 2 and "Transpose" not in op_types(record.model)
    assert not run_passes(record.model, [merge_quantizers]).changed
    assert op_types(run_passes(record.model, PIPELINE).model) == op_types(record.model)


def test_a_transformation_of_qonnx_comes_to_an_end_beside_them():
    wrapper = ModelWrapper(graph.to_proto(mixed()))
    for function in (infer_shapes, fold_constants):
        transformation = as_transformation(function)
        for _ in range(3):
            wrapper, modified = transformation.apply(wrapper)
        assert not modified, transformation.outcome.changed


def test_a_real_zero_point_of_that_name_stays():
    model = mixed(3)
    made = model.graph.initializers["q_scale_zero_point"]
    made.const_value = ir.tensor(np.full((3, 2), 2, np.float32))
    graph.attach_functions(model)
    assert "q_scale_zero_point" in zero_points(model)
