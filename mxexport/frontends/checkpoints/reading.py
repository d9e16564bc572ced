"""A float model and a checkpoint's folder -> the quantized model, without the tool that wrote the checkpoint.

Codes and scales are read, never found again. What differs from the tool, by name:

    computation         products in float32; tools that store bfloat16 multiply in bfloat16
    MX activations      the tool's scale rule, exactly; groups whose largest magnitude is beside FLT_MAX are NaN in
                        compressed-tensors, and Inf or a number here
    zeros               the sign of zero where a tool clears it, unless asked for (`exact_zeros`)
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mxexport.errors import InputFileError, UnsupportedError
from mxexport.frontends.checkpoints import weights
from mxexport.frontends.checkpoints.compressed_tensors import CompressedTensors
from mxexport.frontends.checkpoints.files import Checkpoint, open_checkpoint
from mxexport.frontends.checkpoints.gpt_oss import BLOCKS, SCALES, GptOss, read_parameter
from mxexport.frontends.checkpoints.modelopt import ModelOpt
from mxexport.frontends.checkpoints.plans import LayerPlan, Plan, short
from mxexport.frontends.checkpoints.quark import Quark
from mxexport.frontends.inputs import ToolInput
from mxexport.frontends.stored import StoredEmbedding, StoredLayer, StoredLinear, StoredParameter
from mxexport.quant import QUANT_LAYERS, QuantLayer
from mxexport.quant.layers.all_layers import quantized_kind
from mxexport.quant.report import ConversionReport, FloatLayer, attach, describe

_TOOLS = {"compressed-tensors": CompressedTensors, "modelopt": ModelOpt, "mxfp4": GptOss, "quark": Quark}
_SHOWN = 10
"""Names that a message spells out."""


def from_checkpoint(model: nn.Module, folder: str | os.PathLike, *, exact_zeros: bool = False) -> nn.Module:
    """The quantized model (float32, eval mode, no trainable weights) of `model` with the parameters of a checkpoint.

    Read are MXFP4, MXFP6, MXFP8 and NVFP4 weights of Linear and Embedding layers from safetensors files, with their
    stored codes and scales; input quantizers come from the config. The tool that wrote the checkpoint is not needed.

    Args:
        model: the float model whose layers have the names in the checkpoint; it is left as it is, and may stand on the
            meta device.
        folder: holds config.json (or hf_quant_config.json) and *.safetensors.
        exact_zeros: also clear the sign of zero where the tool does, at two subtractions for each input quantizer.

    Raises:
        InputFileError: no such folder, damaged files, or names that do not fit those of `model`.
        UnsupportedError: a tool or scheme that is not known, or layers that cannot be carried (each is named).
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"from_checkpoint: expected a torch.nn.Module, found {type(model).__name__}")
    checkpoint = open_checkpoint(Path(folder))
    reading = _Reading(model, checkpoint, read_plan(checkpoint), exact_zeros)
    reading.read_layers()
    return reading.assemble()


def read_plan(checkpoint: Checkpoint) -> Plan:
    """What the config of a checkpoint says.

    Raises:
        InputFileError: no config, or one that is no JSON object.
        UnsupportedError: not quantized, by a tool that is not known, or in a way that is not carried.
    """
    found, where = _quantization_config(checkpoint)
    method = found.get("quant_method")
    if method not in _TOOLS:
        raise UnsupportedError(
            f"{where}: quant_method {short(method)} is not known; expected one of {', '.join(_TOOLS)}"
        )
    try:
        return _TOOLS[method](found)
    except UnsupportedError as error:
        raise UnsupportedError(f"{where}: {error}") from None


def _quantization_config(checkpoint: Checkpoint) -> tuple[Mapping, Path]:
    """The table that says how weights are quantized, and its file: config.json, else ModelOpt's own."""
    config, where = checkpoint.json("config.json"), checkpoint.folder / "config.json"
    found = None if config is None else config.get("quantization_config")
    own = checkpoint.json("hf_quant_config.json") if found is None else None
    if own is not None:
        where, found = checkpoint.folder / "hf_quant_config.json", own.get("quantization")
        found = {"quant_method": "modelopt", **found} if isinstance(found, Mapping) else found
    if found is None and config is None:
        raise InputFileError(f"{checkpoint.folder}: no config.json; it says what the tensors mean")
    if not isinstance(found, Mapping):
        raise UnsupportedError(f"{where} has no table of quantization; is the model quantized?")
    return found, where


class _Reading:
    """One checkpoint on its way into one model. A module may have several names, and files may use any of them."""

    def __init__(self, model: nn.Module, checkpoint: Checkpoint, plan: Plan, exact_zeros: bool):
        self.model, self.checkpoint, self.plan, self.exact_zeros = model, checkpoint, plan, exact_zeros
        self.modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        self.layers: dict[nn.Module, StoredLayer] = {}
        self.experts: dict[str, StoredParameter] = {}
        self.state: dict[str, Tensor] = {}
        self.lower_precision: list[str] = []

    def read_layers(self) -> None:
        """Quantized layers, and the float tensors of everything else. Raises as `from_checkpoint`."""
        problems = []
        for name, parts in self._by_layer().items():
            try:
                self._read_layer(name, parts)
            except UnsupportedError as error:
                problems.append((name or "the model itself", str(error)))
        if problems:
            raise UnsupportedError(f"from_checkpoint: {self.checkpoint.folder}: layers that cannot be read", problems)
        if not self.layers and not self.experts:
            raise UnsupportedError(f"from_checkpoint: {self.checkpoint.folder}: no layer has a quantized weight")

    def _by_layer(self) -> dict[str, list[str]]:
        """Module name -> last parts of the names of its tensors. Raises InputFileError for names of no module."""
        found: dict[str, list[str]] = {}
        for name in self.checkpoint.shards:
            layer, _, part = name.rpartition(".")
            found.setdefault(layer, []).append(part)
        _refuse_names(self.checkpoint, "no module of the model is called", sorted(found.keys() - self.modules.keys()))
        return found

    def _read_layer(self, name: str, parts: list[str]) -> None:
        module = self.modules[name]
        kind = quantized_kind(module)
        if kind not in (QUANT_LAYERS[nn.Linear], QUANT_LAYERS[nn.Embedding]):
            packed = [part for part in parts if part.endswith(BLOCKS)] if isinstance(self.plan, GptOss) else []
            for part in packed:
                self._read_experts(name, part.removesuffix(BLOCKS), parts)
            if strange := sorted(set(parts) & (weights.PARTS - {"weight"})):
                raise UnsupportedError(
                    f"{strange[0]} is that of a quantized layer, and {type(module).__name__} is no Linear or Embedding "
                    "whose computation is known"
                )
            taken = {stem + end for stem in (part.removesuffix(BLOCKS) for part in packed) for end in (BLOCKS, SCALES)}
            self._read_floats(name, [part for part in parts if part not in taken])
            return
        if "forward" in vars(module):
            raise UnsupportedError("its forward was replaced on this object; what it computes now is not known")
        plan = self.plan.layer(name, module)
        known = [part for part in parts if part in weights.PARTS | weights.INPUT_PARTS]
        tensors = {part: self._tensor(name, part) for part in known}
        quantized = weights.is_quantized(tensors)
        if plan.quantized is not None and quantized != plan.quantized:
            says, holds = ("quantized", "float") if plan.quantized else ("float", "quantized")
            raise UnsupportedError(f"the config calls it {says}, and the files hold a {holds} weight")
        if not quantized:
            self._read_floats(name, parts)
            return
        self._read_floats(name, [part for part in parts if part not in known])
        if module in self.layers:
            raise UnsupportedError("its weight is stored under two names, of a module that is shared")
        self.layers[module] = self._stored(module, tensors, plan)

    def _read_experts(self, layer: str, part: str, parts: list[str]) -> None:
        own = self.modules[layer]._parameters.get(part)
        if own is None or part + SCALES not in parts:
            missing = "parameter of the model" if own is None else f"tensor {part + SCALES}"
            raise UnsupportedError(f"there is no {missing} for {part + BLOCKS}")
        blocks, scales = (self._tensor(layer, part + end) for end in (BLOCKS, SCALES))
        try:
            values, parametrization = read_parameter(blocks, scales, tuple(own.shape))
        except UnsupportedError as error:
            raise UnsupportedError(f"{part}: {error}") from None
        name = f"{layer}.{part}".lstrip(".")
        self.state[name], self.experts[name] = values, parametrization

    def _stored(self, module: nn.Module, tensors: Mapping[str, Tensor], plan: LayerPlan) -> StoredLayer:
        if isinstance(module, nn.Embedding):
            stored = weights.read_weight(tensors, (module.num_embeddings, module.embedding_dim), plan.six_bits)
            if (reason := QUANT_LAYERS[nn.Embedding].refusal(module)) is not None:
                raise UnsupportedError(reason)
            return StoredEmbedding(stored, module.padding_idx)
        stored = weights.read_weight(tensors, (module.out_features, module.in_features), plan.six_bits)
        quantizer = plan.make_input(tensors)
        if isinstance(quantizer, ToolInput) and not self.exact_zeros:
            quantizer = replace(quantizer, zeros="kept")
        bias = None if module.bias is None else torch.empty_like(module.bias, device="cpu")
        return StoredLinear(stored, bias, quantizer)

    def _tensor(self, layer: str, part: str) -> Tensor:
        return self.checkpoint.tensor(f"{layer}.{part}".lstrip("."))

    def _read_floats(self, layer: str, parts: list[str]) -> None:
        for part in parts:
            name, tensor = f"{layer}.{part}".lstrip("."), self._tensor(layer, part)
            if tensor.element_size() == 1 and tensor.dtype != torch.bool:
                raise UnsupportedError(f"{part} is {tensor.dtype}, and no scales of it are known")
            if tensor.dtype in (torch.float16, torch.bfloat16):
                self.lower_precision.append(name)
            self.state[name] = tensor.float() if tensor.is_floating_point() else tensor

    def assemble(self) -> nn.Module:
        """The copy with its layers replaced and its parameters loaded. Raises as `from_checkpoint`."""
        memo: dict[int, object] = {id(module): layer for module, layer in self.layers.items()}
        memo |= {id(parameter): parameter for parameter in self.model.parameters()}  # others take their places below
        try:
            result = copy.deepcopy(self.model, memo)
        except Exception as error:  # deepcopy fails in as many ways as there are attributes
            raise UnsupportedError(f"from_checkpoint: {type(self.model).__name__} cannot be copied: {error}") from error
        self._load(result)
        for name, parametrization in self.experts.items():
            layer, _, part = name.rpartition(".")
            parametrize.register_parametrization(result.get_submodule(layer), part, parametrization)
        home = next((tensor.device for _, tensor in named_tensors(self.model) if not tensor.is_meta), None)
        result = result.to(home).float().eval().requires_grad_(False)
        attach(self._report(result), result)
        if self.lower_precision:
            warnings.warn(
                f"{len(self.lower_precision)} tensors are stored in half precision, in which {self.plan.tool} also "
                "multiplies; this model multiplies in float32, so outputs differ by rounding (codes and scales do not)",
                stacklevel=3,
            )
        return result

    def _load(self, result: nn.Module) -> None:
        """Float parameters and buffers by name. Every one must come, under one of its names; tied ones stay tied."""
        places = dict(_places(result))
        _refuse_names(self.checkpoint, "no parameter of the model is called", sorted(self.state.keys() - places.keys()))
        given: dict[int, Tensor] = {}
        for name, tensor in self.state.items():
            table, part = places[name]
            own = table[part]
            if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
                raise InputFileError(
                    f"{self.checkpoint.folder}: {name!r} is {tensor.dtype} {tuple(tensor.shape)}; the model's is "
                    f"{own.dtype} {tuple(own.shape)}"
                )
            made = nn.Parameter(tensor, requires_grad=False) if isinstance(own, nn.Parameter) else tensor
            if id(own) in given and not torch.equal(given[id(own)], tensor):
                raise InputFileError(f"{self.checkpoint.folder}: {name!r} is tied in the model, and differs here")
            given[id(own)] = made
        missing = [name for name, (table, part) in places.items() if id(table[part]) not in given]
        _refuse_names(self.checkpoint, "it does not hold", sorted(missing))
        for table, part in places.values():
            table[part] = given[id(table[part])]
        if unset := [name for name, tensor in named_tensors(result) if tensor.is_meta]:
            raise UnsupportedError(f"from_checkpoint: {unset[0]!r} is on the meta device and in no file")

    def _report(self, result: nn.Module) -> ConversionReport:
        report = ConversionReport()
        for name, module in result.named_modules():
            if isinstance(module, QuantLayer):
                report.converted.append(describe(name, module, "stored"))
            elif isinstance(module, (nn.Linear, nn.Embedding)):
                report.left.append(FloatLayer(name, type(module).__name__, "float in the checkpoint", True))
        return report


def _places(model: nn.Module) -> Iterator[tuple[str, tuple[dict, str]]]:
    """Name of every parameter and buffer that files hold -> the table it stands in and its key; all names of each."""
    for name, module in model.named_modules(remove_duplicate=False):
        kept = {k for k in module._buffers if k not in module._non_persistent_buffers_set}
        for table, keys in ((module._parameters, set(module._parameters)), (module._buffers, kept)):
            for key in sorted(keys):
                if table[key] is not None and (key == "bias" or not isinstance(module, StoredLayer)):
                    yield f"{name}.{key}".lstrip("."), (table, key)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _refuse_names(checkpoint: Checkpoint, what: str, found: list[str]) -> None:
    if found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        shown = ", ".join(repr(name) for name in found[:_SHOWN])
        raise InputFileError(f"{checkpoint.folder} does not fit the model: {what} {shown}{more}")
