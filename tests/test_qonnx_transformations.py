"""Every transformation of the installed qonnx on files of ours: values and quantizers stay, or the refusal says why."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import warnings
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import qonnx.transformation
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation
from qonnx.transformation.change_batchsize import ChangeBatchSize
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.transformation.fold_constants import FoldConstants
from qonnx.transformation.general import (
    GiveReadableTensorNames,
    GiveUniqueNodeNames,
    RemoveUnusedTensors,
    SortGraph,
)
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model

from mxexport.errors import ShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.ops import DOMAIN, OPERATORS
from mxexport.passes import qonnx_cleanup, qonnx_pass, run_passes
from mxexport.running import execution, executors
from tests import qonnx_networks
from tests.helpers import assert_equal_bits, assert_equal_up_to_turned_codes
from tests.pass_helpers import model

ROUNDS = {  # what they put in the place of nodes sums or multiplies in another order
    "BatchNormToAffine", "ConvertToChannelsLastAndClean", "ExtractBiasFromConv", "GemmToMatMul",
    "InsertChannelsLastDomainsAndTrafos", "LowerConvsToMatMul",
}  # fmt: skip
REFUSED = {
    "PropagateMasks": "does not end",  # where a Conv has a bias
    "PruneChannels": "Conv nodes with bias|non-static weights",
}
ARGUMENTS = {
    "ApplyMasks": ({},),
    "ChangeBatchSize": (1,),
    "ComposedTransformation": ([InferShapes()],),
    "ExposeIntermediateTensorsLambda": (lambda *_: False,),
    "ExposeIntermediateTensorsPatternList": (["nothing"],),
    "ExtendPartition": ([0],),
    "FixedPointQuantizeParams": ("FIXED<32,16>", lambda _: False),
    "FixedPointQuantizeParamsFromDict": ({},),
    "FoldConstantsFiltered": (lambda *_: True,),
    "InsertIdentity": ("first", "consumer"),
    "InsertTopK": (1,),
    "MergeONNXModels": ("model",),
    "MoveOpPastFork": (["Add", "Mul", "Transpose"],),
    "PartitionFromDict": ({}, "nowhere"),
    "PartitionFromLambda": (lambda _: -1, "nowhere"),
    "PruneChannels": ({},),
    "QuantizeGraph": ({},),
    "RebalanceIm2Col": (3,),
}


def installed() -> dict[str, type]:
    found = {}
    for entry in pkgutil.walk_packages(qonnx.transformation.__path__, "qonnx.transformation."):
        for name, kind in vars(importlib.import_module(entry.name)).items():
            concrete = inspect.isclass(kind) and issubclass(kind, Transformation) and not inspect.isabstract(kind)
            if concrete and kind.__module__ == entry.name:
                found[name] = kind
    return found


TRANSFORMATIONS = installed()


def made(name: str, proto: onnx.ModelProto) -> Transformation:
    given = {"first": proto.graph.input[0].name, "model": before_it(proto)}
    arguments = [given.get(a, a) if isinstance(a, str) else a for a in ARGUMENTS.get(name, ())]
    return TRANSFORMATIONS[name](*arguments)


def before_it(proto: onnx.ModelProto) -> ModelWrapper:
    """A model of one Relu, whose output has the shape of the input of `proto`."""
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("in", "out"))
    g = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["in"], ["out"], name="in front")], "g", [x], [y])
    return ModelWrapper(onnx.helper.make_model(g, opset_imports=proto.opset_import))


def quantizers(proto: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in proto.graph.node if node.domain == DOMAIN)


def executed(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    name = proto.graph.input[0].name
    if any(node.domain.endswith("channels_last") for node in proto.graph.node):
        return next(iter(executors.run_qonnx(proto, {name: x}).values()))
    return next(iter(execution.execute(ir.from_proto(proto), {name: x}).values()))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Name -> proto, an input and its output."""
    folder, known = tmp_path_factory.mktemp("networks"), {}

    def get(name: str):
        if name not in known:
            proto = onnx.load(qonnx_networks.write(name, folder))
            del proto.functions[:]  # the bodies, which qonnx does not read and passes would copy each time
            x = np.random.default_rng(0).random(qonnx_networks.NETWORKS[name][1], np.float32)
            known[name] = proto, x, executed(proto, x)
        return known[name]

    return get


@pytest.fixture(autouse=True)
def quiet():
    """qonnx warns and prints as it goes."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def computed(proto: onnx.ModelProto) -> list:
    """What decides the values: nodes and constants."""
    return [list(proto.graph.node), sorted(t.SerializeToString() for t in proto.graph.initializer)]


@pytest.mark.parametrize("network", ["residual", "attention", "brevitas"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_values_and_quantizers_stay(networks, name, network):
    proto, x, expected = networks(network)
    try:
        after = graph.to_proto(run_passes(ir.from_proto(proto), [qonnx_pass(made(name, proto))]).model)
    except UnsupportedError as error:
        assert re.search(f"qonnx transformation {name}: .*({REFUSED.get(name, 'nothing')})", str(error))
        return
    assert quantizers(after) == quantizers(proto)
    if computed(after) == computed(proto):
        return
    actual = executed(after, np.moveaxis(x, 1, -1) if name == "MakeInputChannelsLast" else x)
    if name == "InsertTopK":
        assert_equal_bits(actual, expected.argmax(-1)[..., None])
    elif name in ROUNDS:
        assert_equal_up_to_turned_codes(actual, expected)
    else:
        assert_equal_bits(actual, expected)


def test_a_model_put_in_front_is_executed(networks):
    proto, x, expected = networks("residual")
    after = graph.to_proto(run_passes(ir.from_proto(proto), [qonnx_pass(made("MergeONNXModels", proto))]).model)
    assert "Relu" in [node.op_type for node in after.graph.node if node.input[0] == after.graph.input[0].name]
    assert_equal_bits(executed(after, x), expected)  # no input is negative


CHAIN = (InferShapes, FoldConstants, GiveUniqueNodeNames, InferDataTypes, RemoveUnusedTensors, SortGraph)


@pytest.mark.parametrize("network", qonnx_networks.NETWORKS)
def test_the_usual_chain_as_passes(networks, network):
    proto, x, expected = networks(network)
    passes = [qonnx_pass(ChangeBatchSize(1)), *(qonnx_pass(kind()) for kind in CHAIN)]
    record = run_passes(ir.from_proto(proto), passes, verify={proto.graph.input[0].name: x})
    after = qonnx_cleanup(ModelWrapper(graph.to_proto(record.model))).model
    assert quantizers(after) == quantizers(proto)
    assert_equal_bits(executed(after, x), expected)


@pytest.mark.parametrize("network", qonnx_networks.NETWORKS)
def test_the_usual_chain_in_qonnx_itself(networks, network):
    """FoldConstants folds quantizers of weights unless it is told not to; cleanup_model cannot be told."""
    proto, x, expected = networks(network)
    wrapper = ModelWrapper(proto, make_deepcopy=True).transform(ChangeBatchSize(1))
    kept = FoldConstants(exclude_op_types=["Quant", "BipolarQuant", *OPERATORS])
    for transformation in (kept if kind is FoldConstants else kind() for kind in CHAIN):
        wrapper = wrapper.transform(transformation)
    assert wrapper.check_all_tensor_shapes_specified()
    assert quantizers(wrapper.model) == quantizers(proto)
    for after in (wrapper, wrapper.transform(GiveReadableTensorNames()), cleanup_model(wrapper)):
        assert_equal_bits(executed(after.model, x), expected)


# --- what our operators and passes owe qonnx ------------------------------------------------------------------

SCALED = "s = mxexport.ops.MXScale<axis=1, group_size=2, emax=0, round_bias=0, frac_bits=0, code_min=0, code_max=254>"


def test_another_batch_in_qonnx_itself(tmp_path):
    """ChangeBatchSize forgets every shape inside; the file had an open batch."""
    proto = onnx.load(qonnx_networks.write("residual", tmp_path, dynamic_batch=True))
    x = np.random.default_rng(1).random((3, 3, 4, 4), np.float32)
    wrapper = ModelWrapper(proto, make_deepcopy=True).transform(ChangeBatchSize(3)).transform(InferShapes())
    shapes = [wrapper.get_tensor_shape(name) for node in wrapper.graph.node for name in node.output]
    assert all(shape and 0 not in shape for shape in shapes) and [3, 4, 4, 4] in shapes and [3, 1, 4, 4] in shapes
    assert_equal_bits(executed(wrapper.model, x), executed(proto, x))


@pytest.mark.parametrize("network", ["residual", "brevitas"])
def test_channels_last_in_qonnx_itself(networks, network):
    proto, x, expected = networks(network)
    after = ModelWrapper(proto, make_deepcopy=True).transform(ConvertToChannelsLastAndClean()).model
    assert any(node.domain.endswith("channels_last") for node in after.graph.node)
    assert_equal_up_to_turned_codes(executors.run_qonnx(after, x).popitem()[1], expected)


def test_open_lengths_stay_open_where_qonnx_reads_them_as_none():
    made = model(f"{SCALED}(x)  y = Relu(s)", "float[batch,4] x", "float[batch,2] y")
    wrapper = ModelWrapper(graph.to_proto(made)).transform(InferShapes())
    lengths = wrapper.get_tensor_valueinfo("s").type.tensor_type.shape.dim
    assert [(d.dim_param, d.dim_value) for d in lengths] == [("batch", 0), ("", 2)]
    channels = model("y = Relu(x)", "float[batch,2,3,4] x", "float[batch,2,3,4] y")
    after = run_passes(channels, [qonnx_pass(made_of("MakeInputChannelsLast"))]).model
    assert str(after.graph.inputs[0].shape) == "[batch,3,4,2]"


def made_of(name: str) -> Transformation:
    return TRANSFORMATIONS[name](*ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", ["GiveUniqueTensorNames", "GiveRandomTensorNames", "InsertIdentityOnAllTopLevelIO"])
def test_a_tensor_read_twice_by_a_node_keeps_its_name_in_both_places(name):
    made = model("n = Neg(x)  m = Mul(n, n)  y = Where(t, c, c)  z = Add(m, y)", outputs="float[2,4] z",
                 t=np.ones((2, 4), bool), c=np.float32(3))  # fmt: skip
    before = made.clone()
    after = run_passes(made, [qonnx_pass(made_of(name))]).model
    assert {n.op_type for n in after.graph} - {"Identity"} == {"Neg", "Mul", "Where", "Add"}
    x = np.random.default_rng(0).random((2, 4), np.float32)
    given, expected = {after.graph.inputs[0].name: x}, next(iter(execution.execute(before, {"x": x}).values()))
    assert_equal_bits(next(iter(execution.execute(after, given).values())), expected)


class Drops(Transformation):
    """What folding does: the quantizer goes, its input goes on."""

    def apply(self, model):
        node = next(n for n in model.graph.node if n.op_type == "MXScale")
        model.rename_tensor(node.output[0], node.input[0])
        model.graph.node.remove(node)
        return model, False


class Halves(Transformation):
    def apply(self, model):
        model.graph.node[-1].input[0] = "gone"
        return model, False


class Restless(Transformation):
    def apply(self, model):
        return model, True


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Drops, "it drops 1 MXScale"), (Halves, "reads 'gone', which nothing makes"), (Restless, "it does not end")],
)
def test_what_a_transformation_breaks_is_refused(kind, why):
    made = model(f"{SCALED}(x)  r = Relu(s)  y = Add(r, s)", outputs="float[2,2] y")
    with pytest.raises(UnsupportedError, match=f"pass {kind.__name__}: qonnx transformation {kind.__name__}: .*{why}"):
        run_passes(made, [qonnx_pass(kind())])


def test_a_transformation_is_applied_once_in_a_run():
    record = run_passes(model("y = Relu(x)"), [qonnx_pass(TRANSFORMATIONS["InsertIdentity"]("x", "consumer"))])
    assert [node.op_type for node in record.model.graph] == ["Identity", "Relu"]


def test_operators_name_the_node_whose_shapes_do_not_fit():
    made = model(f"[odd] {SCALED.replace('axis=1', 'axis=2')}(x)  y = Relu(s)", outputs="float[2,2] y")
    with pytest.raises(ShapeError, match="node 'odd': .*axis 2 is outside a tensor of rank 2"):
        ModelWrapper(graph.to_proto(made)).transform(InferShapes())
