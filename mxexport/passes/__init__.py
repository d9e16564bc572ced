"""Graph passes: one file and one function each; see `outcome` for the contract. The lists below are the registry."""

from __future__ import annotations

from mxexport.passes.check import check
from mxexport.passes.cleaning import CleanReport, clean
from mxexport.passes.deduplicate_initializers import deduplicate_initializers
from mxexport.passes.driver import Record, run_passes
from mxexport.passes.exactness import approximate, bound_of
from mxexport.passes.extract_conv_bias import extract_conv_bias
from mxexport.passes.fix_shapes import fix_shapes
from mxexport.passes.fold_constants import fold_constants
from mxexport.passes.fold_weight_transposes import fold_weight_transposes
from mxexport.passes.infer_shapes import infer_shapes
from mxexport.passes.lower_batch_norm import lower_batch_norm
from mxexport.passes.name_nodes import name_nodes
from mxexport.passes.outcome import Outcome
from mxexport.passes.qonnx_interop import QONNX_CLEANUP, as_transformation, qonnx_cleanup, qonnx_pass
from mxexport.passes.remove_constant_inputs import remove_constant_inputs
from mxexport.passes.remove_dead_nodes import remove_dead_nodes
from mxexport.passes.remove_identities import remove_identities
from mxexport.passes.split_gemm import split_gemm
from mxexport.passes.unify_qonnx_domains import unify_qonnx_domains

TIDY = QONNX_CLEANUP
"""Bit-exact: the file computes what it computed, in fewer nodes."""

CLEAN = (
    name_nodes,
    unify_qonnx_domains,
    remove_constant_inputs,
    infer_shapes,
    split_gemm,
    extract_conv_bias,
    lower_batch_norm,
    fold_constants,
    remove_identities,
    fold_weight_transposes,
    deduplicate_initializers,
    remove_dead_nodes,
)
"""TIDY, and few operators in place of many: the compound ones as MatMul, Mul and Add, each within its bound."""

FOLD = ()
STREAMLINE = ()
PIPELINE = (*CLEAN, *FOLD, *STREAMLINE)
"""What `mx.clean` runs."""

__all__ = [
    "CLEAN",
    "FOLD",
    "PIPELINE",
    "STREAMLINE",
    "TIDY",
    "CleanReport",
    "Outcome",
    "Record",
    "approximate",
    "as_transformation",
    "bound_of",
    "check",
    "clean",
    "deduplicate_initializers",
    "extract_conv_bias",
    "fix_shapes",
    "fold_constants",
    "fold_weight_transposes",
    "infer_shapes",
    "lower_batch_norm",
    "name_nodes",
    "qonnx_cleanup",
    "qonnx_pass",
    "remove_constant_inputs",
    "remove_dead_nodes",
    "remove_identities",
    "run_passes",
    "split_gemm",
    "unify_qonnx_domains",
]
