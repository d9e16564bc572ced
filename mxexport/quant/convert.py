"""float model -> trainable quantized model."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from mxexport.errors import FormatError, UnsupportedError
from mxexport.numbers.formats import ScaleRule
from mxexport.quant.calling import calls
from mxexport.quant.folding import batch_norm
from mxexport.quant.folding.proof import FoldPlan, plan_folds
from mxexport.quant.layer_formats import FormatTable, format_table
from mxexport.quant.layers.all_layers import QUANT_LAYERS, QuantLayer, quantized_kind
from mxexport.quant.layers.functional import FunctionalLayer, functional_kind, may_be_functional
from mxexport.quant.layers.recurrent import AS_ACTIVATION
from mxexport.quant.own_products.calls import KINDS
from mxexport.quant.own_products.conversion import ProductConversion
from mxexport.quant.own_products.holders import ProductHolder
from mxexport.quant.own_products.observed import observe_products
from mxexport.quant.post_training.recipe import Robust, check_recipe, depthwise_warning
from mxexport.quant.quantizers.spec import Format
from mxexport.quant.report import ConversionReport, FloatLayer, attach, describe, in_short


def quantize_model(
    model: nn.Module,
    weight: Format = "mxint8",
    activation: Format = "mxint8",
    *,
    exclude: str | Sequence[str] = (),
    scale_rule: ScaleRule | None = None,
    bias_format: str = "float",
    formats: Mapping | str | os.PathLike | None = None,
    fold_batch_norm: bool = False,
    example_inputs: Any = None,
    recipe: str | None = None,
    calibration: object = None,
    attention: bool = False,
    return_report: bool = False,
) -> nn.Module | tuple[nn.Module, ConversionReport]:
    """A trainable copy of `model` with every layer of `QUANT_LAYERS` quantized; the model given is left as it is.

    Parameter and state_dict names stay, so state_dicts of the float model load. Shared modules and tied weights stay
    shared and tied. Subclasses of linear layers and convolutions keep a forward of their own; the product it calls on
    the weight (`F.conv2d(pad(x), scaled(self.weight))`) is quantized. Products of two activations in a model's own code
    (`q @ k.mT`, `F.scaled_dot_product_attention`) are with `attention=True`. Where it calls `F.linear` on the weight of
    a layer that it holds, that layer computes it. `conversion_report(result)` says what became of every layer and of
    these products; weights that stay in float without being asked to are named in a warning.

    Args:
        weight: a format, its name or a `QuantSpec` (static, learned, per channel, … scales; a dict of its fields serves
            as well); None keeps that side in float.
        activation: the same.
        exclude: module names or shell patterns ("head", "blocks.*.fc2"); a module's name includes all inside it.
        scale_rule: how power-of-two scales are chosen: floor (the default), ceil, even, rceil, or an integer: the R
            that the rule adds to the float32 bits of a group's largest magnitude (`formats.round_bias`).
        bias_format: "float" or "int32" (multiples of input step times weight step; needs constant input scales).
        formats: formats by layer: {name or pattern: {"weight":, "activation":, "scale_rule":, "bias_format":}} or the
            path of a YAML file that holds the same; recurrent layers have "hidden" and "cell" (of an LSTM), too.
            Entries apply in order, a later one overrides the keys it names; a format name alone (or null) means weight
            and activation. `exclude` comes last.
        fold_batch_norm: first fold batch norms into the quantized layers they follow; `nn.Identity` takes their place.
            Folded is only what is proved to compute the same; a warning and the report name the rest with the reason.
        example_inputs: inputs of forward (a tuple, one tensor, or a dict by keyword) whose shapes settle whether a
            norm behind a linear layer or Conv1d runs along its outputs, where the model's code leaves that open; the
            report then counts the products of activations that forward calls on them.
        recipe: "robust" for use after training, of depthwise networks above all: folds batch norms, takes 8 bits for
            stem, depthwise and small layers and for each format its best scale rule, and corrects biases (see
            `post_training.recipe`). What `formats`, `exclude` and `scale_rule` ask for stays as asked. None (the
            default) takes what is asked, everywhere.
        calibration: inputs for the recipe, which then corrects the biases of layers behind no batch norm, too: a
            tensor, a tuple of arguments, a dict of them by name, or a list of these. The copy runs them, in eval mode.
        attention: also quantize products of two activations in the own code of the model's modules: matmul, `@`, bmm,
            baddbmm, einsum over one axis, and `F.scaled_dot_product_attention`, whose two products are. Such a module
            holds a layer for each, in the order of its calls: `product_1`, `product_2`, … and `attention_1`, …, which
            `formats` and `exclude` may name. Layers are made when a product is first called; static and learned scales
            need them before, so give `example_inputs` (or `calibration`).
        return_report: also return the report.

    Raises:
        FormatError: unknown format, scale rule, recipe or key in `formats`, `calibration` without a recipe, or scales
            of products that are stored, without `example_inputs`.
        InputFileError: `formats` is a file that is missing or unreadable.
        UnsupportedError: no layer could be quantized, a pattern matches no module, the model cannot be copied, or it
            fails on `example_inputs`.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"quantize_model: expected a torch.nn.Module, found {type(model).__name__}")
    check_recipe(recipe, calibration)
    rule = "floor" if scale_rule is None else scale_rule
    table = format_table(weight, activation, rule, bias_format, exclude, formats)
    table.check_patterns(model, tuple(KINDS) if attention else ())
    with torch.inference_mode(False):  # parameters and scales made in inference mode could not be trained
        conversion, robust = _Conversion(_copy(model), table), None
        plan, examples = FoldPlan(), _examples(example_inputs, calibration)
        shown = examples if attention else example_inputs
        observed = None if shown is None else observe_products(conversion.model, shown)
        products = ProductConversion(dict(conversion.names), observed)
        if fold_batch_norm or recipe is not None:
            plan = plan_folds(conversion.model, examples)
        if recipe is not None:
            asked = scale_rule is not None
            robust = Robust(conversion.model, conversion.layers(), table, asked, calibration, plan.pairs)
            conversion.table = robust.table
        conversion.fold_batch_norms(plan)
        quantized, report = conversion.run(), conversion.report
        if attention:
            report.products_in_float = products.convert(quantized, conversion.table)
        else:
            report.products_in_float = products.left_in_float()
        products.hold_weights(quantized, conversion.table)
        report.follow(quantized)
        if robust:
            robust.finish(quantized, report)
    if not report.converted and not any(isinstance(m, ProductHolder) for m in quantized.modules()):
        why = [(left.name, left.reason) for left in report.left]
        kinds = ", ".join(kind.__name__ for kind in QUANT_LAYERS)
        raise UnsupportedError(f"quantize_model: the model has no layer to quantize ({kinds})", why)
    if unexpected := [(left.place, left.reason) for left in report.left if not left.expected]:
        warnings.warn("left in float: " + in_short(unexpected), stacklevel=2)
    if report.not_folded:
        warnings.warn("batch norms not folded: " + in_short(report.not_folded), stacklevel=2)
    if robust is None and (text := depthwise_warning(quantized, report, table)):
        warnings.warn(text, stacklevel=2)
    _stop_fused_kernels(quantized)
    attach(report, quantized)
    return (quantized, report) if return_report else quantized


def _examples(example_inputs: Any, calibration: object) -> Any:
    """Inputs whose shapes may be looked at: those given for it, else the first of those to calibrate with."""
    if example_inputs is not None or calibration is None:
        return example_inputs
    args, keywords = calls(calibration)[0]
    return keywords or args


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # deepcopy fails in as many ways as there are attributes
        reason = str(error).partition("\n")[0]
        names = {name for module in model.modules() for name in module._parameters}
        if "weight_g" in names:
            reason = "its weight norms make weights at run time; call torch.nn.utils.remove_weight_norm(layer) first"
        elif any(name.endswith("_orig") for name in names):
            reason = "its pruned weights are made at run time; call torch.nn.utils.prune.remove(layer, name) first"
        raise UnsupportedError(f"quantize_model: {type(model).__name__} cannot be copied: {reason}") from error


class _Conversion:
    """One walk over a model's modules; a module under two names is converted once."""

    def __init__(self, model: nn.Module, table: FormatTable):
        self.model, self.table, self.report = model, table, ConversionReport()
        self.done: dict[nn.Module, nn.Module] = {}
        self.kinds: dict[nn.Module, type[QuantLayer] | str | None] = {}
        self.names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.names.setdefault(module, []).append(name)

    def run(self) -> nn.Module:
        return self.visit(self.model)

    def layers(self) -> dict[str, list[str]]:
        """First name -> all names, of the modules that will be quantized."""
        return {
            names[0]: names
            for module, names in self.names.items()
            if isinstance(self.kind_of(module), type) and self.reason_to_leave(module)[0] is None
        }

    def fold_batch_norms(self, plan: FoldPlan) -> None:
        """Fold into layers that will be quantized; others stay as they are, like the norms that follow them."""
        self.report.not_folded += plan.left.items()
        for layer, norm in plan.pairs:
            reason, _ = self.reason_to_leave(self.model.get_submodule(layer))
            if reason is None:
                batch_norm.fold_pair(self.model, layer, norm)
                self.report.folded.append((norm, layer))
            else:
                self.report.not_folded.append((norm, f"{layer} stays in float: {reason}"))

    def visit(self, module: nn.Module) -> nn.Module:
        """What takes the place of `module`: its quantized form, or itself with its children visited."""
        if module not in self.done:
            self.done[module] = module  # a module may hold itself
            self.done[module] = self._convert_or_keep(module)
        return self.done[module]

    def _convert_or_keep(self, module: nn.Module) -> nn.Module:
        if isinstance(module, QuantLayer):
            if module._parameters:
                name = self.names.get(module, [""])[0]
                self.report.left.append(FloatLayer(name, type(module).__name__, "is quantized already", True))
            return module
        reason, expected = self.reason_to_leave(module)
        if reason is None:
            return self.convert(module)
        if module._parameters or parametrize.is_parametrized(module):
            name = self.names.get(module, [""])[0]
            self.report.left.append(FloatLayer(name, type(module).__name__, reason, expected))
        if quantized_kind(module) is None and not parametrize.is_parametrized(module):
            self.visit_children(module)
        return module

    def visit_children(self, module: nn.Module) -> None:
        for child_name, child in module._modules.items():
            if child is not None:
                module._modules[child_name] = self.visit(child)

    def kind_of(self, module: nn.Module) -> type[QuantLayer] | str | None:
        """What a module becomes; None where nothing is known of it, words where it is known why not."""
        if module not in self.kinds:
            kind = quantized_kind(module)
            self.kinds[module] = functional_kind(module) if kind is None and may_be_functional(module) else kind
        return self.kinds[module]

    def convert(self, module: nn.Module) -> QuantLayer:
        names, kind = self.names[module], self.kind_of(module)
        formats = self.table.formats_of(names)
        if issubclass(kind, FunctionalLayer):
            self.visit_children(module)
        layer = _from_float(kind, module, names[0], formats)
        self.report.converted.append(describe(names[0], layer, formats.scale_rule))
        for part in kind.parts:
            part_names = [f"{name}.{part}".lstrip(".") for name in names]
            setattr(layer, part, self._convert_part(layer, getattr(module, part), part_names))
        return layer

    def _convert_part(self, layer: QuantLayer, part: nn.Module, names: list[str]) -> nn.Module:
        """A child that only its converted parent can use, under its own name's formats."""
        formats, pattern = self.table.formats_of(names), self.table.excluding_pattern(names)
        if pattern is not None or formats.weight is formats.activation is None:
            why = "no format" if pattern is None else f"excluded by {pattern!r}"
            self.report.left.append(FloatLayer(names[0], type(part).__name__, why, True))
            return part
        converted = _from_float(QUANT_LAYERS[nn.Linear], part, names[0], formats)
        self.report.converted.append(describe(names[0], converted, formats.scale_rule))
        return converted

    def reason_to_leave(self, module: nn.Module) -> tuple[str | None, bool]:
        """Why `module` stays in float and whether that was to be expected; (None, True) when it is converted."""
        names = self.names.get(module, [""])
        if (pattern := self.table.excluding_pattern(names)) is not None:
            return f"excluded by {pattern!r}", True
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            return "has no shape yet; run the model once before converting it", False
        if not _matrices(module):
            if parametrize.is_parametrized(module):
                return "is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first", False
            return _why_no_product(module), True
        if "forward" in vars(module) and quantized_kind(module) is not None:
            return "its forward was replaced on this object; what it computes now is not known", False
        kind = self.kind_of(module)
        if isinstance(kind, str):
            known = next(known for known in QUANT_LAYERS if isinstance(module, known))
            return f"{type(module).__name__} is a subclass of {known.__name__}, and {kind}", False
        if kind is None:
            return _why_unknown(module)
        if not all(p is None or p.is_floating_point() for p in module._parameters.values()):
            return "has parameters that are no real floating-point numbers", False
        if (refusal := kind.refusal(module)) is not None:
            return refusal, False
        formats = self.table.formats_of(names)
        states = {getattr(formats, key) for key in kind.other_formats} - {None, AS_ACTIVATION}
        no_input = formats.activation is None or kind is QUANT_LAYERS[nn.Embedding]
        if formats.weight is None and no_input and not states:
            return "no format", True
        return None, True


def _from_float(kind: type[QuantLayer], module: nn.Module, name: str, formats) -> QuantLayer:
    others = {key: getattr(formats, key) for key in kind.other_formats}
    try:
        return kind.from_float(
            module, formats.weight, formats.activation, formats.scale_rule, formats.bias_format, **others
        )
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None


def _matrices(module: nn.Module) -> list[str]:
    """Names of the module's own parameters that may be matrices. In layers that have products all of rank 2 and more
    are; elsewhere sizes of 1 do not count, for a scale [C, 1, 1] is a vector."""
    rank = len if isinstance(module, tuple(QUANT_LAYERS)) else lambda shape: sum(size != 1 for size in shape)
    return [name for name, p in module._parameters.items() if p is not None and rank(p.shape) > 1]


def _why_no_product(module: nn.Module) -> str:
    own, names = type(module).__name__, [name for name, p in module._parameters.items() if p is not None]
    if not module._modules:
        return f"{own} has no product of matrices"
    return f"{', '.join(names)} of {own} {'is no matrix' if len(names) == 1 else 'are no matrices'}"


def _why_unknown(module: nn.Module) -> tuple[str, bool]:
    """Why a module of a kind that is not converted stays in float, and whether that was to be expected."""
    if type(module).__module__.startswith("torch.nn.") or isinstance(module, (*QUANT_LAYERS, torch.jit.ScriptModule)):
        return _why_no_form(module), False
    names, own = _matrices(module), type(module).__name__
    # [1, N, D] is added to [batch, N, D]: positions, tokens. No product of a layer has a matrix of that shape.
    if all(module._parameters[name].ndim > 2 and module._parameters[name].shape[0] == 1 for name in names):
        return f"{', '.join(names)} of {own} {'is' if len(names) == 1 else 'are'} one for the whole batch", True
    return f"{own} uses parameters of its own ({', '.join(names)}); what it computes with them is not known", False


def _why_no_form(module: nn.Module) -> str:
    own = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return f"{own} is TorchScript; convert the Python module it was made from"
    for known in QUANT_LAYERS:
        if isinstance(module, known):
            return f"{own} is a subclass of {known.__name__} and may compute otherwise; use {known.__name__} itself"
    return f"{own} has no quantized form yet"


def _stop_fused_kernels(model: nn.Module) -> None:
    """Torch's encoder layers have a fused kernel for inference that reads float weights past the quantized layers."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(isinstance(m, QuantLayer) for m in module.modules()):
            module.activation_relu_or_gelu = 0  # what it sets for activations that its kernel does not know
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, QuantLayer) for m in module.modules()):
            module.use_nested_tensor = module.enable_nested_tensor = False  # those only feed the fused kernel
