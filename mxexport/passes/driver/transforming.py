"""One transformation of qonnx applied to a graph of ours: what it would get wrong is put out of its way first, and what
it returns is looked at before anyone takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.base import Transformation

from mxexport.errors import InputFileError, MXExportError, UnsupportedError
from mxexport.model.checks import check_names
from mxexport.model.names import Names
from mxexport.ops import DOMAIN, qonnx_general

_FOLDED = {(DOMAIN, None), (qonnx_general.DOMAIN, "FloatQuant")}  # qonnx knows Quant and BipolarQuant as quantizers
_MARK = "mxexport: this node reads the tensor twice"


def transformed(proto: onnx.ModelProto, transformation: Transformation, name: str) -> onnx.ModelProto:
    """`proto` as `transformation` leaves it, `name` for messages; `proto` itself stays.

    Raises:
        UnsupportedError: the transformation fails, does not end, leaves names that lead nowhere or drops quantizers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _tell_apart(copy.graph)
    _keep_from_folding(copy.graph)
    try:
        after = _applied(ModelWrapper(copy), transformation).model
    except MXExportError:
        raise
    except Exception as error:  # qonnx raises assertions, KeyErrors and whatever numpy does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(f"qonnx transformation {name}: {reason}") from error
    _restore(after.graph)
    _open_again(after.graph, proto.graph)
    _check(proto, after, name)
    return after


def _applied(wrapper: ModelWrapper, transformation: Transformation) -> ModelWrapper:
    """As `wrapper.transform`, which repeats a transformation that says each time that it changed something; some do for
    ever (PropagateMasks at a Conv with a bias). The honest ones take a node each time."""
    most = 10 * len(wrapper.graph.node) + 100
    for _ in range(most):
        wrapper, again = transformation.apply(wrapper)
        if not again:
            return wrapper.cleanup()
    raise UnsupportedError(
        f"qonnx transformation {type(transformation).__name__}: it does not end on this model; after {most} "
        "applications it still says that it changed something"
    )


# --- before ---------------------------------------------------------------------------------------------------


def _keep_from_folding(g: onnx.GraphProto) -> None:
    """qonnx replaces nodes by their values where every input is an initializer, unless it knows them as quantizers. An
    input that is left out is none."""
    for node in g.node:
        if (node.domain, None) in _FOLDED or (node.domain, node.op_type) in _FOLDED:
            node.input.append("")


def _tell_apart(g: onnx.GraphProto) -> None:
    """A node that reads one tensor twice reads two: where qonnx renames tensors it finds the first place only."""
    tensors = {tensor.name: tensor for tensor in g.initializer}
    taken = {name for node in g.node for name in (*node.input, *node.output)} | set(tensors)
    for node in list(g.node):
        for i, name in enumerate(node.input):
            if not name or name not in node.input[:i]:
                continue
            node.input[i] = own = _free(f"{name}_again", taken)
            if name in tensors:
                g.initializer.add().CopyFrom(tensors[name])
                g.initializer[-1].name = own
            else:
                made = onnx.helper.make_node("Identity", [name], [own], name=own, doc_string=_MARK)
                g.node.insert(list(g.node).index(node), made)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


# --- after ----------------------------------------------------------------------------------------------------


def _restore(g: onnx.GraphProto) -> None:
    """Take out what `_tell_apart` and `_keep_from_folding` put in."""
    outputs = {value.name for value in g.output}
    source = {n.output[0]: n.input[0] for n in g.node if n.doc_string == _MARK and n.output[0] not in outputs}
    for node in g.node:
        node.input[:] = [source.get(name, name) for name in node.input]
        if node.domain in (DOMAIN, qonnx_general.DOMAIN) and node.input and not node.input[-1]:
            del node.input[-1]
    for entries, name_of in ((g.node, lambda n: n.output[:1]), (g.value_info, lambda v: [v.name])):
        for i in reversed(range(len(entries))):
            if source.keys() & set(name_of(entries[i])):
                del entries[i]
    names = Names()
    for node in g.node:  # qonnx moves a node past a fork as two of one name
        node.name = names.unique(node.name) if node.name else ""


def _open_again(g: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """qonnx reads a length that is open as 0, and writes that."""
    lengths = [d for v in before.input for d in v.type.tensor_type.shape.dim]
    names = {d.dim_param for d in lengths if not d.HasField("dim_value")}
    if not names or any(d.HasField("dim_value") and d.dim_value == 0 for d in lengths):
        return
    for value in (*g.input, *g.output, *g.value_info):
        for length in value.type.tensor_type.shape.dim:
            if length.HasField("dim_value") and length.dim_value == 0:
                length.Clear()
                if len(names) == 1 and "" not in names:
                    length.dim_param = next(iter(names))


def _check(before: onnx.ModelProto, after: onnx.ModelProto, name: str) -> None:
    try:
        check_names(after, f"qonnx transformation {name}")
    except InputFileError as error:
        raise UnsupportedError(f"{error}; qonnx renamed or removed only part of it") from error
    made = Counter(v for node in after.graph.node for v in node.output if v)
    made.update(v.name for v in after.graph.input)
    if twice := [v for v, count in made.items() if count > 1]:
        raise UnsupportedError(f"qonnx transformation {name}: tensor {twice[0]!r} is made twice afterwards")
    lost = Counter(_quantizers(before.graph)) - Counter(_quantizers(after.graph))
    if lost:
        found = ", ".join(f"{count} {op_type}" for op_type, count in sorted(lost.items()))
        raise UnsupportedError(f"qonnx transformation {name}: it drops {found} that the outputs depend on")


def _quantizers(g: onnx.GraphProto) -> Iterator[str]:
    """Operators of our domain, each as often as outputs depend on it."""
    wanted = {value.name for value in g.output}
    for node in reversed(g.node):
        if wanted.isdisjoint(node.output):
            continue
        wanted.update(node.input)
        if node.domain == DOMAIN:
            yield node.op_type
