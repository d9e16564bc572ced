"""Our passes in qonnx and qonnx's transformations here."""

from __future__ import annotations

import onnx_ir as ir
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation

from mxexport import graph
from mxexport.errors import MXExportError, UnsupportedError
from mxexport.ops import DOMAIN, qonnx_general
from mxexport.passes.deduplicate_initializers import deduplicate_initializers
from mxexport.passes.driver import Pass, run_passes
from mxexport.passes.exactness import Bound
from mxexport.passes.extract_conv_bias import extract_conv_bias as _extract_conv_bias
from mxexport.passes.fold_constants import fold_constants
from mxexport.passes.fold_shapes import fold_shapes
from mxexport.passes.fold_weight_transposes import fold_weight_transposes
from mxexport.passes.infer_shapes import infer_shapes
from mxexport.passes.name_nodes import name_nodes
from mxexport.passes.outcome import Outcome
from mxexport.passes.remove_constant_inputs import remove_constant_inputs
from mxexport.passes.remove_dead_nodes import remove_dead_nodes
from mxexport.passes.remove_identities import remove_identities
from mxexport.passes.unify_qonnx_domains import unify_qonnx_domains
from mxexport.runtime import check_domains

_PROTO_LIMIT = 1 << 31


class PassTransformation(Transformation):
    """A pass of ours for `ModelWrapper.transform`; `outcome` is what its last application did."""

    def __init__(self, function: Pass):
        super().__init__()
        self.function, self.outcome = function, Outcome()

    def apply(self, model: ModelWrapper) -> tuple[ModelWrapper, bool]:
        loaded = ir.from_proto(model.model)
        self.outcome = self.function(loaded)
        if not self.outcome.modified:
            return model, False
        graph.attach_functions(loaded)
        return ModelWrapper(graph.to_proto(loaded)), True


def as_transformation(function: Pass) -> PassTransformation:
    """`wrapper.transform(as_transformation(fold_constants))`."""
    return PassTransformation(function)


def qonnx_pass(transformation: Transformation, bound: Bound | None = None) -> Pass:
    """A qonnx transformation as a pass of ours; `bound` says how far it is from bit-exact (default: not at all).

    Function bodies are put aside meanwhile: qonnx executes operators by their domain.
    """

    def apply(model: ir.Model) -> Outcome:
        before = _without_bodies(model)
        check_domains(before)
        wrapper = ModelWrapper(before, make_deepcopy=True)
        try:
            after = wrapper.transform(transformation).model
        except Exception as error:  # qonnx raises assertions, KeyErrors and whatever numpy does
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(f"qonnx transformation {apply.__name__}: {reason}") from error
        if after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True):
            return Outcome()
        _replace_graph(model, ir.from_proto(after))
        return Outcome([f"graph: {len(before.graph.node)} nodes before, {len(after.graph.node)} after"])

    apply.__name__ = type(transformation).__name__
    apply.bound = bound
    return apply


def _without_bodies(model: ir.Model):
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size >= _PROTO_LIMIT:
        raise UnsupportedError(
            f"the model holds {size:,} bytes of weights; qonnx takes a protobuf of less than {_PROTO_LIMIT:,}"
        )
    copy = model.clone()
    for key in [key for key in copy.functions if key[0] in (DOMAIN, qonnx_general.DOMAIN)]:
        del copy.functions[key]
    return graph.to_proto(copy)


def _replace_graph(model: ir.Model, new: ir.Model) -> None:
    """Passes work in place: the model object takes the new graph, and its functions where they are still called."""
    model.graph = new.graph
    for key, function in new.functions.items():
        model.functions[key] = function


QONNX_CLEANUP: tuple[Pass, ...] = (
    name_nodes,
    unify_qonnx_domains,
    remove_constant_inputs,
    infer_shapes,
    fold_constants,
    fold_shapes,
    remove_identities,
    fold_weight_transposes,
    deduplicate_initializers,
    remove_dead_nodes,
)


def qonnx_cleanup(model: ModelWrapper, extract_conv_bias: bool = False) -> ModelWrapper:
    """As qonnx's `cleanup_model`, but quantizers of this domain stay, too, and the time grows with the graph only.

    Raises MXExportError where a pass fails; `model` stays as it is.
    """
    passes = (*QONNX_CLEANUP, _extract_conv_bias) if extract_conv_bias else QONNX_CLEANUP
    try:
        record = run_passes(ir.from_proto(model.model), passes)
    except MXExportError as error:
        raise type(error)(f"qonnx_cleanup: {error}") from error
    graph.attach_functions(record.model)
    return ModelWrapper(graph.to_proto(record.model))


__all__ = ["as_transformation", "qonnx_cleanup", "qonnx_pass"]
