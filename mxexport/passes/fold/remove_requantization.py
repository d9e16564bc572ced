from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.errors import FormatError
from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import constant, label
from mxexport.numbers.formats import SCALE_RULES, FloatElement, round_bias
from mxexport.ops import GroupwiseQuant, MXFloatQuant

_SMALLEST_NORMAL = np.float32(2.0**-126)
_FRACTION_BITS_OF_THE_LOWEST = 22  # 2**-127 * 2**-22 is the smallest float32


def remove_requantization(model: ir.Model) -> Outcome:
    """Q(Q(x)) -> Q(x)  when both have equal attributes and the second provably changes nothing. Exact.

    Same scale edge: Y / s returns to the element it came from, since an element times s is rounded by less than half
    a step. Scale found anew by an equal MXScale: with `floor` and `even` the largest element keeps its power of two
    (a saturated one stays below the next), so the scale is equal; with `ceil` and `rceil` it may halve, and every
    element that then fits is also on the finer grid (rules that round up only where code_max keeps values below
    2**128). Not so when -2**(b-1) is used (narrow = 0: the scale doubles),
    or when negative values were cut off (signed = 0), or with float scales found anew (they move by one ulp).
    """
    editor = Editor(model)
    for second in list(editor.nodes()):
        first = second.inputs[0].producer() if graph.is_ours(second, graph.QUANTIZERS) and second.inputs[0] else None
        if not graph.is_ours(first, graph.QUANTIZERS):
            continue
        reason = _why_not(first, second)
        if reason is None and any(v.is_graph_output() for v in second.outputs):
            taken = first.outputs[0].is_graph_output() or first.graph is not second.graph
            reason = "both it and the first quantizer make outputs of the graph" if taken else None
        if reason:
            editor.declined(second, f"requantization of `{label(first)}` kept: {reason}")
            continue
        editor.merge(second.outputs[0], first.outputs[0])
        editor.changed(f"{second.op_type} `{label(second)}` requantized `{label(first)}` to the same values")
        editor.drop(second)
    return editor.finish()


def _why_not(first: ir.Node, second: ir.Node) -> str | None:
    if first.op_type != second.op_type:
        return f"{first.op_type} is followed by {second.op_type}"
    a, b = graph.attributes(first), graph.attributes(second)
    different = [f"{name} is {a[name]}, then {b[name]}" for name in a if a[name] != b[name]]
    if different:
        return "; ".join(different)
    if len(first.inputs) == len(second.inputs) and all(map(_same, first.inputs[1:], second.inputs[1:])):
        return _why_not_same_scale(first, a)
    return _why_not_dynamic(first, second, a)


def _same(a: ir.Value | None, b: ir.Value | None) -> bool:
    known_a, known_b = constant(a), constant(b)
    if known_a is None or known_b is None:
        return a is b
    return np.array_equal(known_a, known_b, equal_nan=True)


def _why_not_same_scale(first: ir.Node, a: dict) -> str | None:
    if first.op_type == "GroupwiseQuant":
        return None
    # A minifloat times a subnormal scale may be rounded by more than half a step of the element.
    known, scale = constant(first.inputs[1]), first.inputs[1].producer()
    if known is not None and (np.isnan(known) | (known >= _SMALLEST_NORMAL)).all():
        return None
    if graph.is_ours(scale, {"MXScale"}) or (known is not None and graph.is_power_of_two(known)):
        try:
            element = MXFloatQuant.element_of(a)
        except FormatError as error:
            return str(error)
        if element.frac_bits <= _FRACTION_BITS_OF_THE_LOWEST:
            return None
    return "its scales may be subnormal float32 values, where an element times the scale is rounded"


def _why_not_dynamic(first: ir.Node, second: ir.Node, a: dict) -> str | None:
    scales = [node.inputs[1].producer() for node in (first, second)]
    if not all(graph.is_ours(s, {"MXScale"}) for s in scales):
        return "its scale is another one and not found by MXScale"
    if scales[0].inputs[0] is not first.inputs[0] or scales[1].inputs[0] is not second.inputs[0]:
        return "its scale is that of another tensor"
    rules = [graph.attributes(s) for s in scales]
    different = [
        f"{name} of MXScale is {rules[0][name]}, then {v}" for name, v in rules[1].items() if rules[0][name] != v
    ]
    if different:
        return "; ".join(different)
    if (rules[0]["axis"], rules[0]["group_size"]) != (a["axis"], a["group_size"]):
        return "MXScale and the quantizer do not group alike"
    if not a["signed"]:
        return "signed = 0: cut-off negative values may have set the scale"
    if not a.get("narrow", 1):
        return f"narrow = 0: -{2 ** (a['bit_width'] - 1)} would double the scale"
    if len(first.inputs) > 2 and any(node.inputs[2] is not None for node in (first, second)):
        return "it has a zero point"
    return _why_not_rule(first, a, rules[0])


def _why_not_rule(node: ir.Node, a: dict, rule: dict) -> str | None:
    try:
        element = MXFloatQuant.element_of(a) if node.op_type == "MXFloatQuant" else GroupwiseQuant.element_of(a, True)
    except FormatError as error:
        return str(error)
    fraction = 0 if isinstance(element, FloatElement) else element.frac_bits
    if (rule["emax"], rule["frac_bits"]) != (element.emax, fraction):
        return f"emax and frac_bits of MXScale are not those of {element.name}"
    if rule["round_bias"] not in {round_bias(element, name) for name in SCALE_RULES}:
        return f"round_bias {rule['round_bias']} is none of the scale rules {', '.join(SCALE_RULES)}"
    if rule["round_bias"] and rule["code_max"] > 254 - element.emax:
        return (
            f"its scale rule rounds up, and the largest float32 values then overflow to Inf, which a second quantizer "
            f"makes NaN; with code_max of {254 - element.emax} or less it would go"
        )
    if element.frac_bits > _FRACTION_BITS_OF_THE_LOWEST:
        return "elements times the lowest scale are below float32"
    return None
