"""Brevitas models -> mxexport models.

Brevitas is imported only here and only when a model needs it. Its layers are replaced in a copy, one by one, by
layers that compute the same bits through `mxexport::` ops; everything between them stays as it was.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import types
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.brevitas.convert import convert_layers
from mxexport.frontends.brevitas.observing import as_tuple
from mxexport.quant.folding.own_code import place_of

VERSION = "0.13.4"

_REMEDY = (
    'Ask hasattr(x, "value") there in place of isinstance(x, QuantTensor), and take no more than x.value: scales and '
    "bit widths are those of the layers"
)


def is_brevitas(model: object) -> bool:
    """True where some module of `model` comes from Brevitas (asks only for class names)."""
    return isinstance(model, nn.Module) and any(
        base.__module__.split(".")[0] == "brevitas" for m in model.modules() for base in type(m).__mro__
    )


def from_brevitas(model: nn.Module, args: tuple | None = None) -> nn.Module:
    """The mxexport model that computes what `model` computes in eval mode; `model` itself is left as it is.

    Groupwise quantizers become groupwise operators with Brevitas' own contracted scales, all others QONNX's standard
    `Quant`, `FloatQuant` and `BipolarQuant`. Outputs are plain tensors, also where Brevitas returns quant tensors (they
    have the attribute `value` then, and no more). The result is for inference and export. What differs from Brevitas,
    or surprises in it, is kept layer by layer in `notes`; a warning names the layers that saturate and the scales that
    were not powers of two.

    `args`: example inputs. They are needed where a bias takes its scale from an earlier layer, to measure how many
    activations saturate, and to see that the code between the layers runs.

    Raises:
        UnsupportedError: Brevitas missing or of another version, or layers that cannot be converted (all are listed).
    """
    _require_brevitas()
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"from_brevitas: expected a torch.nn.Module, found {type(model).__name__}")
    if not is_brevitas(model):
        raise UnsupportedError("from_brevitas: the model has no Brevitas layer")
    training = {name: module.training for name, module in model.named_modules()}
    # Tensors made in inference mode would be of no use outside of it.
    with torch.inference_mode(False), torch.no_grad(), _float32_by_default(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brevitas' own, about its internals
        working = _copy(model)
        converted, told = convert_layers(working, args)
        if args is not None:
            _check_it_runs(converted, args)
    for name, module in converted.named_modules():
        parent = name.rpartition(".")[0]
        module.training = training.get(name, training.get(parent, model.training))
    if told:
        lines = [f"  {where}: {what}" for where, what in told]
        warnings.warn("\n".join(["from_brevitas:", *lines]), stacklevel=2)
    return converted


@contextlib.contextmanager
def _float32_by_default() -> Iterator[None]:
    """Probes are float32, and so are the constants that Brevitas makes on the way."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_it_runs(converted: nn.Module, args: object) -> None:
    """Code between the layers may ask for what quant tensors have and plain ones do not."""
    try:
        converted(*as_tuple(args))
    except Exception as error:  # whatever the user's forward raises
        what = str(error).partition("\n")[0] or type(error).__name__
        if place := place_of(converted, error):
            what += f"; in {place}. {_REMEDY}"
        raise UnsupportedError(
            "from_brevitas: the model's own code fails on the example inputs once its layers return plain tensors "
            f"(with the attribute value where they returned quant tensors, and no more of those): {what}"
        ) from error


def _copy(model: nn.Module) -> nn.Module:
    """An eval copy that makes quant tensors: an export of Brevitas that failed leaves a model in another mode."""
    copied: dict[int, object] = {}
    try:
        working = copy.deepcopy(model, copied).eval()
    except Exception as error:  # deepcopy fails in as many ways as there are attributes
        raise UnsupportedError(f"from_brevitas: the model cannot be copied: {error}") from error
    for module in working.modules():
        _rebind_closures(module, copied)
        if getattr(module, "_export_mode", False):
            module.export_mode = False
        if getattr(module, "skip_create_quant_tensor", False):
            module.skip_create_quant_tensor = False
    return working


def _rebind_closures(module: nn.Module, copied: dict[int, object]) -> None:
    """Let functions that a copied module holds reach the copies: deepcopy leaves what they close over as it was.

    Brevitas' MSE search switches its proxy to another mode through such functions; the switched proxy would be that of
    the user's model, and the copy would search without end.
    """
    for name, function in list(vars(module).items()):
        if isinstance(function, types.FunctionType) and function.__closure__:
            cells = (cell.cell_contents for cell in function.__closure__)
            closure = tuple(types.CellType(copied.get(id(held), held)) for held in cells)
            rebound = types.FunctionType(
                function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
            )
            setattr(module, name, rebound)


def _require_brevitas() -> None:
    try:
        found = importlib.import_module("brevitas").__version__
    except ImportError as error:
        raise UnsupportedError(
            f"from_brevitas: Brevitas cannot be imported ({error}); pip install brevitas=={VERSION} 'setuptools<81'"
        ) from error
    if found.split("+")[0] != VERSION:
        raise UnsupportedError(
            f"from_brevitas: found Brevitas {found}, expected {VERSION}, the version whose rules are read here; "
            f"pip install brevitas=={VERSION}"
        )
