from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import FormatError
from mxexport.model import graph
from mxexport.model.editing import Editor, is_exact_factor
from mxexport.model.outcome import Outcome
from mxexport.numbers.numerics import codes_from_scale
from mxexport.passes.streamline._absorbing import Site, absorb, sites


def absorb_scales(model: ir.Model) -> Outcome:
    """(x @ Q(w, s)) * c -> x @ Q(w * c, s * c)  when c holds positive powers of two, one per output channel.

    Also behind Conv. Exact, and the weight keeps every code; the scales stay ones their format can hold.
    """
    editor = Editor(model)
    for site in sites(editor):
        reason = _why_not(site)
        if reason:
            editor.declined(site.multiply, f"not absorbed: {reason}")
            continue
        scale = site.weight.parameters[0]
        absorb(editor, site, site.weight.values * site.factor, scale * site.factor)
    return editor.finish()


def _why_not(site: Site) -> str | None:
    if not is_exact_factor(site.factor):
        return "the factor is not a power of two, and the weight's scale could not hold it; it stays one Mul"
    weight, c = site.weight, site.factor
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values, scale = weight.values * c, weight.parameters[0] * c
        exact = _same(values / c, weight.values) and _same(scale / c, weight.parameters[0])
    fmt = graph.quantizer_format(weight.node)
    if exact and fmt.is_mx:
        try:
            codes_from_scale(scale, fmt.step_frac_bits)
        except FormatError:
            exact = False
    return None if exact else f"the weight's scales would leave the range of {fmt.name}"


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)
