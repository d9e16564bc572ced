"""Live modules of AIMET (aimet-torch 2.42): recognised, and carried where all of their quantizers are left out.

Its MXFP4 and NVFP4 are ways to prepare a weight that int8 per channel quantizes again, between int8 activations.
"""

from __future__ import annotations

from torch import nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.live.layers import ToolLayer

TOOL, PACKAGE = "AIMET", "aimet_torch"


def read(module: nn.Module, kind: type[nn.Module]) -> ToolLayer | None:
    """None where a layer has no quantizer. Raises UnsupportedError."""
    tables = ("param_quantizers", "input_quantizers", "output_quantizers")
    held = {table: getattr(module, table, None) or () for table in tables}
    active = [name for name, table in held.items() for found in _values(table) if found is not None]
    if active:
        raise UnsupportedError(
            f"AIMET's {', '.join(dict.fromkeys(active))} quantize a {kind.__name__} to integers per channel or tensor, "
            "also on top of MXFP4 weights; that is not carried: quantize the float model with mx.quantize_model"
        )
    return None


def _values(table: object) -> list:
    return list(table.values() if hasattr(table, "values") else table)
