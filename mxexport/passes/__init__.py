"""Graph passes: one file and one function each; see `outcome` for the contract. The lists below are the registry."""

from __future__ import annotations

from mxexport.model.outcome import Outcome
from mxexport.passes.clean.deduplicate_initializers import deduplicate_initializers
from mxexport.passes.clean.extract_conv_bias import extract_conv_bias
from mxexport.passes.clean.fix_shapes import fix_shapes
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
from mxexport.passes.driver.cleaning import CleanReport, clean
from mxexport.passes.driver.exactness import approximate, bound_of
from mxexport.passes.driver.fixed_point import Record, run_passes
from mxexport.passes.driver.qonnx_interop import QONNX_CLEANUP, as_transformation, qonnx_cleanup, qonnx_pass
from mxexport.passes.fold.contract_scales import contract_scales
from mxexport.passes.fold.fold_reshapes import fold_reshapes
from mxexport.passes.fold.fold_transposes import fold_transposes
from mxexport.passes.fold.fold_weights import fold_weights
from mxexport.passes.fold.merge_quantizers import merge_quantizers
from mxexport.passes.fold.merge_residual_quantizers import merge_residual_quantizers
from mxexport.passes.fold.pad_groups import pad_groups
from mxexport.passes.fold.remove_requantization import remove_requantization
from mxexport.passes.streamline.absorb_affines import absorb_affines
from mxexport.passes.streamline.absorb_scales import absorb_scales
from mxexport.passes.streamline.merge_affines import merge_affines
from mxexport.passes.streamline.move_scales import move_scales
from mxexport.passes.streamline.normalize_affines import normalize_affines

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
    fold_shapes,
    remove_identities,
    fold_weight_transposes,
    deduplicate_initializers,
    remove_dead_nodes,
)
"""TIDY, and few operators in place of many: the compound ones as MatMul, Mul and Add, each within its bound."""

FOLD = (
    merge_quantizers,
    contract_scales,
    fold_transposes,
    fold_reshapes,
    merge_residual_quantizers,
    remove_requantization,
)
"""Scales contracted, quantizers merged, layouts folded into codes and scales: every MX code stays."""

STREAMLINE = (
    normalize_affines,
    move_scales,
    absorb_scales,
    merge_affines,
    absorb_affines,
)
"""Factors and offsets moved together and absorbed where that is exact or within the bound of the pass."""

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
    "absorb_affines",
    "absorb_scales",
    "approximate",
    "as_transformation",
    "bound_of",
    "clean",
    "contract_scales",
    "deduplicate_initializers",
    "extract_conv_bias",
    "fix_shapes",
    "fold_constants",
    "fold_reshapes",
    "fold_shapes",
    "fold_transposes",
    "fold_weight_transposes",
    "fold_weights",
    "infer_shapes",
    "lower_batch_norm",
    "merge_affines",
    "merge_quantizers",
    "merge_residual_quantizers",
    "move_scales",
    "name_nodes",
    "normalize_affines",
    "pad_groups",
    "qonnx_cleanup",
    "qonnx_pass",
    "remove_constant_inputs",
    "remove_dead_nodes",
    "remove_identities",
    "remove_requantization",
    "run_passes",
    "split_gemm",
    "unify_qonnx_domains",
]
