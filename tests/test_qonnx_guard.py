"""A file does not choose what qonnx imports, opens or evaluates; other orders in it are left out."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation
from qonnx.transformation.general import GiveUniqueNodeNames

from mxexport.errors import OptionError, UnsupportedError
from mxexport.passes import qonnx_cleanup, qonnx_pass, run_passes
from mxexport.running import execution, executors
from mxexport.running.guards import guarded_copy
from mxexport.targets import finn_base, hls4ml_project
from tests.helpers import assert_equal_bits, single_node_model

X = np.float32([[-1.5, 0.0, 2.25]])
QUANT = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}


def one_node(op_type: str, domain: str, inputs=("x",), **attributes) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    node = helper.make_node(op_type, list(inputs), ["y"], name="odd", domain=domain, **attributes)
    given = {"s": 0.5, "z": 0.0, "b": 4.0}
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in given.items()]
    imports = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    graph = helper.make_graph([node], "g", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def with_body(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The file's own body for the one operator: Neg."""
    node = proto.graph.node[0]
    names = [f"i{i}" for i in range(len(node.input))]
    body = [helper.make_node("Neg", names[:1], ["o"])]
    attributes = [a.name for a in node.attribute]
    imports = [helper.make_opsetid("", 20)]
    function = helper.make_function(node.domain, node.op_type, names, ["o"], body, imports, attributes)
    proto.functions.append(function)
    return proto


def shadowed(domain: str = "onnx.brevitas") -> onnx.ModelProto:
    return with_body(one_node("Quant", domain, ("x", "s", "z", "b"), **QUANT))


def everywhere(proto: onnx.ModelProto, path) -> dict:
    """Every place that hands a model to qonnx."""
    onnx.save(proto, path)
    return {
        "run_qonnx": lambda: executors.run_qonnx(proto, X),
        "run_finn_base": lambda: executors.with_static_shapes(proto, {"x": X.shape}),
        "qonnx_pass": lambda: run_passes(ir.from_proto(proto), [qonnx_pass(GiveUniqueNodeNames())]),
        "qonnx_cleanup": lambda: qonnx_cleanup(ModelWrapper(proto)),
        "hls4ml": lambda: hls4ml_project._prepared(path),
    }


@pytest.mark.parametrize(
    ("proto", "why"),
    [
        (one_node("Op", "stranger"), "domain 'stranger'"),
        (one_node("GenericPartition", "qonnx.custom_op.general", model="other.onnx"), "names another file"),
        (shadowed(), "own body for onnx.brevitas.Quant"),
        (with_body(one_node("Trunc", "qonnx.custom_op.general")), "own body for qonnx.custom_op.general.Trunc"),
    ],
    ids=["domain", "partition", "brevitas body", "qonnx body"],
)
def test_refused_wherever_qonnx_would_get_it(tmp_path, proto, why):
    for place, hand_over in everywhere(proto, tmp_path / "m.onnx").items():
        with pytest.raises(UnsupportedError, match=f"node 'odd': .*{why}"):
            hand_over()
            pytest.fail(f"{place} let it pass")


def test_a_body_of_the_file_counts_where_qonnx_is_not_asked():
    assert_equal_bits(executors.run(shadowed(), X)["y"], -X)
    assert_equal_bits(execution.execute(ir.from_proto(shadowed()), {"x": X})["y"], -X)


def test_a_standard_name_in_a_body_shadows_nothing():
    proto = with_body(one_node("Relu", ""))
    for execute in executors.EXECUTORS.values():
        assert_equal_bits(execute(proto, X)["y"], np.maximum(X, 0))


class Evaluates(Transformation):
    def apply(self, model):
        model.get_tensor_layout("x"), model.get_tensor_sparsity("x")
        return model, False


def test_annotations_are_not_evaluated(tmp_path):
    proto = one_node("Relu", "")
    code, mark = f"open({str(tmp_path / 'mark')!r}, 'w')", tmp_path / "mark"
    annotation = proto.graph.quantization_annotation.add(tensor_name="x")
    for key, value in {"tensor_layout": code, "tensor_sparsity": "{'a': 1}", "finn_datatype": "FLOAT32"}.items():
        annotation.quant_parameter_tensor_names.add(key=key, value=value)
    run_passes(ir.from_proto(proto), [qonnx_pass(Evaluates())])
    for hand_over in everywhere(proto, tmp_path / "m.onnx").values():
        hand_over()
    kept = guarded_copy(proto).graph.quantization_annotation[0].quant_parameter_tensor_names
    assert not mark.exists() and [e.key for e in kept] == ["tensor_sparsity", "finn_datatype"]


def test_orders_for_another_executor_are_left_out(tmp_path):
    attributes = {"axis": 1, "group_size": 2, "bit_width": 4, "signed": 1, "narrow": 1}
    proto = single_node_model("GroupwiseQuant", [X, np.float32([[0.5, 0.25]])], attributes)
    proto.graph.node[0].attribute.append(helper.make_attribute("exec_mode", "rtlsim"))
    proto.metadata_props.add(key="exec_mode", value="rtlsim")
    proto.metadata_props.add(key="author", value="me")
    given = {"X": X, "scale": np.float32([[0.5, 0.25]])}
    assert_equal_bits(executors.run_qonnx(proto, given)["Y"], np.float32([[-1.5, 0.0, 1.75]]))
    if finn_base.is_installed():
        assert_equal_bits(finn_base.run_finn_base(proto, given)["Y"], np.float32([[-1.5, 0.0, 1.75]]))
    copy = guarded_copy(proto)
    assert [e.key for e in copy.metadata_props] == ["author"] and len(proto.metadata_props) == 2
    assert {a.name for a in copy.graph.node[0].attribute} == set(attributes)
    assert qonnx_cleanup(ModelWrapper(proto)).get_metadata_prop("exec_mode") is None


def test_errors_of_the_executors_are_ours():
    with pytest.raises(UnsupportedError, match="qonnx cannot execute the model: .*signed"):
        executors.run_qonnx(one_node("Quant", "onnx.brevitas", ("x", "s", "z", "b")), X)
    with pytest.raises(UnsupportedError, match="reference evaluator cannot execute the model: .*Foo"):
        executors.run_reference(one_node("Foo", ""), X)
    with pytest.raises(OptionError, match="no tensor 'q'"):
        executors.run_qonnx(one_node("Relu", ""), X, ["q"])


def test_verification_names_what_the_guard_refused():
    proto = one_node("Trunc", "qonnx.custom_op.general", ("x", "s", "z", "b"))
    proto.graph.node.insert(0, helper.make_node("Op", ["x"], ["u"], name="far", domain="stranger"))
    with pytest.raises(UnsupportedError, match="node 'far': domain 'stranger'") as caught:
        execution.execute(ir.from_proto(proto), {"x": X})
    assert [where for where, _ in caught.value.problems] == ["node 'far'"]
