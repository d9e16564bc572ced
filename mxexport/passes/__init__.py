"""Graph passes: one file and one function each; see `outcome` for the contract. Each folder's list is its registry."""

from __future__ import annotations

from mxexport.model.outcome import Outcome
from mxexport.passes.clean import (
    CLEAN,
    TIDY,
    deduplicate_initializers,
    extract_conv_bias,
    fold_constants,
    fold_shapes,
    fold_weight_transposes,
    infer_shapes,
    lower_batch_norm,
    name_nodes,
    remove_constant_inputs,
    remove_dead_nodes,
    remove_identities,
    split_gemm,
    unify_qonnx_domains,
)
from mxexport.passes.clean.fix_shapes import fix_shapes
from mxexport.passes.driver.cleaning import CleanReport, clean
from mxexport.passes.driver.fixed_point import Record, run_passes
from mxexport.passes.driver.qonnx_interop import as_transformation, qonnx_cleanup, qonnx_pass
from mxexport.passes.exactness import approximate, bound_of
from mxexport.passes.fold import (
    FOLD,
    contract_scales,
    fold_reshapes,
    fold_transposes,
    merge_quantizers,
    merge_residual_quantizers,
    remove_requantization,
)
from mxexport.passes.fold.fold_weights import fold_weights
from mxexport.passes.fold.pad_groups import pad_groups
from mxexport.passes.streamline import (
    STREAMLINE,
    absorb_affines,
    absorb_scales,
    merge_affines,
    move_scales,
    normalize_affines,
)

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
