"""`FAR`, a device that is not the CPU: a GPU where there is one, else a stand-in.

The stand-in computes on the CPU, but its tensors mix with no others and show no memory. What a GPU would refuse (a
scale left behind on the CPU, `.numpy()`, a pointer for the compiled kernel) it refuses too, and code that asks for the
kind of device takes the way of a GPU. The arithmetic of a GPU it cannot show.
"""

from __future__ import annotations

import torch
from torch._library.custom_ops import OPDEFS
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

GPU = torch.cuda.is_available()
_NAME = "far"
if not GPU:
    _setup_privateuseone_for_python_backend(_NAME)  # device guards and names; the operators are those of `FarDevice`
FAR = torch.device("cuda" if GPU else _NAME, 0)


class FarTensor(torch.Tensor):
    """On the stand-in; `near` is the tensor that it computes with."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near):
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, near.shape, device=FAR, **layout)

    def __init__(self, near):
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside `with FarDevice()`")


_PLAIN = (torch.Tensor, torch.nn.Parameter, FarTensor)


class FarDevice(TorchDispatchMode):
    """Makes the stand-in exist; `calls` holds what ran on it: (operator, arguments, options)."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given, spec = pytree.tree_flatten((args, kwargs))
        if other := next((type(t) for t in given if isinstance(t, torch.Tensor) and type(t) not in _PLAIN), None):
            with self:  # a tensor made of tensors
                return other.__torch_dispatch__(func, types, args, kwargs)
        target = kwargs.get("device")
        there = target is not None and torch.device(target).type == FAR.type
        if not there and not any(isinstance(t, FarTensor) for t in given):
            return func(*args, **kwargs)
        if func.namespace == "mxexport":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        if target is None:
            self._refuse_a_mixture(func, given)
        self.calls.append((func, args, kwargs))
        args, kwargs = pytree.tree_unflatten([t.near if isinstance(t, FarTensor) else t for t in given], spec)
        result = func(*args, **(kwargs | {"device": "cpu"} if there else kwargs))
        if target is not None and not there:
            return result
        known = {id(t.near): t for t in given if isinstance(t, FarTensor)}  # of an operator in place
        return pytree.tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else FarTensor(t), result)

    @staticmethod
    def _refuse_a_mixture(func, given):
        packet = func.overloadpacket
        moves = (torch.ops.aten.copy_, torch.ops.aten.index, torch.ops.aten.index_put_)
        near = [t for t in given if isinstance(t, torch.Tensor) and not isinstance(t, FarTensor) and t.ndim]
        if near and packet not in moves:
            raise RuntimeError(f"{func}: tensors on the CPU and on the far device")
