from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor, is_exact_factor
from mxexport.model.outcome import Outcome
from mxexport.numbers.formats import GroupFormat
from mxexport.numbers.numerics import element_codes
from mxexport.passes.exactness import approximate
from mxexport.passes.fold._weights import Weight
from mxexport.passes.streamline._absorbing import Site, absorb, sites


@approximate(
    ulp=256,
    reason="the factor is rounded into the weight's float32 scale before the sum instead of after it: within "
    "2**-22 of the sum of the magnitudes of the products, plus the rounding of the sum itself",
)
def absorb_affines(model: ir.Model) -> Outcome:
    """(x @ Q(w, s)) * c -> x @ Q(w', s * c)  when s is a float32 scale and c > 0, one per output channel.

    Also behind Conv. The weight keeps every code: w' holds the values of those codes under the new scale. MX weights
    are left alone, since E8M0 holds powers of two only; absorb_scales takes those.
    """
    editor = Editor(model)
    for site in sites(editor):
        if is_exact_factor(site.factor):
            continue
        found = _rescaled(site)
        if isinstance(found, str):
            editor.declined(site.multiply, f"not absorbed: {found}")
        else:
            absorb(editor, site, *found)
    return editor.finish()


def _rescaled(site: Site) -> tuple[np.ndarray, np.ndarray] | str:
    weight, fmt = site.weight, graph.quantizer_format(site.weight.node)
    if fmt.is_mx:
        return f"the scale of {fmt.name} holds powers of two only, and the factor is none; it stays one Mul"
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale = (weight.parameters[0] * site.factor).astype(np.float32)
    if not (np.isfinite(scale) & (scale >= np.float32(2.0**-126))).all():
        return "the weight's scales would over- or underflow"
    values = (weight.quantized() * site.factor).astype(np.float32)
    parameters = [scale, *weight.parameters[1:]]
    before = _codes(weight.values, weight.parameters, fmt, weight)
    if not np.array_equal(_codes(values, parameters, fmt, weight), before):
        return "codes of the weight would change"
    return weight.requantized(values, parameters), scale


def _codes(values: np.ndarray, parameters: list[np.ndarray], fmt: GroupFormat, weight: Weight) -> np.ndarray:
    return element_codes(values, parameters[0], parameters[1] if len(parameters) > 1 else None, fmt, weight.axis)
