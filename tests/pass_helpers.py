"""Small graphs for tests of passes and targets, from ONNX text or node by node; the claims every pass is held to."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from mxexport.model import graph
from mxexport.model.editing import new_initializer
from mxexport.numbers import bits, quantized
from mxexport.numbers.formats import get_format
from mxexport.ops import DOMAIN, GroupwiseQuant, MXFloatQuant
from mxexport.passes import bound_of, run_passes
from mxexport.running import executors

FLOAT = ir.TensorType(ir.DataType.FLOAT)
HEADER = '<ir_version: 10, opset_import: ["" : 20, "mxexport.ops" : 1, "qonnx.custom_op.general" : 1]>'


ARRAYS = {
    "w": np.eye(4, 3, dtype=np.float32), "b": np.ones(3, np.float32), "nan": np.array([1, np.nan, 1], np.float32),
    "step": np.float32(0.5), "zero": np.float32(0), "four": np.float32(4),
}  # fmt: skip
"""A table of constants for small quantized layers: weight and bias, scale, zero point and bit width."""


def model(
    body: str,
    inputs: str = "float[2,4] x",
    outputs: str = "float[2,4] y",
    constants: str = "",
    table: dict[str, np.ndarray] | None = None,
    **arrays,
) -> ir.Model:
    """A model from the text of its nodes; `arrays`, and those of `table` that nodes read, become initializers."""
    names = f"<{constants}>" if constants else ""
    made = ir.from_onnx_text(f"{HEADER} g ({inputs}) => ({outputs}) {names} {{ {body} }}")
    read = {v.name for node in made.graph.all_nodes() for v in node.inputs if v is not None}
    arrays |= {name: array for name, array in (table or {}).items() if name in read}
    for name, array in arrays.items():
        uses = [
            (n, i) for n in made.graph.all_nodes() for i, v in enumerate(n.inputs) if v is not None and v.name == name
        ]
        value = new_initializer(made.graph, name, np.asarray(array))
        for node, i in uses:
            node.replace_input_with(i, value)
    return made


class Build:
    """`b.op("Relu", x)` appends a node; arrays become initializers; shapes are found by executing on random inputs."""

    def __init__(self, **inputs: tuple):
        self.inputs = [ir.Value(name=n, shape=ir.Shape(s), type=FLOAT) for n, s in inputs.items()]
        self.graph = ir.Graph(self.inputs, [], nodes=[], opset_imports={"": 20}, name="g")
        self.count = 0

    def const(self, array, name: str | None = None) -> ir.Value:
        self.count += 1
        return new_initializer(self.graph, name or f"c{self.count}", np.asarray(array))

    def op(self, op_type: str, *operands, name: str | None = None, domain: str = "", **attributes) -> ir.Value:
        self.count += 1
        name = name or f"{op_type.lower()}{self.count}"
        values = [o if o is None or isinstance(o, ir.Value) else self.const(o, f"{name}_c{i}")
                  for i, o in enumerate(operands)]  # fmt: skip
        node = ir.node(op_type, values, attributes, name=name, domain=domain)
        node.outputs[0].name, node.outputs[0].type = name, FLOAT
        self.graph.append(node)
        return node.outputs[0]

    def quant(self, x: ir.Value, fmt: str, axis: int, name: str, scale=None, **changes) -> ir.Value:
        """A quantizer of `fmt`; `scale` None: MXScale of x at run time."""
        fmt = get_format(fmt)
        if scale is None:
            scale = self.op(
                "MXScale", x, name=f"{name}_scale", domain=DOMAIN, axis=axis, group_size=fmt.group_size,
                emax=fmt.element.emax, round_bias=0, frac_bits=fmt.step_frac_bits, code_min=0, code_max=254,
            )  # fmt: skip
        operator = MXFloatQuant if fmt.is_float else GroupwiseQuant
        attributes = operator.attributes_of(fmt.element) | {"axis": axis, "group_size": fmt.group_size} | changes
        return self.op(operator.op_type(), x, scale, name=name, domain=DOMAIN, **attributes)

    def weight(self, array: np.ndarray, fmt: str, axis: int, name: str) -> ir.Value:
        q = quantized.quantize(array, fmt, axis)
        return self.quant(self.const(array, f"{name}.weight"), fmt, axis, f"{name}.weight_quant",
                          self.const(q.scale, f"{name}.scale"))  # fmt: skip

    def model(self, *outputs: ir.Value) -> ir.Model:
        self.graph.outputs.extend(outputs)
        model = ir.Model(self.graph, ir_version=10)
        if any(node.domain == DOMAIN for node in self.graph):
            model.opset_imports[DOMAIN] = 1
        return infer(model)


def infer(model: ir.Model) -> ir.Model:
    """Shapes of standard nodes by onnx, of ours by their own rule; executing needs our function bodies."""
    graph.attach_functions(model)
    graph.attach_standard_functions(model)
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(graph.to_proto(model), data_prop=True))
    for old, new in zip(model.graph.all_nodes(), inferred.graph.all_nodes(), strict=True):
        for a, b in zip(old.outputs, new.outputs, strict=True):
            a.shape, a.type = b.shape, b.type
    return model


def random_inputs(model: ir.Model, seed: int = 0, batch: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        v.name: rng.standard_normal([d if isinstance(d, int) else batch for d in v.shape]).astype(np.float32)
        for v in model.graph.inputs
    }


def outputs_of(model: ir.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model = model.clone()
    graph.attach_functions(model)
    graph.attach_standard_functions(model)
    return execute(model, inputs)


def execute(model: ir.Model, inputs: dict[str, np.ndarray], names: list[str] | None = None) -> dict[str, np.ndarray]:
    """As the graph says: onnxruntime's own optimizer would fuse a Mul into the Conv before it, which rounds."""
    proto = executors.with_outputs(graph.to_proto(model), names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [output.name for output in proto.graph.output]
    return dict(zip(wanted, session.run(wanted, inputs), strict=True))


def apply(function, model: ir.Model, seed: int = 0):
    """Run the pass; every tensor that keeps its name keeps its bits, every output its name, shapes are right."""
    inputs = random_inputs(model, seed)
    outputs, before = [v.name for v in model.graph.outputs], tensors_of(model, inputs)
    outcome = function(model)
    after = tensors_of(model, inputs)
    assert outputs == [v.name for v in model.graph.outputs]
    same_bits(*({name: array for name, array in a.items() if name in b} for a, b in ((before, after), (after, before))))
    check_shapes(model, after)
    return outcome


def apply_within(function, model: ir.Model, bound: float, seed: int = 0):
    """Like `apply` for a pass that rounds: outputs within `bound` (absolute)."""
    assert function.bound.reason and function.bound.ulp >= 0
    inputs = random_inputs(model, seed)
    before = tensors_of(model, inputs)
    outcome = function(model)
    after = tensors_of(model, inputs)
    assert set(before) & set(after) >= {v.name for v in model.graph.outputs}
    for name in set(before) & set(after):
        assert before[name].shape == after[name].shape, name
        assert np.abs(after[name].astype(np.float64) - before[name]).max() <= bound, name
    check_shapes(model, after)
    return outcome


def same_bits(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
    assert set(before) == set(after)
    for name, array in before.items():
        assert array.shape == after[name].shape, name
        assert bits.equal_bits(array, after[name]).all(), name


def check_shapes(model: ir.Model, tensors: dict[str, np.ndarray]) -> None:
    """Every tensor has the shape that the graph declares for it."""
    for value in (v for node in model.graph for v in node.outputs if v.shape is not None):
        shape = tensors[value.name].shape
        assert len(value.shape) == len(shape), value.name
        assert all(not isinstance(d, int) or d == n for d, n in zip(value.shape, shape, strict=True)), value.name


def tensors_of(model: ir.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor that nodes of the main graph make."""
    model = model.clone()
    graph.attach_functions(model)
    graph.attach_standard_functions(model)
    return execute(model, inputs, [v.name for node in model.graph for v in node.outputs if v.name])


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def node_named(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def producer_chain(value: ir.Value) -> list[str]:
    """Operator types from a value back along first inputs."""
    chain = []
    while value is not None and value.producer() is not None:
        chain.append(value.producer().op_type)
        value = value.producer().inputs[0]
    return chain


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
