"""Makes tests/data/live/modelopt-*.npz: what models that nvidia-modelopt 0.47 has quantized compute.

    pip install --no-deps nvidia-modelopt==0.47.0 triton==3.5.0 … (see make_modelopt)
    TRITON_INTERPRET=1 python -m tests.data.make_live_modelopt

Its quantizers compute on GPUs only. MX: the functions of its CUDA source, which are host functions, too, built with
g++; around them the few lines of its kernel that find the largest magnitude of a group. NVFP4: its Triton kernel in
Triton's interpreter (see make_modelopt_inputs). Divisions are rounded correctly here, and approximate on a GPU.
"""

from __future__ import annotations

import copy
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import modelopt
import modelopt.torch.quantization as mtq
import numpy as np
import torch
import triton
from modelopt.torch.quantization import tensor_quant
from torch import Tensor, nn
from triton.runtime import interpreter

from tests.checkpoint_network import edge_inputs
from tests.data.make_modelopt_inputs import _to_nearest, kernel_module
from tests.live_network import inputs, network, record

CONFIGS = {
    "mxfp4": (mtq.MXFP4_DEFAULT_CFG, None),
    "mxfp6-e3m2": (mtq.MXFP6_DEFAULT_CFG, None),
    "mxfp6-e2m3": (mtq.MXFP6_DEFAULT_CFG, (2, 3)),
    "mxfp8-e4m3": (mtq.MXFP8_DEFAULT_CFG, None),
    "mxfp8-e5m2": (mtq.MXFP8_DEFAULT_CFG, (5, 2)),
    "mxint8": (mtq.MXINT8_DEFAULT_CFG, None),
    "nvfp4": (mtq.NVFP4_DEFAULT_CFG, None),
    "mxfp4-conv": (mtq.MXFP4_DEFAULT_CFG, None),
    "mxfp8-conv": (mtq.MXFP8_DEFAULT_CFG, None),
    "mxint8-conv": (mtq.MXINT8_DEFAULT_CFG, None),
}
ATTRIBUTES = ("is_enabled", "num_bits", "block_sizes", "pre_quant_scale", "rotate_is_enabled", "backend", "bias",
              "fake_quant", "_amax")  # fmt: skip
QUANTIZERS = ("input_quantizer", "weight_quantizer", "output_quantizer")
TYPES = {name: code for code, name in enumerate(["E4M3", "E5M2", "INT8", "E0M3", "E1M2", "E3M0", "E2M1", "E3M2",
                                                 "E2M3", "E8M0"])}  # fmt: skip

_BEFORE = """
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cfloat>
#include <stdexcept>
#include <string>
#include <tuple>
using std::isinf;
using std::isnan;
#define __device__
#define __host__
#define __inline__ inline
namespace cuda { namespace std = ::std; }
// CUDA's: to nearest even, saturating.
template <int E, int M, int TOP> struct minifloat {
  float value;
  explicit minifloat(float x) {
    const int bias = (1 << (E - 1)) - 1;
    int exponent = x == 0 ? 1 - bias : std::max(std::ilogb(x), 1 - bias);
    float step = std::ldexp(1.f, exponent - M);
    value = std::min(std::nearbyint(std::fabs(x) / step) * step, (float)TOP);
    value = std::copysign(value, x);
  }
  explicit operator float() const { return value; }
};
using __nv_fp8_e4m3 = minifloat<4, 3, 448>;
using __nv_fp8_e5m2 = minifloat<5, 2, 57344>;
"""
_AFTER = """
extern "C" void rows(const float *x, float *y, int64_t rows, int64_t columns, int size, int format) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t first = 0; first < columns; first += size) {
      const float *from = x + row * columns + first;
      int64_t count = std::min<int64_t>(size, columns - first);
      float amax = 0.f, scale, unscale;
      for (int64_t i = 0; i < count; ++i) amax = std::fmax(amax, std::fmin(std::fabs(from[i]), FLT_MAX));
      std::tie(scale, unscale) = compute_scale(amax, (Types)format, Types::E8M0);
      for (int64_t i = 0; i < count; ++i)
        y[row * columns + first + i] = from[i] == 0 ? 0.f : quantize(from[i], scale, unscale, (Types)format);
    }
}
"""


def host_functions() -> ctypes.CDLL:
    home = Path(modelopt.__file__).parent / "torch" / "kernels" / "quantization" / "gemm"
    header = (home / "tensor_quant_mx.h").read_text().replace("#include <cuda_fp8.h>", "")
    source = (home / "tensor_quant_mx.cu").read_text()
    source = source[source.index("namespace {") : source.index("template <int THREAD_X, int THREAD_Y = 4>")]
    source = source[: source.rindex("namespace {")]
    built = Path(tempfile.mkdtemp()) / "mx"
    built.with_suffix(".cpp").write_text(_BEFORE + header + source + _AFTER)
    subprocess.run(["g++", "-std=c++20", "-O1", "-shared", "-fPIC", f"{built}.cpp", "-o", f"{built}.so"], check=True)
    return ctypes.CDLL(f"{built}.so")


class Extension:
    """In the place of ModelOpt's CUDA extension."""

    def __init__(self):
        self.library = host_functions()
        self.Types = type("Types", (), TYPES)

    def fused_amax_convert(self, x: Tensor, size: int, fmt: int, scale_format: int, amax: Tensor | None) -> Tensor:
        assert amax is None and scale_format == TYPES["E8M0"]
        x = x.detach().contiguous().float()
        y = torch.empty_like(x)
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, y))
        shape = (ctypes.c_int64(x.numel() // x.shape[-1]), ctypes.c_int64(x.shape[-1]))
        self.library.rows(*pointers, *shape, ctypes.c_int(size), ctypes.c_int(fmt))
        return y


def nvfp4_kernel():
    """`fp4_fake_quant_block` on the CPU."""
    interpreter._convert_float = _to_nearest
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "modelopt"}
    kernel = kernel_module(Path(modelopt.__file__).parent.parent).fp4_fake_quant_kernel
    sys.modules.update(kept)

    def quantized(x: Tensor, amax: Tensor, block_size: int = 16) -> Tensor:
        flat = x.detach().reshape(-1, x.shape[-1]).contiguous()
        y, columns = torch.empty_like(flat), flat.shape[1]
        blocks = {"BLOCK_SIZE": 16, "TILE_M": 16, "TILE_N": columns, "NUM_FP4_BLOCKS": columns // 16}
        kernel[(triton.cdiv(len(flat), 16), 1)](
            flat, y, *flat.shape, amax.float().reshape(1) / (6.0 * 448.0), *flat.stride(), *y.stride(), **blocks,
            OUT_DTYPE=triton.language.float32,
        )  # fmt: skip
        return y.reshape(x.shape)

    return quantized


def quantized(name: str) -> nn.Module:
    config, bits = CONFIGS[name]
    config = copy.deepcopy(config)
    loop = (lambda model: model(inputs())) if name == "nvfp4" else None
    model = mtq.quantize(network(), config, loop)
    for layer in ("last",) if name.endswith("-conv") else ("conv", "last"):
        for quantizer in QUANTIZERS:
            getattr(model.get_submodule(layer), quantizer).disable()
    for quantizer in (model.wide.input_quantizer, model.wide.weight_quantizer):
        quantizer.num_bits = bits or quantizer.num_bits
    return model


@torch.no_grad()
def main() -> None:
    extension, kernel = Extension(), nvfp4_kernel()
    tensor_quant.get_cuda_ext_mx = lambda raise_if_failed=False: extension
    mx_impl = tensor_quant._dynamic_block_quantize_impl

    def dynamic(x, block_size, amax, bits, exponent_bits, scale_bits, scale_exponent_bits):
        if scale_exponent_bits == 4:
            return kernel(x, amax)
        return mx_impl(x, block_size, amax, bits, exponent_bits, scale_bits, scale_exponent_bits)

    tensor_quant.dynamic_block_quantize_op = dynamic
    for name in CONFIGS:
        model = quantized(name)
        edges = model.wide.input_quantizer(edge_inputs())
        weight = model.wide.weight_quantizer(model.wide._parameters["weight"])
        arrays = {"wide.weight": weight, "edges": edges, "output": model(inputs())}
        if name.endswith("-conv"):
            arrays["conv.weight"] = model.conv.weight_quantizer(model.conv._parameters["weight"])
            arrays["conv.edges"] = model.conv.input_quantizer(edge_inputs()[None, None])
        record(f"modelopt-{name}", model, QUANTIZERS, ATTRIBUTES, **arrays)
        print(name, type(model.wide), np.unique(weight).size)


if __name__ == "__main__":
    main()
