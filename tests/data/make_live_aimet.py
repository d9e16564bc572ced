"""Makes tests/data/live/aimet-*.npz: what models that aimet-torch 2.42 has quantized compute, on the CPU.

pip install --no-deps aimet-torch==2.42.0 jsonschema jsonschema-specifications referencing rpds-py attrs pandas psutil …
python -m tests.data.make_live_aimet

Its packages for plots and images (bokeh, hvplot, holoviews, torchvision, …) are not needed for any of this: where they
are not installed, empty modules stand for them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from contextlib import ExitStack

import torch
from torch import nn

from tests.checkpoint_network import WIDTH, edge_inputs
from tests.live_network import inputs, network, record

NOT_NEEDED = ("bokeh", "hvplot", "holoviews", "tensorboard", "torchvision", "cvxpy", "osqp")


class _Anything:
    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *args, **kwargs):
        return _Anything()

    def __mro_entries__(self, bases: tuple) -> tuple:
        return (object,)


class _Empty(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last, so it is asked for what is not installed."""

    def find_spec(self, name, path=None, target=None):
        wanted = name.partition(".")[0] in NOT_NEEDED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec):
        return _Empty(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(_Finder())

import aimet_torch.nn as aimet_nn  # noqa: E402
from aimet_torch import quantization  # noqa: E402
from aimet_torch.quantization.float.quantizer import _MXFP4QuantizeDequantize  # noqa: E402

QUANTIZERS = ("param_quantizers.weight", "input_quantizers.0", "output_quantizers.0")
ATTRIBUTES = ("qmin", "qmax", "block_size", "zero_point_shift", "_finfo", "get_scale()", "get_offset()")


def strict(bits: int, shape: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    """As many codes below 0 as above."""
    top = 2 ** (bits - 1) - 1
    return quantization.affine.QuantizeDequantize(shape, -top, top, True, block_size=blocks)


def whole(bits: int, symmetric: bool = True):
    """All codes of `bits`."""

    def made(shape: tuple[int, ...], blocks: tuple[int, ...] | None) -> nn.Module:
        return quantization.affine.QuantizeDequantize(shape, bits, symmetric, block_size=blocks)

    return made


def grouped(shape: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    """LPBQ: scales of blocks are whole multiples of one of each channel."""
    grouping = (1, -1, *[1] * (len(shape) - 2))
    return quantization.affine.GroupedBlockQuantizeDequantize(
        shape, 4, True, 8, block_size=blocks, block_grouping=grouping
    )


def minifloat(**finfo):
    def made(shape: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
        return quantization.float.FloatQuantizeDequantize(**finfo, shape=shape, block_size=blocks)

    return made


def channels(shape: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    """No blocks: one scale for each output channel."""
    return whole(8)((shape[0], *[1] * (len(shape) - 1)), None)


def tensor(shape: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    """One block for the tensor: AIMET divides by its scale then."""
    return whole(8)((1,), (-1,))


E2M1 = {"exponent_bits": 2, "mantissa_bits": 1, "finite": True, "unsigned_zero": False}
MODELS = {
    "int4": (whole(4), whole(8)),
    "int4-strict": (lambda *a: strict(4, *a), lambda *a: strict(8, *a)),
    "uint4": (whole(4, False), None),
    "lpbq": (grouped, None),
    "int8-channels": (channels, tensor),
    "e4m3": (minifloat(dtype=torch.float8_e4m3fn), minifloat(dtype=torch.float8_e4m3fn)),
    "e2m1": (minifloat(**E2M1), minifloat(**E2M1)),
    "mxfp4": (_MXFP4QuantizeDequantize, _MXFP4QuantizeDequantize),
}
"""Name -> quantizers of weights and of activations, from the shape of their scales and their block sizes."""


def quantized(name: str) -> nn.Module:
    """The network: blocks of 8 input channels in `conv`, of 32 in `wide`, calibrated on `inputs()`."""
    weight, activation = MODELS[name]
    model = network()
    for layer, kind in (("conv", aimet_nn.QuantizedConv2d), ("wide", aimet_nn.QuantizedLinear)):
        setattr(model, layer, kind.from_module(getattr(model, layer)))
    rows = model.wide.out_features
    model.conv.param_quantizers["weight"] = weight((4, 5, 1, 1), (1, 8, -1, -1))
    model.wide.param_quantizers["weight"] = weight((rows, WIDTH // 32), (1, 32))
    if activation is not None:
        model.conv.input_quantizers[0] = activation((1, 5, 1, 1), (-1, 8, -1, -1))
        model.conv.output_quantizers[0] = activation((4, 1, 1), (1, -1, -1))
        model.wide.input_quantizers[0] = activation((WIDTH // 32,), (32,))
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "compute_encodings") and hasattr(module, "get_scale"):
                stack.enter_context(module.compute_encodings())
        model(inputs())
    return model.requires_grad_(False)


@torch.no_grad()
def main() -> None:
    for name in MODELS:
        model = quantized(name)
        arrays = {
            f"{x}.weight": getattr(model, x).param_quantizers["weight"](getattr(model, x).weight)
            for x in ("conv", "wide")
        }
        if (edges := model.wide.input_quantizers[0]) is not None:
            arrays["edges"] = edges(edge_inputs())
            rows = edge_inputs()[:, :4, None, None]
            arrays["conv.output_edges"] = model.conv.output_quantizers[0](rows)
        arrays["output"] = model(inputs())
        arrays = {key: value.as_subclass(torch.Tensor) for key, value in arrays.items()}
        record(f"aimet-{name}", model, QUANTIZERS, ATTRIBUTES, **arrays)


if __name__ == "__main__":
    main()
