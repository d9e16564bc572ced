"""The house: which room may import which, and nothing at the root but three files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mxexport"
BELOW = {
    "errors": set(),
    "cache": set(),
    "native": set(),
    "cluster": set(),
    "numbers": set(),
    "ops": {"numbers"},
    "model": {"numbers", "ops"},
    "reporting": {"numbers", "ops", "model"},
    "running": {"numbers", "ops", "model", "reporting", "native"},
    "quant": {"numbers", "ops", "model", "running", "reporting", "native"},
    "passes": {"numbers", "ops", "model", "running", "reporting"},
    "fpga": {"numbers", "ops", "model", "running", "passes", "reporting", "cluster"},
    # A conversion cleans as the passes do, and `check` asks the compiler what hardware takes.
    "targets": {"numbers", "ops", "model", "running", "passes", "fpga"},
    "frontends": {"numbers", "ops", "model", "running", "quant"},
    "exporting": {"numbers", "ops", "model", "running", "quant", "passes", "frontends", "reporting"},
    "searching": {
        *{"numbers", "ops", "model", "running", "quant", "passes", "fpga", "exporting", "reporting", "cluster"},
    },
    "cli": {
        *{"numbers", "ops", "model", "running", "quant", "passes", "fpga", "targets", "frontends", "exporting"},
        *{"reporting", "cluster", "searching"},
    },
}
"""Room -> the rooms it may import, beside itself, errors, cache and the package's own names."""
FOUNDATIONS = {"errors", "cache"}
IN_HARDWARE = [
    *("streams", "tools", "areas", "datapaths", "lowering", "units", "scheduling", "writing", "package", "folding"),
    *("reports", "checking"),
]
"""Rooms of fpga: at its top a module imports from its own, those before it, and the contracts beside them."""


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


MODULES = modules()


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules of ours that a file imports: at its top, or `everywhere` (in functions, as text)."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mxexport":
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "mxexport"}
        elif everywhere and isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES:
            found |= {node.value} - {"mxexport.ops"}  # also the name of the ONNX domain
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_is_known():
    assert {room(name) for name in MODULES} - {""} == set(BELOW)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "errors.py", "cache.py"}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "mxexport"])
def test_arrows_point_down(name):
    reached = {room(other) for other in imports(MODULES[name])} - {"", room(name)} - FOUNDATIONS
    assert reached <= BELOW[room(name)]


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.startswith("mxexport.fpga.") and name.count(".") > 2]
)
def test_arrows_point_down_in_hardware(name):
    at = IN_HARDWARE.index(name.split(".")[2])
    ours = [other for other in imports(MODULES[name], everywhere=False) if other.startswith("mxexport.fpga.")]
    rooms = {other.split(".")[2] for other in ours if other.count(".") > 2}
    assert rooms <= set(IN_HARDWARE[: at + 1])


def test_rooms_form_no_circle():
    done: list[str] = []
    while len(done) < len(BELOW):
        ready = [name for name in BELOW if name not in done and BELOW[name] <= set(done)]
        assert ready, f"a circle among {set(BELOW) - set(done)}"
        done += ready


def test_modules_import_each_other_in_one_direction():
    """At their top: what stands inside a function is a choice made on purpose and costs nothing at start."""
    graph = {name: imports(path, everywhere=False) & set(MODULES) - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        for other in graph[name] if name not in done else ():
            if not other.startswith(f"{name}.") and not name.startswith(f"{other}."):  # a package and its own modules
                visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_operators_need_no_torch():
    script = "import sys, mxexport.ops; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
