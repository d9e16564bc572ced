"""Quant tensors: contracted storage, expanded on demand; they compute like their dequantized values.

Two levels. Autograd works on the quant tensor as a whole: its gradient is a plain tensor of its shape, passed straight
through to what was quantized. Below autograd, `tensor_ops` and `tensor_parts` say which operations keep the groups;
all others see the dequantized values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

from mxexport.errors import FormatError, ScaleShapeError, ShapeError, UnsupportedError
from mxexport.numbers.formats import GroupFormat, ScaleRule, get_format
from mxexport.quant.deprecated import resolve_scaling
from mxexport.quant.kernels import operators, transforms
from mxexport.quant.kernels.fake_quantization import Quantizer, check_input
from mxexport.quant.quantizers.sources import DynamicScale
from mxexport.quant.tensors import codes
from mxexport.quant.tensors.layout import Layout

INNER = ("_grouped", "scale_", "zero_point_", "tensor_scale")
_COMPUTED = ("value", "value_", "scale", "zero_point", "codes", "scale_codes")


class _Inner(list):
    """Names of the stored tensors. torch.compile also asks it which attributes are tensors: those on demand, too."""

    def __contains__(self, name) -> bool:
        return super().__contains__(name) or name in _COMPUTED


class GroupwiseQuantTensor(Tensor):
    """A groupwise quantized tensor that behaves as the dequantized one.

    Stored, contracted (G = group size, n = ceil(K / G) groups on the axis):
        value_       (..., n, G, ...) dequantized values, the tail of a short last group zero
        scale_       (..., n, 1, ...) float32
        zero_point_  like scale_, float32 with whole values; None for symmetric formats
    Expanded on demand to the tensor's own shape, padding removed: `value`, `scale`, `zero_point`.

    Make one with `quantize`, or with `from_parts` from parts you have. The results of neg, abs, relu (symmetric and
    asymmetric alike where the codes allow it), transpose, permute, view, reshape, flip, expand, repeat, slices, index
    tensors, masks, embedding, cat and stack are quant tensors as long as groups stay whole; so are products with a
    positive power of two when no bit is lost (outside torch.compile, which cannot look at values). Every other result
    is a plain tensor. Quant tensors are immutable: an operation in place raises, and what is not a quant tensor any
    more (`value`, or a view that cuts groups) is a copy; only `value_` and `scale_` are the stored tensors themselves.
    A function under torch.compile may take and return quant tensors; one it returns must be detached if another result
    is differentiated.
    """

    @staticmethod
    def __new__(cls, grouped, scale, zero_point, fmt: str, axis: int, length: int, tensor_scale=None):
        shape = (*grouped.shape[:axis], length, *grouped.shape[axis + 2 :])
        return Tensor._make_wrapper_subclass(cls, shape, dtype=grouped.dtype, device=grouped.device)

    def __init__(self, grouped, scale, zero_point, fmt: str, axis: int, length: int, tensor_scale=None):
        self._grouped, self.scale_, self.zero_point_, self.tensor_scale = grouped, scale, zero_point, tensor_scale
        self._format_name, self.axis = fmt, axis

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def from_parts(
        value_: Tensor,
        scale_: Tensor,
        zero_point_: Tensor | None,
        fmt: str | GroupFormat,
        axis: int,
        length: int,
        tensor_scale: Tensor | None = None,
    ) -> GroupwiseFloatQuantTensor | GroupwiseIntQuantTensor:
        """A quant tensor of contracted parts (shapes above); `length` is K. Gradients flow to `value_`, whose padding
        counts as zeros whatever it holds. nvfp4 also needs the scale of the whole tensor, which `scale_` includes.

        Raises:
            FormatError: unknown format, or one without groups.
            ShapeError, ScaleShapeError: parts that do not fit together, or scales that are not float32.
        """
        fmt = _registered(fmt)
        axis = _check_parts(value_, scale_, zero_point_, fmt, axis, length)
        _check_tensor_scale(tensor_scale, fmt)
        if length % fmt.group_size:
            value_ = operators.split_groups(operators.join_groups(value_, axis, length), axis, fmt.group_size)
        return _Assemble.apply(value_, scale_, zero_point_, fmt.name, axis, length, tensor_scale)

    @property
    def format(self) -> GroupFormat:
        return get_format(self._format_name)

    @property
    def group_size(self) -> int:
        return self.format.group_size

    @property
    def group_layout(self) -> Layout:
        return Layout(tuple(self.shape), self.axis, self.group_size)

    # --- values -----------------------------------------------------------------------------------------------

    def dequantize(self) -> Tensor:
        """The values as a plain tensor of `shape` and dtype, differentiable."""
        return _Dequantize.apply(self)

    @property
    def value(self) -> Tensor:
        """Dequantized values, a plain tensor of `shape`."""
        return self.dequantize()

    @property
    def value_(self) -> Tensor:
        """Dequantized values (..., n, G, ...), zero-padded."""
        return _Grouped.apply(self, self.axis, self.shape[self.axis])

    def _expand(self, contracted: Tensor) -> Tensor:
        return operators.expand(contracted.squeeze(self.axis + 1), self.axis, self.group_size, self.shape[self.axis])

    @property
    def scale(self) -> Tensor:
        """One scale per element, computed on demand."""
        return self._expand(self.scale_)

    @property
    def zero_point(self) -> Tensor | None:
        """One zero point per element, computed on demand; None for symmetric formats."""
        return None if self.zero_point_ is None else self._expand(self.zero_point_)

    # --- codes ------------------------------------------------------------------------------------------------

    @property
    def codes(self) -> Tensor:
        """Element codes (..., n, G, ...), derived on demand; integer formats: int8, or uint8 when unsigned."""
        return codes.element_codes(self.value_.detach(), self.scale_, self.zero_point_, self._format_name)

    @property
    def scale_codes(self) -> Tensor | None:
        """E8M0 codes (..., n, 1, ...) uint8; for nvfp4 the E4M3 codes; None where the scale is a float."""
        if self.format.scale not in ("e8m0", "nvfp4"):
            return None
        return codes.shared_scale_codes(self.scale_, self.tensor_scale, self._format_name)

    # --- Python protocols -------------------------------------------------------------------------------------

    def __repr__(self, *, tensor_contents=None) -> str:
        tail = f", grad_fn=<{self.grad_fn.name()}>" if self.grad_fn is not None else ""
        tail = tail or (", requires_grad=True" if self.requires_grad else "")
        return (
            f"{type(self).__name__}(format={self._format_name}, shape={tuple(self.shape)}, axis={self.axis}, "
            f"scale_={tuple(self.scale_.shape)}, dtype={self.dtype}{tail})\n{joined(self)}"
        )

    def __format__(self, spec: str) -> str:
        return format(self.dequantize(), spec) if spec else repr(self)

    @property
    def data(self) -> Tensor:
        """The same quant tensor outside autograd. It takes another one, never plain values."""
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, GroupwiseQuantTensor):
            raise UnsupportedError(
                f"the data of a quant tensor must be one, too: quantize({self._format_name!r}) it first"
            )
        Tensor.data.__set__(self, new)
        self.__dict__.update({name: new.__dict__[name] for name in (*INNER, "_format_name", "axis")})

    def share_memory_(self):
        """Moves the stored tensors to shared memory."""
        for _, part in self._stored():
            part.share_memory_()
        return self

    def is_shared(self) -> bool:
        return all(part.is_shared() for _, part in self._stored())

    def __dlpack__(self, **options):
        return self.dequantize().__dlpack__(**options)

    def numpy(self, *, force: bool = False):
        return self.dequantize().numpy(force=force)

    def __array__(self, dtype=None):
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def tolist(self):
        return self.dequantize().tolist()

    def __deepcopy__(self, memo: dict):
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("only leaf tensors can be deep-copied; call .detach() on the quant tensor first")
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __setstate__(self, state: dict) -> None:
        """What torch.load puts in; a checkpoint is a file like any other, so its parts are checked."""
        try:
            *parts, tensor_scale = (state[name] for name in INNER)
            axis, fmt = state["axis"], get_format(state["_format_name"])
            fits = type(axis) is int and 0 <= axis < self.ndim and parts[0].dtype == self.dtype
            if not fits or self.shape != (*parts[0].shape[:axis], self.shape[axis], *parts[0].shape[axis + 2 :]):
                raise ShapeError(
                    f"parts of shape {tuple(parts[0].shape)} do not make {tuple(self.shape)} on axis {axis}"
                )
            _check_parts(*parts, fmt, axis, self.shape[axis])
            _check_tensor_scale(tensor_scale, fmt)
        except (KeyError, TypeError, AttributeError) as error:
            raise ShapeError(f"not the parts of a quant tensor: {error!r}") from error
        self.__dict__.update(state)

    def _stored(self) -> list[tuple[str, Tensor]]:
        return [(name, getattr(self, name)) for name in INNER if getattr(self, name) is not None]

    def __tensor_flatten__(self):
        return _Inner(name for name, _ in self._stored()), (
            self._format_name,
            self.axis,
            self.shape[self.axis],
        )

    @classmethod
    def __tensor_unflatten__(cls, inner, meta, outer_size, outer_stride):
        return cls(*(inner.get(name) for name in INNER[:3]), *meta, inner.get(INNER[3]))

    def _stable_hash_for_caching(self) -> str:
        """torch.compile's cache key: everything but the values."""
        inner = [(name, tuple(part.shape), str(part.dtype), str(part.device)) for name, part in self._stored()]
        return repr((type(self).__name__, self._format_name, self.axis, tuple(self.shape), self.requires_grad, inner))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        from mxexport.quant.tensors import tensor_ops, tensor_parts  # noqa: F401 (they need the classes of this file)

        return tensor_ops.dispatch(func, args, kwargs or {})


class GroupwiseFloatQuantTensor(GroupwiseQuantTensor):
    """Minifloat elements; `codes` are uint8 bit patterns."""


class GroupwiseIntQuantTensor(GroupwiseQuantTensor):
    """Integer elements; `scale_` is the step of one integer."""


class _Traced:
    """What a program for export sees: torch's exporter knows plain tensors only, so these give their values."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = tree_map(cls._values, (args, kwargs or {}))
            return func(*args, **kwargs)

    @staticmethod
    def _values(x):
        return joined(x).contiguous() if isinstance(x, _Traced) else x


class _TracedFloat(_Traced, GroupwiseFloatQuantTensor):
    pass


class _TracedInt(_Traced, GroupwiseIntQuantTensor):
    pass


# Checkpoints that hold quant tensors load under `weights_only=True`.
torch.serialization.add_safe_globals([GroupwiseFloatQuantTensor, GroupwiseIntQuantTensor])


def tensor_class(fmt: GroupFormat) -> type[GroupwiseQuantTensor]:
    if torch.compiler.is_exporting():
        return _TracedFloat if fmt.is_float else _TracedInt
    return GroupwiseFloatQuantTensor if fmt.is_float else GroupwiseIntQuantTensor


def joined(q: GroupwiseQuantTensor) -> Tensor:
    """The values of `q` as a plain tensor, outside autograd."""
    return operators.join_groups(q._grouped, q.axis, q.shape[q.axis])


# --- in and out of plain tensors, with gradients ----------------------------------------------------------------


@torch._dynamo.allow_in_graph
class _Assemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value_, scale_, zero_point_, fmt, axis, length, tensor_scale):
        ctx.axis, ctx.group_size = axis, value_.shape[axis + 1]
        parts = [None if part is None else part.detach() for part in (value_, scale_, zero_point_, tensor_scale)]
        return tensor_class(get_format(fmt))(*parts[:3], fmt, axis, length, parts[3])

    @staticmethod
    def backward(ctx, grad):
        return operators.split_groups(grad, ctx.axis, ctx.group_size), None, None, None, None, None, None


@torch._dynamo.allow_in_graph
class _Dequantize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(q):
        return joined(q).clone()  # not a view of what `q` stores

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad


@torch._dynamo.allow_in_graph
class _Grouped(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(q, axis, length):
        return q._grouped.view_as(q._grouped)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.axis, ctx.length = inputs

    @staticmethod
    def backward(ctx, grad):
        return operators.join_groups(grad, ctx.axis, ctx.length), None, None


# --- checks -----------------------------------------------------------------------------------------------------


def _registered(fmt: str | GroupFormat) -> GroupFormat:
    """`fmt`, which must be found again by its name: that is what a quant tensor and its file remember."""
    fmt = get_format(fmt)
    if get_format(fmt.name) != fmt:
        raise FormatError(f"format name {fmt.name!r} belongs to another format: {get_format(fmt.name)}")
    return fmt


def _check_parts(value_, scale_, zero_point_, fmt: GroupFormat, axis: int, length: int) -> int:
    if fmt.group_size is None:
        raise FormatError(f"format {fmt.name} has no groups; name their size, such as {fmt.name}_g32")
    _check_tensors(value_, scale_, zero_point_)
    if type(axis) is not int or type(length) is not int:
        raise ShapeError(f"axis {axis!r} and length {length!r}: expected integers")
    rank, size = value_.ndim - 1, fmt.group_size
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is outside a quant tensor of rank {rank} (value_ is {tuple(value_.shape)})")
    axis %= rank
    count = -(-length // size)
    if tuple(value_.shape[axis : axis + 2]) != (count, size):
        raise ShapeError(
            f"value_ has shape {tuple(value_.shape)}, expected ({count}, {size}) on axes {axis} and {axis + 1}: "
            f"{length} elements in groups of {size}"
        )
    expected = (*value_.shape[: axis + 1], 1, *value_.shape[axis + 2 :])
    for name, part in (("scale_", scale_), ("zero_point_", zero_point_)):
        if part is not None and tuple(part.shape) != expected:
            raise ScaleShapeError(f"{name} has shape {tuple(part.shape)}, expected {expected}: one entry per group")
    if fmt.asymmetric != (zero_point_ is not None):
        raise ShapeError(
            f"format {fmt.name} {'needs a' if fmt.asymmetric else 'has no'} zero point; "
            f"found {'none' if zero_point_ is None else tuple(zero_point_.shape)}"
        )
    return axis


def _check_tensor_scale(tensor_scale, fmt: GroupFormat) -> None:
    if (fmt.scale == "nvfp4") != isinstance(tensor_scale, Tensor):
        raise ShapeError(f"format {fmt.name}: tensor_scale is {tensor_scale!r}; nvfp4 has one, others have none")


def _check_tensors(value_, scale_, zero_point_) -> None:
    if not isinstance(value_, Tensor) or not value_.is_floating_point():
        raise ShapeError(f"value_ is {getattr(value_, 'dtype', type(value_).__name__)}, expected a floating tensor")
    for name, part in (("scale_", scale_), ("zero_point_", zero_point_)):
        if part is None and name == "zero_point_":
            continue
        if not isinstance(part, Tensor) or part.dtype != torch.float32 or part.device != value_.device:
            found = f"{part.dtype} on {part.device}" if isinstance(part, Tensor) else type(part).__name__
            raise ShapeError(f"{name} is {found}, expected torch.float32 on {value_.device}")


def _refuse_transforms(x: Tensor) -> None:
    if transforms.in_torch_func() or forward_ad.unpack_dual(x).tangent is not None:
        raise UnsupportedError(
            "quantize: torch.func, vmap and forward-mode autograd cannot make quant tensors; quantize outside of them, "
            "or call mxexport.quant.fake_quantize there"
        )


# --- quantize ---------------------------------------------------------------------------------------------------


def quantize(
    x: Tensor,
    fmt: str | GroupFormat,
    axis: int = -1,
    scale_rule: ScaleRule = "floor",
    scaling_per_output: str | None = None,
    channel_axis: int = 0,
    scaling_per_output_channel: bool | None = None,
) -> GroupwiseFloatQuantTensor | GroupwiseIntQuantTensor:
    """Quantize a float tensor to a group format along `axis`.

    `value_` has the dtype of `x` (its gradient is straight-through), scales are float32. `scaling_per_output` is
    "group", or "channel" / "tensor" for one group as long as the axis whose scale repeats; by default it follows from
    the format: groups where the name ends in a group size, else the tensor. `scaling_per_output_channel` is deprecated
    (True: "channel", False: "tensor").

    Raises:
        FormatError: unknown format, unknown rule, or a rule the format cannot have.
        ShapeError: axis outside the rank, or `x` not a floating tensor.
    """
    check_input(x, axis, "quantize")
    per = resolve_scaling(scaling_per_output, scaling_per_output_channel)
    return quantize_with(Quantizer(get_format(fmt), axis, scale_rule, per, channel_axis), x)


def quantize_with(quantizer, x: Tensor) -> GroupwiseFloatQuantTensor | GroupwiseIntQuantTensor:
    """The quant tensor of `x` under a `Quantizer` or a scale source of `quantizers`, which gives the scales."""
    x = x.dequantize() if isinstance(x, GroupwiseQuantTensor) else x
    if not torch.compiler.is_compiling():
        _refuse_transforms(x)
    fmt, axis = quantizer.group_format(x), quantizer.axis % x.ndim
    if isinstance(quantizer, DynamicScale):
        quantizer = quantizer.core
    if isinstance(quantizer, Quantizer):
        value, scale, zero_point = quantizer.quantize(x)
    else:
        scale = quantizer.scale(x)
        zero_point = quantizer.zero_point(x, scale)
        value = quantizer.apply(x, scale, zero_point)
    if zero_point is None and fmt.asymmetric:
        zero_point = torch.zeros_like(scale)
    scale, zero_point = (
        None if part is None else quantizer.expand_scale(part, x).contiguous().unsqueeze(axis + 1)
        for part in (scale, zero_point)
    )
    value_ = operators.split_groups(value, axis, fmt.group_size)
    tensor_scale = None if torch.compiler.is_exporting() else quantizer.tensor_scale(x)  # it is for codes only
    return _Assemble.apply(value_, scale, zero_point, _registered(fmt).name, axis, x.shape[axis], tensor_scale)
