"""The `torch.fx` tracer that goes through a model's own code, and past what cannot be traced; see `fold_trace`."""

from __future__ import annotations

import builtins
import contextlib
import dis
import itertools
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from mxexport.quant.folding.called_children import called_children, reachable
from mxexport.quant.layers.layer import QuantLayer

MATTER = (nn.Linear, _ConvNd, _BatchNorm)
"""Modules whose calls are looked at: a call of one is one node, subclasses included."""

WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
"""Modules of torch that only call the one they hold: class name -> its attribute."""

_MOST_DECISIONS = 8


@dataclass
class Watched:
    """`graphs`: one per traced piece of code; their `call_module` nodes carry the module in `meta["module"]` and those
    whose code makes the call in `meta["around"]`.

    `unknown`: module -> why code that may use it is not known. `read`: id of a parameter or buffer that code outside
    its own layer computes with -> where. All modules and tensors are those of `copy`.
    """

    copy: nn.Module
    graphs: list[fx.Graph] = field(default_factory=list)
    unknown: dict[nn.Module, str] = field(default_factory=dict)
    read: dict[int, str] = field(default_factory=dict)
    kept: set[fx.Node] = field(default_factory=set)
    """What modules keep in attributes: `self.features = y`."""
    apart: set[nn.Module] = field(default_factory=set)
    """Traced on their own."""
    in_training: set[nn.Module] = field(default_factory=set)
    """Called in training mode while the model was in eval mode."""

    def calls(self) -> Iterator[fx.Node]:
        return (node for graph in self.graphs for node in graph.nodes if node.op == "call_module")


@contextlib.contextmanager
def _proxies_are_tensors() -> Iterator[None]:
    """Within it `isinstance(x, torch.Tensor)` in code that is not torch's holds for what is traced, so that code
    branches as it does on tensors. (A proxy whose class claims to be Tensor would mislead torch's C code.)"""
    real = builtins.isinstance

    def isinstance_(value, kinds) -> bool:
        if type(value) is fx.Proxy and sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] != "torch":
            return issubclass(Tensor, kinds) or real(value, kinds)
        return real(value, kinds)

    builtins.isinstance = isinstance_
    try:
        yield
    finally:
        builtins.isinstance = real


class Tracer(fx.Tracer):
    """Goes into every module but those of torch, and past those that cannot be traced."""

    proxy_buffer_attributes = True

    def __init__(self, watched: Watched, training: bool, decided: Sequence[bool] = ()):
        super().__init__()
        self.watched, self.training, self.to_trace = watched, training, []
        self.decided, self.asked = [*decided], 0
        self.inside: list[nn.Module] = []

    def run(self, root: nn.Module, method: str, given: dict) -> Exception | None:
        """Trace one method of `root`; returns why that cannot be done."""
        self.traced_func_name = method
        self.inside = [root]
        self._tensors = {**dict(root.named_parameters()), **dict(root.named_buffers())}
        try:
            if method in vars(root):
                raise TypeError("it was replaced")
            with _Reads(self), _proxies_are_tensors():
                graph = self.trace(root, concrete_args=given or None)
        except Exception as error:  # any code may run here
            return None if _is_refusal(error) else error
        self._note_reads(graph.nodes)
        self.watched.kept.update(proxy.node for proxy in _kept_proxies(self.watched.copy))
        self.watched.graphs.append(graph)
        return None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        of_torch = type(m).__module__.startswith(("torch.nn.", "torch.ao.nn."))
        return isinstance(m, (*MATTER, QuantLayer, torch.jit.ScriptModule)) or (
            of_torch and not isinstance(m, nn.Sequential)
        )

    def call_module(self, m: nn.Module, forward, args: tuple, kwargs: dict):
        own = not type(m).__module__.startswith(("torch.nn.", "torch.ao.nn.", "mxexport."))
        leaf = self.is_leaf_module(m, "")
        if leaf and not own:
            if m._modules and not isinstance(m, QuantLayer):
                self._forget_children(m, f"{type(m).__name__} of torch is not looked into")
            return self._call(m, args, kwargs)
        if m in self.watched.apart:
            return self._call(m, args, kwargs)
        before = set(self.graph.nodes)
        self.inside.append(m)
        try:
            result = forward(*args, **kwargs)
            if not leaf:
                return result
            inner = f"{type(m).__name__}, a layer with a forward of its own, calls it inside"
            self.watched.unknown.update(dict.fromkeys([part for part in m.modules() if part is not m], inner))
        except Exception as error:
            if leaf:
                self.give_up(m, error, "forward")
            else:
                self.watched.apart.add(m)  # its branches can be followed where it is traced on its own
                self.to_trace.append(m)
        finally:
            self.inside.pop()
        self._drop_all_but(before)
        return self._call(m, args, kwargs)

    def _call(self, m: nn.Module, args: tuple, kwargs: dict) -> fx.Proxy:
        proxy = self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
        proxy.node.meta["module"] = m
        proxy.node.meta["around"] = tuple(self.inside)
        if m.training and not self.training:
            self.watched.in_training.add(m)
        return proxy

    def _drop_all_but(self, kept: set[fx.Node]) -> None:
        added = [node for node in self.graph.nodes if node not in kept]
        self._note_reads(added)
        for node in reversed(added):
            self.graph.erase_node(node)

    def create_node(self, *args, **kwargs) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["by"] = self.inside[-1]
        return node

    def to_bool(self, proxy: fx.Proxy) -> bool:
        """Which way to go: assertions hold, branches in the code that is traced are gone through both ways."""
        if _is_asserted(sys._getframe(2)):
            return True
        if len(self.inside) > 1 or self.asked >= _MOST_DECISIONS:
            return super().to_bool(proxy)
        if self.asked == len(self.decided):
            self.decided.append(False)
        self.asked += 1
        return self.decided[self.asked - 1]

    def getattr(self, attr: str, attr_val, parameter_proxy_cache: dict):
        return super().getattr(attr, attr_val, {})  # nodes may be dropped again, so none is used twice

    def _note_reads(self, nodes) -> None:
        for node in nodes:
            tensor = self._tensors.get(node.target) if node.op == "get_attr" else None
            if tensor is not None and any(map(computes, node.users)):
                self.note_read(tensor, node.meta["by"])

    def note_read(self, tensor: Tensor, module: nn.Module) -> None:
        """A tensor that the code of `module` computes with; what a subclassed layer does with its own is its own."""
        if isinstance(module, MATTER) and any(tensor is own for own in _own_tensors(module)):
            return
        self.watched.read.setdefault(id(tensor), type(module).__name__)

    def give_up(self, module: nn.Module, error: Exception, method: str) -> None:
        """Nothing is known of what this method does with what it reaches."""
        code = f"{type(module).__name__}.{method}"
        lines = str(error).strip().splitlines()
        why = f"{code}, which cannot be traced ({lines[0] if lines else type(error).__name__}), may use it otherwise"
        if isinstance(module, MATTER) and not module._modules:
            self.watched.unknown.update({m: why for m in reachable(module, ()) if m is not module})
            return
        self._forget_children(module, why)

    def _forget_children(self, module: nn.Module, why: str) -> None:
        """Nothing is known of what `module` does with what it reaches, except for children that it only calls."""
        if (held := WRAPPERS.get(type(module).__name__)) is not None:
            self.to_trace.append(getattr(module, held))
            return
        only_called = called_children(module)
        apart = [child for child in only_called if not isinstance(child, MATTER)]
        for found in reachable(module, apart):
            if found is not module:
                self.watched.unknown.setdefault(found, why)
        self.to_trace += apart


def _kept_proxies(model: nn.Module) -> Iterator[fx.Proxy]:
    for module in model.modules():
        for value in vars(module).values():
            values = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            )
            yield from (one for one in values if type(one) is fx.Proxy)


def _is_asserted(frame: FrameType) -> bool:
    """Whether the value is what an `assert` asks."""
    rest = [i.opname for i in dis.get_instructions(frame.f_code) if i.offset >= frame.f_lasti][:3]
    jump = next((at for at, name in enumerate(rest[:2]) if "IF_TRUE" in name), None)
    return jump is not None and rest[jump + 1 : jump + 2] == ["LOAD_ASSERTION_ERROR"]


def _is_refusal(error: Exception) -> bool:
    """Whether the user's own code raised it: that way there is no result."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    at = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    raised = next((i.opname for i in dis.get_instructions(frame.f_code) if i.offset == at.tb_lasti), "")
    own = frame.f_globals.get("__name__", "").partition(".")[0] not in ("torch", "mxexport")
    return own and raised == "RAISE_VARARGS"


class _Reads(TorchFunctionMode):
    """Sees parameters and buffers that code computes with before the tracer does: `kept_in_a_list[0].t()`."""

    def __init__(self, tracer: Tracer):
        super().__init__()
        self.tracer = tracer
        self.known = {id(t): t for m in tracer.watched.copy.modules() for t in _own_tensors(m)}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, (Tensor, float, list)) and getattr(function, "__name__", "") != "__len__":
            for value in itertools.chain(args, (kwargs or {}).values()):
                for one in value if isinstance(value, (list, tuple)) else (value,):
                    if id(one) in self.known:
                        self.tracer.note_read(one, self.tracer.inside[-1])
        return result


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def computes(user: fx.Node) -> bool:
    """Whether a node takes a tensor's values: `weight.shape`, `weight.dtype` and `weight.size()` do not."""
    if user.op == "call_function" and user.target is getattr:
        return user.args[1] not in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda")
    return not (user.op == "call_method" and user.target in ("size", "dim", "numel", "is_floating_point"))
