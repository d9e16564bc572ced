"""The one place that edits graphs, for passes, targets and the exporter: new values and nodes, and what takes their
place. `Editor` does so with names and a report, for a whole pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from mxexport.model.names import free_name
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import constant, label, value_names

_SMALLEST, _LARGEST = np.float32(2.0**-126), np.float32(2.0**126)


def new_initializer(
    g: ir.Graph, name: str, data: np.ndarray | ir.TensorProtocol, dtype: ir.DataType | None = None
) -> ir.Value:
    """A new initializer; `name` must be free. `dtype`: what an array holds, where that is no type of numpy's."""
    in_numpy = isinstance(data, np.ndarray | np.generic)
    tensor = ir.tensor(np.asarray(data, order="C"), dtype=dtype) if in_numpy else data
    tensor.name = name
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    g.register_initializer(value)
    return value


def add_initializer(
    g: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType | None = None, taken: Container[str] = ()
) -> ir.Value:
    """An initializer of `array` under `name`, or `name_1`, … where that is among `taken` or another tensor has it; one
    that is there with the same bits serves again."""
    tensor = ir.tensor(np.asarray(array, order="C"), dtype=dtype)
    candidate, count = name, 1
    while candidate in g.initializers or candidate in taken:
        known = g.initializers.get(candidate)
        if known is not None and not known.is_graph_input() and _same_bits(known.const_value, tensor):
            return known
        candidate, count = f"{name}_{count}", count + 1
    return new_initializer(g, candidate, tensor)


def _same_bits(a: ir.TensorProtocol | None, b: ir.TensorProtocol) -> bool:
    return a is not None and a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape) and a.tobytes() == b.tobytes()


def make_node(
    op_type: str, inputs: list, name: str, output: str, like: ir.Value | None = None, **attributes
) -> ir.Node:
    """A standard node with one output called `output`, of the type and shape of `like`."""
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = output
    if like is not None:
        node.outputs[0].shape, node.outputs[0].type = like.shape, like.type
    return node


def why_not_bypass(old: ir.Value, new: ir.Value) -> str | None:
    """Why uses of `old` cannot simply become uses of `new`; None when they can.

    A graph output keeps its name, so the value that takes its place must be free to be renamed: made by a node of
    the same graph and not an output itself.
    """
    if not old.is_graph_output():
        return None
    if new.producer() is None or new.producer().graph is not old.graph:
        return f"it makes the graph output {old.name!r} from an input, an initializer or an outer graph's tensor"
    if new.is_graph_output():
        return f"it makes a second graph output, {old.name!r}, of the graph output {new.name!r}"
    return None


def bypass(old: ir.Value, new: ir.Value) -> None:
    """Let every user of `old` take `new`; a graph output keeps its name. Ask `why_not_bypass` first."""
    name, output = old.name, old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if output:
        old.name = f"{name}_bypassed"
        new.name = name


def replace_output(old: ir.Value, new: ir.Value) -> None:
    """`new`, fresh from a node made by a pass, takes the name, type, shape and users of `old`."""
    new.shape, new.type = old.shape or new.shape, old.type or new.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}_replaced"


def add_constant(g: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer, under `name` or that name numbered; every caller gets its own."""
    return new_initializer(g, free_name(name, g.initializers), array)


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
