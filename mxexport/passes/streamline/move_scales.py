from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.editing import Editor, aligned, constant_operand, is_exact_factor
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import constant, is_op, label
from mxexport.passes.fold._layouts import FOUND, again, why_not_found_anew
from mxexport.passes.streamline._scale_rules import JOINT, RULES, Move


def move_scales(model: ir.Model) -> Outcome:
    """op(x * c) -> op(x) * c  when that is exact: see `_scale_rules`; two factors that meet become one.

    A quantizer that finds its scale at run time lets a single positive power of two pass: scale and values follow.

    One sweep in graph order, so that all factors that can reach a node are there when it is met. Where a scaled value
    forks, the factor moves only if no branch is certain to keep it, and each branch gets its own.
    """
    editor = Editor(model)
    mover = _Mover(editor)
    for node in editor.nodes():
        if node.graph is not None:
            mover.visit(node)
    return editor.finish()


class _Mover:
    def __init__(self, editor: Editor):
        self.editor = editor
        self.obstacles: dict[ir.Node, str | None] = {}

    def visit(self, node: ir.Node) -> None:
        """Move what can be moved past `node`; behind a factor that went there may stand another."""
        declined: list[tuple[ir.Node, str]] = []
        while self.move_once(node, declined):
            declined.clear()
        for multiply, reason in declined:
            self.editor.declined(multiply, reason)

    def move_once(self, node: ir.Node, declined: list[tuple[ir.Node, str]]) -> bool:
        """Whether factors in front of `node`, one for each input, went past it and others may follow."""
        multiplies = {i: v.producer() for i, v in enumerate(node.inputs) if _is_scale(v, node.graph)}
        if not multiplies or graph.is_ours(node, FOUND):  # found scales move along with their quantizers
            return False
        batches, moved = [multiplies] if is_op(node, *JOINT) else [{i: m} for i, m in multiplies.items()], False
        for batch in batches:
            verdict = self.judge(node, batch)
            for multiply in batch.values():
                if not isinstance(verdict, str):
                    verdict = self.obstacle(multiply, node) or verdict
            if isinstance(verdict, str):
                reason = f"scale of `{label(node)}` not moved past {node.op_type}: {verdict}"
                declined.append((next(iter(batch.values())), reason))
            else:
                self.apply(node, batch, verdict)
                moved = True
        return moved and node.graph is not None  # a quantizer is made anew

    def judge(self, node: ir.Node, batch: dict[int, ir.Node]) -> Move | str:
        if graph.is_ours(node, FOUND | graph.QUANTIZERS):
            return why_not_quantizer(node, *batch.values()) or Move(constant_operand(batch[0])[1])
        if not is_op(node, *RULES):
            return "what it computes does not scale along"
        fronts = {}
        for index, multiply in batch.items():
            x, c = constant_operand(multiply)
            if x.shape is None or node.outputs[0].shape is None:
                return "shapes are not known; run infer_shapes first"
            if c.ndim > len(x.shape):
                return "the scale has more dimensions than what it scales"
            c = aligned(c, len(x.shape))
            if any(n > 1 and n != d for n, d in zip(c.shape, x.shape, strict=True)):
                return "the scale may be wider than what it scales"
            fronts[index] = c
        return RULES[node.op_type](node, fronts)

    def obstacle(self, multiply: ir.Node, node: ir.Node) -> str | None:
        """The branch that keeps the factor for certain, in words. Looked up once per factor."""
        if multiply not in self.obstacles:
            users = {use.node: use.idx for use in multiply.outputs[0].uses()}
            self.obstacles[multiply] = next(
                (
                    f"it also feeds `{label(user)}` ({user.op_type}), which keeps it"
                    for user, index in users.items()
                    if len(users) > 1
                    and (
                        user.graph is not multiply.graph
                        or not (is_op(user, *RULES) or graph.is_ours(user, FOUND | graph.QUANTIZERS))
                        or (user.op_type not in JOINT and isinstance(self.judge(user, {index: multiply}), str))
                    )
                ),
                None,
            )
        return self.obstacles[multiply]

    def apply(self, node: ir.Node, batch: dict[int, ir.Node], move: Move) -> None:
        if graph.is_ours(node, graph.QUANTIZERS):
            self.apply_to_quantizer(node, batch[0], move.factor)
            return
        for index, multiply in batch.items():
            node.replace_input_with(index, constant_operand(multiply)[0])
        for index, array in move.constants.items():
            self.editor.replace_input(node, index, self.editor.constant(f"{label(node)}_operand", array))
        if move.factor is not None:
            self.multiply_behind(node, move.factor)
        for multiply in batch.values():
            self.editor.changed(f"scale of `{label(multiply)}` moved past {node.op_type} `{label(node)}`")
            self.editor.drop(multiply)

    def apply_to_quantizer(self, node: ir.Node, multiply: ir.Node, factor: np.ndarray) -> None:
        axis = graph.attributes(node)["axis"]
        replaced = {None: None, node.inputs[0]: constant_operand(multiply)[0]}
        for value in node.inputs[1:]:
            if value not in replaced:
                replaced[value] = again(self.editor, value.producer(), replaced, axis, node)
        made = again(self.editor, node, replaced, axis, node)
        c = self.editor.constant(f"{label(node)}_factor", factor)
        scaled = self.editor.node("Mul", [made, c], name=f"{label(node)}_scale", like=made, after=node)
        self.editor.take_over(node.outputs[0], scaled)
        self.editor.changed(f"scale of `{label(multiply)}` moved past {node.op_type} `{label(node)}`")
        self.editor.drop(node)

    def multiply_behind(self, node: ir.Node, factor: np.ndarray) -> None:
        output = node.outputs[0]
        c = self.editor.constant(f"{label(node)}_factor", factor)
        scaled = self.editor.node("Mul", [output, c], name=f"{label(node)}_scale", like=output, after=node)
        self.editor.take_over(output, scaled, keep=(scaled.producer(),))


def why_not_quantizer(node: ir.Node, multiply: ir.Node) -> str | None:
    """Why Q(x * c), or the operator that finds its scale, does not give what it gives for x, times c."""
    scaled = multiply.outputs[0]
    if graph.is_ours(node, FOUND):
        users = node.outputs[0].consumers()
        alone = all(graph.is_ours(u, FOUND | graph.QUANTIZERS) and u.inputs[0] is scaled for u in users)
        return None if alone and node.inputs[0] is scaled else "its scale serves another tensor"
    x, c = constant_operand(multiply)
    if x.shape is None or c.ndim > len(x.shape):
        return "the scale may have more dimensions than what it scales"
    if node.inputs[0] is not scaled or c.size > 1 or not is_exact_factor(c) or not (c > 0).all():
        return "its codes would change: only a single positive power of two passes a quantizer"
    if any(v is not None and constant(v) is not None for v in node.inputs[1:]):
        return "its scale is constant and would not follow"
    clamped = [p for p in map(ir.Value.producer, filter(None, node.inputs[1:])) if graph.is_ours(p, {"MXScale"})]
    if any((p.attributes["code_min"].value, p.attributes["code_max"].value) != (0, 254) for p in clamped):
        return "its scale is calibrated to a range of codes and would not follow"
    return why_not_found_anew(node, shared=True)


def _is_scale(value: ir.Value | None, where: ir.Graph) -> bool:
    """`value` is a multiplication by a constant in the graph `where` and no output of it."""
    if value is None or value.is_graph_output():
        return False
    producer = value.producer()
    return is_op(producer, "Mul") and producer.graph is where and constant_operand(producer) is not None
