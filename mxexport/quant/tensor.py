"""Quant tensors: contracted storage, expanded on demand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mxexport.formats import GroupFormat, get_format
from mxexport.numerics import NVFP4_SCALE
from mxexport.quant import kernels
from mxexport.quant.fake import Quantizer, check_input


class GroupwiseQuantTensor(Tensor):
    """A groupwise quantized tensor that behaves as the dequantized one.

    Stored, contracted (G = group size, n = ceil(K / G) groups on the axis):
        value_       (..., n, G, ...) dequantized values, the tail of a short last group zero
        scale_       (..., n, 1, ...) float32
        zero_point_  like scale_, float32 with whole values; None for symmetric formats
    Expanded on demand to the tensor's own shape, padding removed: `value`, `scale`, `zero_point`.
    """

    @staticmethod
    def __new__(cls, value_, scale_, zero_point_, fmt: str, axis: int, length: int, tensor_scale=None):
        shape = (*value_.shape[:axis], length, *value_.shape[axis + 2 :])
        return Tensor._make_wrapper_subclass(cls, shape, dtype=value_.dtype, device=value_.device, requires_grad=False)

    def __init__(self, value_, scale_, zero_point_, fmt: str, axis: int, length: int, tensor_scale=None):
        self.value_, self.scale_, self.zero_point_ = value_, scale_, zero_point_
        self.tensor_scale = tensor_scale
        self._format_name, self._axis = fmt, axis

    @property
    def format(self) -> GroupFormat:
        return get_format(self._format_name)

    @property
    def axis(self) -> int:
        return self._axis

    @property
    def group_size(self) -> int:
        return self.format.group_size

    # --- expanded ---------------------------------------------------------------------------------------------

    def _join(self, grouped: Tensor) -> Tensor:
        return kernels.join_groups(grouped, self._axis, self.shape[self._axis])

    def _expand(self, contracted: Tensor) -> Tensor:
        sizes = [-1] * contracted.ndim
        sizes[self._axis + 1] = self.group_size
        return self._join(contracted.expand(sizes))

    @property
    def value(self) -> Tensor:
        """Dequantized values, a plain tensor of `shape`."""
        return self._join(self.value_)

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
        raise NotImplementedError

    @property
    def scale_codes(self) -> Tensor | None:
        """E8M0 codes (..., n, 1, ...) uint8; for nvfp4 the E4M3 codes; None where the scale is a float."""
        if self.format.is_mx:
            return kernels.scale_codes(self.scale_, self.format.step_frac_bits)
        if self.format.scale == "nvfp4":
            return kernels.encode_float(self.scale_ / self.tensor_scale, NVFP4_SCALE)
        return None

    def _element_values(self) -> Tensor:
        value = self.value_.float()
        return torch.where(value == 0, value, value / self.scale_)

    # --- tensor protocol --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(format={self._format_name}, shape={tuple(self.shape)}, axis={self._axis}, "
            f"scale_={tuple(self.scale_.shape)}, dtype={self.dtype})\n{self.value}"
        )

    def __tensor_flatten__(self):
        inner = [n for n in ("value_", "scale_", "zero_point_", "tensor_scale") if getattr(self, n) is not None]
        return inner, (self._format_name, self._axis, self.shape[self._axis])

    @classmethod
    def __tensor_unflatten__(cls, inner, meta, outer_size, outer_stride):
        fmt, axis, length = meta
        return cls(
            inner["value_"], inner["scale_"], inner.get("zero_point_"), fmt, axis, length, inner.get("tensor_scale")
        )

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Any torch function sees the dequantized values and returns a plain tensor."""
        if func in _OWN:
            return super().__torch_function__(func, types, args, kwargs or {})
        plain = tree_map(_dequantized, (args, kwargs or {}))
        return func(*plain[0], **plain[1])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        plain = tree_map(_dequantized, (args, kwargs or {}))
        return func(*plain[0], **plain[1])


def _dequantized(x):
    return x.value if isinstance(x, GroupwiseQuantTensor) else x


# Attributes of the tensor object itself, not of its values.
_OWN = {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_leaf", "requires_grad")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__repr__}


class GroupwiseFloatQuantTensor(GroupwiseQuantTensor):
    """Minifloat elements; `codes` are uint8 bit patterns."""

    @property
    def codes(self) -> Tensor:
        return kernels.encode_float(self._element_values(), self.format.element)


class GroupwiseIntQuantTensor(GroupwiseQuantTensor):
    """Integer elements; `scale_` is the step of one integer."""

    @property
    def codes(self) -> Tensor:
        q = self._element_values()
        if self.zero_point_ is not None:
            q = q + self.zero_point_
        dtype = torch.int8 if self.format.element.signed else torch.uint8
        return torch.round(torch.nan_to_num(q)).to(dtype)


def quantize(
    x: Tensor, fmt: str | GroupFormat, axis: int = -1, scale_rule: str = "floor"
) -> GroupwiseFloatQuantTensor | GroupwiseIntQuantTensor:
    """Quantize a float tensor to a group format along `axis`.

    `value_` has the dtype of `x` (its gradient is straight-through), scales are float32.

    Raises:
        FormatError: unknown format, unknown rule, or a rule the format cannot have.
        ShapeError: axis outside the rank, or `x` not a floating tensor.
    """
    check_input(x, axis, "quantize")
    fmt, axis = get_format(fmt), axis % x.ndim
    quantizer = Quantizer(fmt, axis, scale_rule)
    tensor_scale = kernels.nvfp4_scale(x, axis, fmt.group_size)[1] if fmt.scale == "nvfp4" else None
    value, scale, zero_point = quantizer.quantize(x)
    cls = GroupwiseFloatQuantTensor if fmt.is_float else GroupwiseIntQuantTensor
    return cls(
        kernels.split_groups(value, axis, fmt.group_size),
        scale.unsqueeze(axis + 1),
        None if zero_point is None else zero_point.unsqueeze(axis + 1),
        fmt.name,
        axis,
        x.shape[axis],
        tensor_scale,
    )
