"""Small models in ONNX text, and the claims every pass is held to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.passes import bound_of, run_passes

HEADER = '<ir_version: 10, opset_import: ["" : 20, "mxexport.ops" : 1, "qonnx.custom_op.general" : 1]>'


def model(
    body: str, inputs: str = "float[2,4] x", outputs: str = "float[2,4] y", constants: str = "", **arrays
) -> ir.Model:
    """A model from the text of its nodes; `arrays` become initializers."""
    names = f"<{constants}>" if constants else ""
    made = ir.from_onnx_text(f"{HEADER} g ({inputs}) => ({outputs}) {names} {{ {body} }}")
    for name, array in arrays.items():
        tensor = ir.tensor(np.asarray(array))
        uses = [
            (n, i) for n in made.graph.all_nodes() for i, v in enumerate(n.inputs) if v is not None and v.name == name
        ]
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        made.graph.register_initializer(value)
        for node, i in uses:
            node.replace_input_with(i, value)
    return made


def op_types(made: ir.Model) -> list[str]:
    return [node.op_type for node in made.graph]


def fires(function, made: ir.Model) -> ir.Model:
    """The pass changes the model, a second run does not, and execution before and after agrees as it promises."""
    assert function(made.clone()).modified
    record = run_passes(made, [function], verify=True)
    assert all(step.verified for step in record.steps if step.changed)
    assert not function(record.model).modified
    if bound_of(function) is None:
        assert {step.verified for step in record.steps if step.changed} == {"equal bits"}
    return record.model


def declines(function, made: ir.Model, reason: str) -> None:
    """The pass leaves the model alone and says why."""
    before = op_types(made)
    outcome = function(made)
    assert not outcome.modified and op_types(made) == before
    assert any(reason in why for _, why in outcome.declined), outcome.declined


def silent(function, made: ir.Model) -> None:
    """Nothing to do and nothing to report."""
    outcome = function(made)
    assert not outcome.modified and not outcome.declined, outcome
