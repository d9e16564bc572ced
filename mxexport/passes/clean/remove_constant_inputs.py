from __future__ import annotations

import onnx_ir as ir

from mxexport.model.outcome import Outcome


def remove_constant_inputs(model: ir.Model) -> Outcome:
    """graph(x, w=initializer) -> graph(x)  when w is an initializer that some exporters list among the inputs, too."""
    outcome, g = Outcome(), model.graph
    doubled = [value for value in g.inputs if value.name in g.initializers]
    if doubled:
        gone = {id(value) for value in doubled}
        g.inputs[:] = [value for value in g.inputs if id(value) not in gone]
        outcome.changed += [f"{value.name}: an initializer, no longer an input" for value in doubled]
    return outcome
