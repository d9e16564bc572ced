"""Few plain operators in place of many; the list is the registry."""

from __future__ import annotations

from mxexport.passes.clean.deduplicate_initializers import deduplicate_initializers
from mxexport.passes.clean.extract_conv_bias import extract_conv_bias
from mxexport.passes.clean.fold_constants import fold_constants
from mxexport.passes.clean.fold_shapes import fold_shapes
from mxexport.passes.clean.fold_weight_transposes import fold_weight_transposes
from mxexport.passes.clean.infer_shapes import infer_shapes
from mxexport.passes.clean.lower_batch_norm import lower_batch_norm
from mxexport.passes.clean.name_nodes import name_nodes
from mxexport.passes.clean.remove_constant_inputs import remove_constant_inputs
from mxexport.passes.clean.remove_dead_nodes import remove_dead_nodes
from mxexport.passes.clean.remove_identities import remove_identities
from mxexport.passes.clean.split_gemm import split_gemm
from mxexport.passes.clean.unify_qonnx_domains import unify_qonnx_domains
from mxexport.passes.exactness import bound_of

CLEAN = (
    name_nodes,
    unify_qonnx_domains,
    remove_constant_inputs,
    infer_shapes,
    split_gemm,
    extract_conv_bias,
    lower_batch_norm,
    fold_constants,
    fold_shapes,
    remove_identities,
    fold_weight_transposes,
    deduplicate_initializers,
    remove_dead_nodes,
)
"""TIDY, and few operators in place of many: the compound ones as MatMul, Mul and Add, each within its bound."""

TIDY = tuple(each for each in CLEAN if bound_of(each) is None)
"""Bit-exact: the file computes what it computed, in fewer nodes."""

__all__ = ["CLEAN", "TIDY", *(each.__name__ for each in CLEAN)]
