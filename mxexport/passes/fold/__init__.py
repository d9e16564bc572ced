"""Quantizers merged and folded; the list is the registry. `fold_weights` and `pad_groups` run on request."""

from __future__ import annotations

from mxexport.passes.fold.contract_scales import contract_scales
from mxexport.passes.fold.fold_reshapes import fold_reshapes
from mxexport.passes.fold.fold_transposes import fold_transposes
from mxexport.passes.fold.merge_quantizers import merge_quantizers
from mxexport.passes.fold.merge_residual_quantizers import merge_residual_quantizers
from mxexport.passes.fold.remove_requantization import remove_requantization

FOLD = (
    merge_quantizers,
    contract_scales,
    fold_transposes,
    fold_reshapes,
    merge_residual_quantizers,
    remove_requantization,
)
"""Scales contracted, quantizers merged, layouts folded into codes and scales: every MX code stays."""

__all__ = ["FOLD", *(each.__name__ for each in FOLD)]
