"""Configs of AMD Quark: `quant_method` "quark".

Scale rules of version 0.13: even, floor or ceil by name. Its floor and ceil go through a float32 log2, which is wrong
for largest magnitudes a few steps below a power of two; there the tool takes another scale. FP4 and FP6 have +0 only.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from torch import nn

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

FORMATS = {
    "fp4": "mxfp4_e2m1",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp8_e4m3": "mxfp8_e4m3",
    "fp8_e5m2": "mxfp8_e5m2",
}
_NOT_CARRIED = {
    "algo_config": "changes weights and activations beside their quantizers",
    "kv_cache_quant_config": "quantizes the cache of attention",
    "softmax_quant_spec": "quantizes softmax",
}


class Quark:
    tool = "Quark"

    def __init__(self, config: Mapping):
        where = "quantization_config"
        refuse_set(config, _NOT_CARRIED, where)
        self.exclude = names(config, "exclude", where)
        self.everywhere = table(config, "global_quant_config", where)
        self.by_name, self.by_type = (config.get(f"{key}_quant_config") or {} for key in ("layer", "layer_type"))
        for given in (self.by_name, self.by_type):
            if not isinstance(given, Mapping):
                raise UnsupportedError(f"{where}: a table by layer is {type(given).__name__}; expected a table")

    def layer(self, name: str, module: nn.Module) -> LayerPlan:
        if any(_matches(pattern, name) for pattern in self.exclude):
            return FLOAT
        config = self._config_of(name, module)
        refuse_set(config, {"output_tensors": "quantizes outputs", "bias": "quantizes biases"}, name)
        if config.get("weight") is None:
            return FLOAT
        weight = _mx_format(config["weight"], "weight")
        given = config.get("input_tensors")
        inputs: MakeInput = (lambda tensors: None) if given is None else _input(given)
        # The global config reaches Linear layers; embeddings are quantized where a table names them.
        quantized = True if isinstance(module, nn.Linear) else None
        return LayerPlan(quantized, inputs, weight if "mxfp6" in weight else None)

    def _config_of(self, name: str, module: nn.Module) -> Mapping:
        for pattern in self.by_name:
            if _matches(pattern, name):
                return table(self.by_name, pattern, "layer_quant_config")
        kind = next((cls.__name__ for cls in type(module).__mro__ if cls.__name__ in self.by_type), None)
        return self.everywhere if kind is None else table(self.by_type, kind, "layer_type_quant_config")


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return matches_regex(pattern.removeprefix("re:"), name)
    return fnmatch.fnmatchcase(name, pattern)


def _mx_format(spec: object, what: str) -> str:
    """The format that a table of a `QTensorConfig` describes."""
    if not isinstance(spec, Mapping):
        raise UnsupportedError(f"its {what} is given by {type(spec).__name__}; expected a table (one level of scales)")
    kind = {key: spec.get(key) for key in ("dtype", "qscheme", "group_size", "ch_axis", "scale_format")}
    dtype = kind.pop("dtype")
    wanted = {"qscheme": "per_group", "group_size": 32, "ch_axis": -1, "scale_format": "e8m0"}
    if dtype not in FORMATS or kind != wanted or spec.get("is_scale_quant"):
        told = ", ".join(f"{key} {value!r}" for key, value in {"dtype": dtype, **kind}.items())
        raise UnsupportedError(
            f"its {what} is quantized with {told}; carried are {', '.join(FORMATS)} per group of 32 along axis -1 "
            "with scales of e8m0"
        )
    return FORMATS[dtype]


def _input(spec: object) -> MakeInput:
    fmt = _mx_format(spec, "input")
    rule = spec.get("scale_calculation_mode") or "even"
    if rule not in ("even", "floor", "ceil") or not spec.get("is_dynamic"):
        raise UnsupportedError(f"its input has scale_calculation_mode {rule!r}, is_dynamic {spec.get('is_dynamic')!r}; "
                               "carried are even, floor and ceil, found at run time")  # fmt: skip
    return dynamic_input(fmt, rule, "kept" if "mxfp8" in fmt else "cleared after")
