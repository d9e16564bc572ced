"""Configs of NVIDIA ModelOpt: `quant_method` "modelopt" in config.json, or hf_quant_config.json alone.

Activations are what the tool's own kernels compute with correctly rounded divisions (MX: rceil); on a GPU these are
approximate, which may give a group beside a threshold another scale. Its packer of MXFP4 weights rounds ties towards
zero, unlike its own training: stored codes are read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.checkpoints.plans import FLOAT, LayerPlan, MakeInput, dynamic_input, names, refuse_set, table
from mxexport.frontends.checkpoints.weights import positive
from mxexport.frontends.inputs import ModelOptNVFP4Input
from mxexport.numbers.formats import get_format
from mxexport.quant import Quantizer, QuantLayer

_RULE = "rceil"


def _nvfp4_input(tensors: Mapping[str, Tensor]) -> Quantizer:
    if "input_scale" not in tensors:
        raise UnsupportedError("its input is quantized as NVFP4 and has no input_scale; calibrate before storing")
    level = float(positive(tensors["input_scale"], "its input_scale"))
    return ModelOptNVFP4Input(get_format("nvfp4"), QuantLayer.input_axis, zeros="cleared after", level=level)


_INPUTS: dict[str, MakeInput] = {
    "MXFP8": dynamic_input("mxfp8_e4m3", _RULE),
    "MXFP4": dynamic_input("mxfp4_e2m1", _RULE),
    "NVFP4": _nvfp4_input,
    "W4A16_NVFP4": lambda tensors: None,
}
"""quant_algo -> quantizer of inputs."""


class ModelOpt:
    tool = "ModelOpt"

    def __init__(self, config: Mapping):
        """`config`: quantization_config, or the table `quantization` of hf_quant_config.json."""
        cache = {"kv_cache_scheme": "quantizes the cache of attention", "kv_cache_quant_algo": "quantizes it, too"}
        refuse_set(config, cache, "the quantization config")
        self.ignore = [*names(config, "ignore", "config"), *names(config, "exclude_modules", "config")]
        self.algorithm = config.get("quant_algo")
        self.by_layer = table(config, "quantized_layers", "config") if self.algorithm == "MIXED_PRECISION" else None

    def layer(self, name: str, module: nn.Module) -> LayerPlan:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignore):
            return FLOAT
        algorithm = self.algorithm
        if self.by_layer is not None:
            if name not in self.by_layer:
                return FLOAT
            algorithm = table(self.by_layer, name, "quantized_layers").get("quant_algo")
        return LayerPlan(True if isinstance(module, nn.Linear) else None, _input(algorithm))


def _input(algorithm: object) -> MakeInput:
    found = _INPUTS.get(str(algorithm).upper())
    if found is None:
        raise UnsupportedError(f"quant_algo {algorithm!r} is not carried; expected one of {', '.join(_INPUTS)}")
    return found
