"""Our passes in qonnx and qonnx's transformations here."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation

from mxexport.errors import MXExportError, UnsupportedError
from mxexport.model import graph
from mxexport.model.outcome import Outcome
from mxexport.model.writer import tensor_bytes
from mxexport.passes.clean import TIDY
from mxexport.passes.clean.extract_conv_bias import extract_conv_bias as _extract_conv_bias
from mxexport.passes.driver.fixed_point import Pass, run_passes
from mxexport.passes.driver.transforming import transformed
from mxexport.passes.exactness import Bound
from mxexport.running.guards import guarded_copy

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

    qonnx gets a guarded copy (`qonnx_guard`), without function bodies: it executes operators by their domain. It is
    applied once in a run, until qonnx itself is through with it; quantizers are kept, whatever it folds.
    """

    def apply(model: ir.Model) -> Outcome:
        before = guarded_copy(_small_proto(model))
        after = transformed(before, transformation, apply.__name__)
        if after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True):
            return Outcome()
        model.graph = ir.from_proto(after).graph  # passes work in place; functions stay
        return Outcome([f"graph: {len(before.graph.node)} nodes before, {len(after.graph.node)} after"])

    apply.__name__ = type(transformation).__name__
    apply.bound, apply.once = bound, True
    return apply


def _small_proto(model: ir.Model) -> onnx.ModelProto:
    size = tensor_bytes(model)
    if size >= _PROTO_LIMIT:
        raise UnsupportedError(
            f"the model holds {size:,} bytes of weights; qonnx takes a protobuf of less than {_PROTO_LIMIT:,}"
        )
    return graph.to_proto(model.clone())


def qonnx_cleanup(model: ModelWrapper, extract_conv_bias: bool = False) -> ModelWrapper:
    """As qonnx's `cleanup_model`, but quantizers of this domain stay, too, and the time grows with the graph only.

    Raises MXExportError where a pass fails or qonnx must not have the model (`qonnx_guard`); `model` stays as it is.
    """
    passes = (*TIDY, _extract_conv_bias) if extract_conv_bias else TIDY
    try:
        record = run_passes(ir.from_proto(guarded_copy(model.model, keep_bodies=True)), passes)
    except MXExportError as error:
        error.args = (f"qonnx_cleanup: {error}",)  # the type and its list of problems stay
        raise
    graph.attach_functions(record.model)
    return ModelWrapper(graph.to_proto(record.model))


__all__ = ["as_transformation", "qonnx_cleanup", "qonnx_pass"]
