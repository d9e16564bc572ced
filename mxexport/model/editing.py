"""What fold and streamline passes share: reading constants, making values and nodes, reporting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from mxexport.model.graph import new_initializer
from mxexport.model.names import free_name
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import constant, label, value_names

_SMALLEST, _LARGEST = np.float32(2.0**-126), np.float32(2.0**126)


class Editor:
    """One pass at work on one model: hands out free names and collects the outcome. Made once per pass.

    A tensor's name stands for its value: what a pass makes has a name of its own, unless it `take_over`s another's.
    Nodes and initializers get the names they ask for where the former owners are gone in the end (`finish`).
    """

    def __init__(self, model: ir.Model):
        self.model = model
        self.outcome = Outcome()
        self._made: list[tuple[ir.Node | ir.Value, str]] = []
        self._later: dict[Callable, list] = {}
        self._asked: dict[str, str] = {}  # node name given for now -> name asked for
        self._values = Counter(value_names(model))
        self._nodes = Counter(node.name for graph in model.graphs() for node in graph)

    def nodes(self) -> Iterator[ir.Node]:
        """Every node outside functions, in graph order. Nodes inserted behind the current one are met, too."""
        for graph in list(self.model.graphs()):
            yield from graph

    def changed(self, text: str) -> None:
        self.outcome.changed.append(text)

    def later(self, function: Callable[[ir.Model, list], object], item) -> None:
        """Have `function` run on the model and all such items when everything has its name."""
        self._later.setdefault(function, []).append(item)

    def declined(self, node: ir.Node, reason: str) -> None:
        self.outcome.declined.append((label(node), reason))

    def _free(self, wanted: str, owners: Counter) -> str:
        """`wanted`, numbered where anything has or had that name."""
        name = free_name(wanted, owners)
        owners[name] += 1
        return name

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer of the main graph (seen from subgraphs, too)."""
        value = new_initializer(self.model.graph, self._free(name, self._values), array)
        self._made.append((value, name))
        return value

    def node(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: Mapping | None = None,
        *,
        name: str,
        output: str | None = None,
        like: ir.Value | None = None,
        shape=None,
        domain: str = "",
        before: ir.Node | None = None,
        after: ir.Node | None = None,
    ) -> ir.Value:
        """The output of a new node with one output, of the type of `like` and of `shape` (default: that of `like`)."""
        output = output or name
        name = self._asked.get(name, name)
        made = ir.node(op_type, inputs, attributes, domain=domain, name=self._free(name, self._nodes))
        self._asked[made.name] = name
        value = made.outputs[0]
        value.name = self._free(output, self._values)
        self._made.append((made, name))
        if like is not None:
            value.type = like.type
            value.shape = ir.Shape(shape) if shape is not None else like.shape
        if before is not None:
            before.graph.insert_before(before, made)
        else:
            after.graph.insert_after(after, made)
        return value

    def take_over(self, old: ir.Value, new: ir.Value, keep: tuple[ir.Node, ...] = ()) -> None:
        """Users of `old`, but for the nodes `keep`, use `new`, which has the same value and takes its name."""
        kept = [use for use in old.uses() if use.node in keep]
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        for user, index in kept:
            user.replace_input_with(index, old)
        self._values[new.name] -= 1
        name = old.name
        old.name, new.name = self._free(f"{name}_before", self._values), name

    def merge(self, old: ir.Value, new: ir.Value) -> None:
        """Users of `old` use `new`, which has the same value and keeps its name unless `old` is a graph output."""
        if old.is_graph_output():
            self.take_over(old, new)
        else:
            old.replace_all_uses_with(new)

    def drop(self, node: ir.Node) -> None:
        """Remove a node nobody uses, and then the nodes before it that nobody uses any more."""
        pending = [node]
        while pending:
            dead = pending.pop()
            if dead.graph is None or any(v.uses() or v.is_graph_output() for v in dead.outputs):
                continue
            inputs = [v for v in dead.inputs if v is not None]  # removing the node empties them
            dead.graph.remove(dead, safe=True)
            self._nodes[dead.name] -= 1
            self._values.subtract(v.name for v in dead.outputs)
            for value in inputs:
                self._forget(value)
            pending.extend(v.producer() for v in inputs if v.producer() is not None)

    def replace_input(self, node: ir.Node, index: int, value: ir.Value) -> None:
        """Like `replace_input_with`; an initializer nobody uses any more leaves the graph."""
        old = node.inputs[index]
        node.replace_input_with(index, value)
        self._forget(old)

    def _forget(self, value: ir.Value | None) -> None:
        if value is None or not value.is_initializer() or value.uses():
            return
        if not value.is_graph_input() and not value.is_graph_output():
            del value.graph.initializers[value.name]
            self._values[value.name] -= 1

    def finish(self) -> Outcome:
        """The outcome. What the pass made takes the names it asked for where their owners are gone by now."""
        for made, wanted in self._made:
            owners = self._nodes if isinstance(made, ir.Node) else self._values
            if made.graph is not None and made.name != wanted and not owners[wanted]:
                owners.update({wanted: 1, made.name: -1})
                made.name = wanted
        for function, items in self._later.items():
            function(self.model, items)
        return self.outcome


def constant_operand(node: ir.Node) -> tuple[ir.Value, np.ndarray] | None:
    """(variable, float32 constant) of a node with two inputs of which exactly one is a constant; else None."""
    if len(node.inputs) != 2 or None in node.inputs:
        return None
    a, b = node.inputs
    known_a, known_b = constant(a), constant(b)
    if (known_a is None) == (known_b is None):
        return None
    known, variable = (known_b, a) if known_a is None else (known_a, b)
    return (variable, known) if known.dtype == np.float32 else None


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only user of a value that is no graph output; None where there are more or none."""
    users = {use.node for use in value.uses()}
    return next(iter(users)) if len(users) == 1 and not value.is_graph_output() else None


def is_exact_factor(c: np.ndarray) -> bool:
    """True when multiplying by every value of `c` is exact short of over- and underflow: +-2**k, k in -126 .. 126."""
    mantissa, _ = np.frexp(np.abs(c))
    return bool(((mantissa == 0.5) & (np.abs(c) >= _SMALLEST) & (np.abs(c) <= _LARGEST)).all())


def aligned(c: np.ndarray, rank: int) -> np.ndarray:
    """`c` with leading dimensions of 1 up to `rank` (broadcasting aligns at the end)."""
    return c.reshape((1,) * (rank - c.ndim) + c.shape)


def runs_along(c: np.ndarray, axis: int) -> int:
    """Into how many pieces of neighbours that are equal `c` falls along `axis` (at least 1)."""
    moved = np.moveaxis(c, axis, 0)
    changes = (moved[1:] != moved[:-1]).any(axis=tuple(range(1, moved.ndim)))
    return int(changes.sum()) + 1
