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

from mxexport import graph, runtime
from mxexport.errors import ShapeError, UnsupportedError
from mxexport.ops import DOMAIN, OPERATORS
from mxexport.passes import execution, qonnx_cleanup, qonnx_pass, run_passes
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
        return next(iter(runtime.run_qonnx(proto, {name: x}).values()))
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
