"""Configs of compressed-tensors (and llm-compressor): `quant_method` "compressed-tensors".

Scale rules, as found in version 0.20: even for FP4 and FP6; for FP8 the addend of FP4, which is none of the four rules.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.checkpoints.plans import (
    FLOAT,
    LayerPlan,
    MakeInput,
    dynamic_input,
    matches_regex,
    names,
    refuse_set,
    table,
)
from mxexport.frontends.checkpoints.weights import positive
from mxexport.frontends.inputs import CompressedTensorsNVFP4Input
from mxexport.numbers.formats import ScaleRule, get_format
from mxexport.quant import Quantizer, QuantLayer

FP8_RULE = 0x200000
_MX: dict[int, tuple[str, ScaleRule]] = {
    4: ("mxfp4_e2m1", "even"),
    6: ("mxfp6_e2m3", "even"),
    8: ("mxfp8_e4m3", FP8_RULE),
}
_NOT_CARRIED = {
    "transform_config": "rotates activations",
    "sparsity_config": "leaves weights out",
    "kv_cache_scheme": "quantizes the cache of attention",
}


class CompressedTensors:
    tool = "compressed-tensors"

    def __init__(self, config: Mapping):
        where = "quantization_config"
        refuse_set(config, _NOT_CARRIED, where)
        self.ignore = names(config, "ignore", where)
        self.schemes: dict[str, Mapping] = {}
        for group in table(config, "config_groups", where):
            scheme = table(config["config_groups"], group, where)
            refuse_set(scheme, {"output_activations": "quantizes outputs"}, group)
            for target in names(scheme, "targets", group):
                self.schemes[target] = scheme

    def layer(self, name: str, module: nn.Module) -> LayerPlan:
        ranks = {target: _rank(target, name, module) for target in self.schemes}
        matching = sorted((rank, target) for target, rank in ranks.items() if rank is not None)
        if not matching or any(_rank(pattern, name, module) is not None for pattern in self.ignore):
            return FLOAT
        found = matching[0][1]
        scheme = self.schemes[found]
        weights = table(scheme, "weights", f"the group of {found!r}")
        refuse_set(weights, {"actorder": "reorders columns"}, "weights")
        given = scheme.get("input_activations")
        return LayerPlan(True, _input(given) if given else lambda tensors: None)


def _rank(target: str, name: str, module: nn.Module) -> int | None:
    """How a target matches: its name comes before a pattern, and that before a class, as in the tool; None: not."""
    if target == name:
        return 0
    if target.startswith("re:"):
        return 1 if matches_regex(target.removeprefix("re:"), name) else None
    classes = (cls.__name__ for cls in type(module).__mro__ if issubclass(cls, nn.Module))
    return 2 if target in classes else None


def _input(args: object) -> MakeInput:
    """The input quantizer that a table of `QuantizationArgs` describes."""
    if not isinstance(args, Mapping):
        raise UnsupportedError(f"input_activations is {type(args).__name__}; expected a table")
    kind = tuple(args.get(key) for key in ("strategy", "group_size", "scale_dtype", "dynamic"))
    bits = args.get("num_bits")
    if args.get("type") == "float" and args.get("symmetric") is not False:
        if kind == ("group", 32, "torch.uint8", True) and bits in _MX:
            return dynamic_input(*_MX[bits], zeros="cleared before")
        if kind == ("tensor_group", 16, "torch.float8_e4m3fn", "local") and bits == 4:
            return _nvfp4_input
    told = ", ".join(f"{key} {value!r}" for key, value in args.items() if value is not None)
    raise UnsupportedError(
        f"its input is quantized with {told}; carried are MX (float, groups of 32, uint8 scales, "
        "dynamic) and NVFP4 (float of 4 bits, tensor_group of 16, float8_e4m3fn scales, dynamic 'local')"
    )


def _nvfp4_input(tensors: Mapping[str, Tensor]) -> Quantizer:
    if "input_global_scale" not in tensors:
        raise UnsupportedError("its input is quantized as NVFP4 and has no input_global_scale")
    level = float(positive(tensors["input_global_scale"], "its input_global_scale"))
    return CompressedTensorsNVFP4Input(get_format("nvfp4"), QuantLayer.input_axis, zeros="cleared before", level=level)
