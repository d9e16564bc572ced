"""The float model behind tests/data/live, and stand-ins for the tools' modules as the files describe them.

Files hold, of each model that a tool has quantized: `layers`, a JSON of the classes and attributes of its quantizers as
mxexport reads them; `X.weight`, the weight that layer X multiplies with; `edges`, what the quantizer of `wide`'s input
makes of `edge_inputs`; `conv.edges`, what that of `conv`'s input makes of them as [1, 1, rows, width]; where outputs
are quantized `conv.output_edges`, what that quantizer of `conv` makes of them as [rows, channels, 1, 1]; `output`. The
scripts tests/data/make_live_*.py make them with the tools.
"""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import pydoc
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.checkpoint_network import WIDTH, edge_inputs

FOLDER = Path(__file__).parent / "data" / "live"


class Network(nn.Module):
    """[N, 40, 4, 4] -> [N, 10]; `wide`'s weight is `edge_inputs`, `last` stays in float."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        rows = len(edge_inputs())
        self.conv, self.wide, self.last = nn.Conv2d(40, 4, 3, padding=1), nn.Linear(WIDTH, rows), nn.Linear(rows, 10)
        with torch.no_grad():
            self.conv.weight *= torch.exp2(torch.arange(40) % 9 - 4.0)[:, None, None]
            self.conv.weight[0, :32, 1, 1] = edge_inputs()[44, :32]
            self.wide.weight.copy_(edge_inputs())
            self.last.weight *= torch.exp2(-edge_inputs().abs().amax(1).clamp(min=2.0**-20).log2().ceil())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.wide(torch.relu(self.conv(x)).flatten(1)))


def network() -> Network:
    return Network().eval().requires_grad_(False)


def inputs() -> Tensor:
    return (
        torch.randn(3, 40, 4, 4, generator=torch.Generator().manual_seed(4))
        * torch.tensor([1.0, 30, 1e-3])[:, None, None, None]
    )


def record(name: str, model: nn.Module, quantizers: tuple[str, ...], attributes: tuple[str, ...], **arrays) -> None:
    """Write tests/data/live/`name`.npz. `quantizers`: names of children; `attributes`: what of them is read."""
    layers = {}
    for layer in ("conv", "wide", "last"):
        module = model.get_submodule(layer)
        held = {q: _child(module, q) for q in quantizers}
        found = {q: _attributes(child, attributes) for q, child in held.items() if child is not None}
        base = next(kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] == "torch")
        layers[layer] = {"class": _class(type(module)), "base": _class(base), "quantizers": found}
    FOLDER.mkdir(exist_ok=True)
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", layers=json.dumps(layers), **arrays)


def _child(module: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`; tables (ModuleDict, ModuleList) hold None where they hold nothing."""
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
    return module


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _attributes(quantizer: object, names: tuple[str, ...]) -> dict:
    """Those that it has; what is called as in `name()` by the value it returns."""
    others = (kind for kind in type(quantizer).__mro__ if kind.__module__.partition(".")[0] in ("torch", "abc"))
    found: dict[str, object] = {"class": _class(type(quantizer)), "base": _class(next(others))}
    for name in names:
        with contextlib.suppress(AttributeError):
            value = operator.attrgetter(name.removesuffix("()"))(quantizer)
            found[name] = _plain(value() if name.endswith("()") else value)
    return found


def _plain(value: object) -> object:
    """As JSON has it: enums by their value, tensors as lists, keys of tables with their type."""
    if isinstance(value, Tensor):
        return {"tensor": value.detach().float().tolist()}
    if isinstance(value, dict):
        return {"table": [[key, _plain(item)] for key, item in value.items()]}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_plain(item) for item in value]}
    return getattr(value, "value", value)


def _restored(value: object) -> object:
    if not isinstance(value, dict):
        return value
    (kind, held), *_ = value.items()
    if kind == "tensor":
        return torch.tensor(held)
    return {key: _restored(item) for key, item in held} if kind == "table" else tuple(map(_restored, held))


def _quantizer(described: dict, weight: Tensor | None) -> nn.Module:
    """One with the class and attributes of the tool's, which returns the weight that was recorded."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape == self.recorded.shape
        return self.recorded.clone()

    base = pydoc.locate(described["base"])
    made = _named(described["class"], *{base: 0, nn.Module: 0}, forward=forward)()
    made.recorded = weight
    for name, value in described.items():
        *path, last = name.split(".")
        home = made
        for part in path:
            home = home.__dict__.setdefault(part, types.SimpleNamespace())
        if name not in ("class", "base"):
            value = _restored(value)
            home.__dict__[last.removesuffix("()")] = functools.partial(_itself, value) if "()" in last else value
    return made


def _itself(value: object) -> object:
    return value


def _named(path: str, *bases: type, **methods) -> type:
    module, _, name = path.rpartition(".")
    return type(bases[0])(name, bases, {"__module__": module, **methods})


def stand_in(name: str) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """A model of stand-in classes with the names and attributes that a file tells, and the file's arrays."""
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    model = network()
    for layer, described in json.loads(str(arrays["layers"])).items():
        module = model.get_submodule(layer)
        weight = torch.from_numpy(arrays[f"{layer}.weight"]) if f"{layer}.weight" in arrays else None
        if described["class"] != described["base"]:
            module.__class__ = _named(described["class"], pydoc.locate(described["base"]))
        for child, attributes in described["quantizers"].items():
            *tables, key = child.split(".")
            home = module
            for table in tables:
                if table not in home._modules:
                    home.add_module(table, nn.ModuleDict())
                home = home._modules[table]
            home.add_module(key, _quantizer(attributes, weight))
            if attributes.get("frozen_params") and child == "_weight_quantizer":
                module.weight = nn.Parameter(weight, requires_grad=False)
    return model, arrays
