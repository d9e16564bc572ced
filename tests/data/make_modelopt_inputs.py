"""Adds `up.quantized` to tests/data/checkpoints/modelopt-nvfp4/expected.npz: ModelOpt's own Triton kernel for NVFP4
activations, run by Triton's interpreter on the CPU.

    pip install --no-deps triton==3.5.0 nvidia-modelopt==0.47.0
    TRITON_INTERPRET=1 python -m tests.data.make_modelopt_inputs <folder that holds modelopt>

The interpreter's own cast to E4M3 does not round subnormals; torch's takes its place (to nearest even, as GPUs do).
Divisions are rounded correctly here, and approximate on a GPU.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import torch
import triton
from safetensors.torch import load_file
from triton.runtime import interpreter

from tests.checkpoint_network import WIDTH, edge_inputs

FOLDER = Path(__file__).parent / "checkpoints" / "modelopt-nvfp4"
_cast = interpreter._convert_float


def _to_nearest(data: np.ndarray, given, wanted, rounding):
    if (str(given), str(wanted)) != ("fp32", "fp8e4nv"):
        return _cast(data, given, wanted, rounding)
    code = torch.from_numpy(np.ascontiguousarray(data)).to(torch.float8_e4m3fn)
    return code.view(torch.uint8).numpy().reshape(data.shape)


def kernel_module(site: Path) -> types.ModuleType:
    """The file of the kernel, without the package around it, which wants a GPU."""
    for name in ("", ".torch", ".torch.quantization", ".torch.quantization.utils"):
        sys.modules[f"modelopt{name}"] = types.ModuleType(f"modelopt{name}")
    numbers = sys.modules["modelopt.torch.quantization.utils.numeric_utils"] = types.ModuleType("numeric_utils")
    numbers.E4M3_MAX = 448.0
    home = site / "modelopt" / "torch" / "kernels" / "quantization"
    for name, path in (("kernels", home), ("kernels.common", home / "common"), ("kernels.gemm", home / "gemm")):
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(path)]
    return importlib.import_module("kernels.gemm.fp4_kernel_hopper")


def main(site: Path) -> None:
    interpreter._convert_float = _to_nearest
    x, scale = edge_inputs(), load_file(FOLDER / "model.safetensors")["up.input_scale"]
    y = torch.empty_like(x)
    blocks = {"BLOCK_SIZE": 16, "TILE_M": 16, "TILE_N": WIDTH, "NUM_FP4_BLOCKS": WIDTH // 16}
    kernel_module(site).fp4_fake_quant_kernel[(triton.cdiv(len(x), 16), 1)](
        x, y, *x.shape, scale, *x.stride(), *y.stride(), **blocks, OUT_DTYPE=triton.language.float32
    )
    kept = dict(np.load(FOLDER / "expected.npz"))
    np.savez_compressed(FOLDER / "expected.npz", **(kept | {"up.quantized": y.numpy()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
