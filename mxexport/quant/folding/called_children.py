"""What code that cannot be traced can reach, and which of its children it does nothing with but call (by its source).

`self.block(x)` only calls block, and `for b in self.blocks: x = b(x)` or `self.blocks[i](x)` all in blocks;
`helper(self.block)`, `self.block.conv(x)`, `self.block.weight` or `helper(self)` may do anything.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from types import FunctionType, MethodType, ModuleType

from torch import nn

_CONTAINERS = (nn.ModuleList, nn.Sequential)
_HAND_OUT = {
    *("modules", "named_modules", "children", "named_children", "get_submodule", "_modules", "__dict__"),
    *("parameters", "named_parameters", "get_parameter", "state_dict", "apply"),
}
"""Attributes of a module that give whoever asks its children or their weights."""


def called_children(module: nn.Module) -> list[nn.Module]:
    """Children (and members of lists of children) that the code of `module` only calls; none where it is not known."""
    if "forward" in vars(module):
        return []
    called: list[nn.Module] = []
    other: set[str] = set()
    names: set[str] = set()
    for kind in type(module).__mro__[: type(module).__mro__.index(nn.Module)]:
        functions = _functions(kind)
        if functions is None:
            return []
        for function in functions:
            uses = _uses(function)
            if uses is None or _HAND_OUT & {name for name, _ in uses}:
                return []
            for name, how in uses:
                child = module._modules.get(name)
                if child is None:
                    continue
                names.add(name)
                if how == "other" or (how == "member" and type(child) not in _CONTAINERS):
                    other.add(name)
                else:
                    called += [child] if how == "called" else list(child)
    excluded = {id(m) for name in other for m in module._modules[name].modules()}
    return [child for child in dict.fromkeys(called) if id(child) not in excluded]


def reachable(start: nn.Module, except_inside: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Modules that code of `start` can get at through attributes, containers, closures and bound methods."""
    seen = {id(module) for module in except_inside}
    queue: list = [start]
    while queue:
        found = queue.pop()
        if id(found) in seen or isinstance(found, (type, ModuleType, str, int, float)):
            continue
        seen.add(id(found))
        if isinstance(found, nn.Module):
            yield found
        queue += _held(found)


def _held(value) -> list:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    return list(getattr(value, "__dict__", {}).values())


def _filled(cell) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _functions(kind: type) -> list[ast.FunctionDef] | None:
    """Methods of a class by its source, without its constructor; None where that is not all of its code."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    found = [node for node in definition.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    real = {name for name, value in vars(kind).items() if isinstance(value, FunctionType)}
    return [node for node in found if node.name != "__init__"] if real <= {node.name for node in found} else None


def _uses(function: ast.FunctionDef) -> list[tuple[str, str]] | None:
    """(attribute of self, "called", "member" called or "other"); None where self itself is handed on."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    if not arguments:
        return []
    itself = arguments[0].arg
    above = {id(child): node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
    uses = []
    for node in ast.walk(function):
        if not (isinstance(node, ast.Name) and node.id == itself):
            continue
        parent = above[id(node)]
        if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "super":
            continue
        if not isinstance(parent, ast.Attribute):
            return None
        uses.append((parent.attr, _use(function, above, parent)))
    return uses


def _use(function: ast.FunctionDef, above: dict, node: ast.AST) -> str:
    parent = above[id(node)]
    if isinstance(parent, ast.Call) and parent.func is node:
        return "called"
    if isinstance(parent, ast.Subscript) and parent.value is node:
        caller = above[id(parent)]
        whole = isinstance(parent.slice, ast.Slice)
        return "member" if isinstance(caller, ast.Call) and caller.func is parent and not whole else "other"
    if isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is node and isinstance(parent.target, ast.Name):
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == parent.target.id]
        return "member" if all(n is parent.target or _is_called(above, n) for n in names) else "other"
    return "other"


def _is_called(above: dict, node: ast.AST) -> bool:
    parent = above[id(node)]
    return isinstance(parent, ast.Call) and parent.func is node
