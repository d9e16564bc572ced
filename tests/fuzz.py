"""Wrong files by the thousands through every command: `python -m tests.fuzz --cases 100000`, or `make fuzz`.

A case is a valid model, design, table or array, changed in one to three places (nodes, edges, attributes, shapes,
types, initializers, functions, names, now and then plain bytes), and a command that is given it. Right is a result or
one error of our own; wrong is any other exception, a crash, more than 10 s, a file left by a command that failed, a
clean or converted file that computes something else. Every case is drawn from the seed and its number alone: `--only
1234` runs one again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIMIT, PATIENCE = 10, 180
"""Seconds for a case: of computing, whatever else the machine does, and by the clock."""
_MEMORY = 12 << 30
_OPERATORS = [
    *("Add", "Mul", "Relu", "Conv", "MatMul", "Gemm", "Reshape", "Transpose", "Softmax", "Identity", "Cast", "Concat"),
    *("Slice", "Pad", "MaxPool", "Constant", "If", "Where", "QuantizeLinear", "DequantizeLinear", "Quant", "Unknown"),
    *("GroupwiseQuant", "MXFloatQuant", "MXScale", "GroupwiseDequant", "MXMatMul", "WideAdd"),
]
_NAMES = ["", "a/b.c", "x\ny", "'; rm -rf", "é☃", "a" * 3000, "%s%n", "../../up", "module", "\0", "input"]
_NUMBERS = [0, 1, -1, 2, 7, 32, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("nan"), float("inf")]


# --- changes of a model ------------------------------------------------------------------------------------------


def _nodes(draw: random.Random, model: onnx.ModelProto):
    """The nodes of the graph, or of one of the functions."""
    functions = [f.node for f in model.functions if len(f.node)]
    return draw.choice(functions) if functions and draw.random() < 0.15 else model.graph.node


def _some_name(draw: random.Random, model: onnx.ModelProto) -> str:
    names = [n for node in model.graph.node for n in (*node.input, *node.output)]
    names += [i.name for i in model.graph.initializer]
    return draw.choice([*names, *_NAMES, "nowhere"])


def drop_node(draw, model):
    nodes = _nodes(draw, model)
    if len(nodes):
        del nodes[draw.randrange(len(nodes))]


def double_node(draw, model):
    nodes = _nodes(draw, model)
    if len(nodes):
        nodes.add().CopyFrom(draw.choice(list(nodes)))


def shuffle_nodes(draw, model):
    nodes = list(model.graph.node)
    draw.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def change_edge(draw, model):
    node = draw.choice(list(_nodes(draw, model)))
    side = node.input if draw.random() < 0.7 or not len(node.output) else node.output
    if len(side):
        side[draw.randrange(len(side))] = _some_name(draw, model)


def add_or_drop_edge(draw, model):
    node = draw.choice(list(_nodes(draw, model)))
    side = draw.choice([node.input, node.output])
    if len(side) and draw.random() < 0.6:
        del side[draw.randrange(len(side))]
    else:
        side.append(_some_name(draw, model))


def change_operator(draw, model):
    node = draw.choice(list(_nodes(draw, model)))
    node.op_type = draw.choice(_OPERATORS)
    if draw.random() < 0.3:
        node.domain = draw.choice(["", "ai.onnx", "mxexport.ops", "qonnx.custom_op.general", "no.such.domain"])


def change_attribute(draw, model):
    owners = [n for n in _nodes(draw, model) if len(n.attribute)]
    if not owners:
        return
    node = draw.choice(owners)
    attribute = draw.choice(list(node.attribute))
    kind = draw.randrange(7)
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.type = draw.choice(list(onnx.AttributeProto.AttributeType.values()))
    elif kind == 2:
        attribute.name = draw.choice([*_NAMES, "axis", "group_size"])
    elif kind == 3:
        node.attribute.append(helper.make_attribute("extra", draw.choice([1, 1.5, "text", [1, 2]])))
    elif attribute.type == onnx.AttributeProto.INTS:
        attribute.ints[:] = [draw.choice(_NUMBERS) for _ in range(draw.randrange(5))]
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = draw.choice(_FLOATS)
    else:
        attribute.i = draw.choice(_NUMBERS)


def change_initializer(draw, model):
    tensors = list(model.graph.initializer)
    if not tensors:
        return
    tensor = draw.choice(tensors)
    kind = draw.randrange(9)
    if kind == 0:
        model.graph.initializer.remove(tensor)
    elif kind == 1:
        del tensor.dims[:]
        tensor.dims.extend(draw.choice([0, 1, 3, 1 << 20, -1]) for _ in range(draw.randrange(4)))
    elif kind == 2:
        tensor.data_type = draw.choice([*TensorProto.DataType.values(), 77])
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif kind == 4:
        tensor.name = _some_name(draw, model)
    elif kind == 5:
        tensor.data_location = TensorProto.EXTERNAL
        place = tensor.external_data.add()
        place.key, place.value = "location", draw.choice(["/etc/passwd", "../up.bin", "absent.bin", "", "."])
    else:
        _change_values(draw, tensor)


def _change_values(draw, tensor):
    try:
        array = numpy_helper.to_array(tensor).copy()
    except Exception:  # changed before so that it holds nothing any more
        return
    if not array.size or array.dtype.kind not in "fiu":
        return
    flat = array.reshape(-1)
    kind = draw.randrange(4)
    if kind == 0:
        flat[:] = 0
    elif kind == 1 and array.dtype.kind == "f":
        flat[draw.randrange(len(flat))] = draw.choice(_FLOATS)
    elif kind == 2:
        flat[:] = flat[::-1].copy()
    else:
        array = array.reshape(array.shape[::-1]) if draw.random() < 0.5 else array.astype(draw.choice("fdiqBe"))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def change_type(draw, model):
    g = model.graph
    values = [*g.input, *g.output, *g.value_info]
    if not values:
        return
    value = draw.choice(values)
    tensor = value.type.tensor_type
    kind = draw.randrange(6)
    if kind == 0:
        tensor.elem_type = draw.choice([*TensorProto.DataType.values(), 77])
    elif kind == 1 and len(tensor.shape.dim):
        tensor.shape.dim[draw.randrange(len(tensor.shape.dim))].dim_value = draw.choice([0, 1, 2, 33, -1, 1 << 40])
    elif kind == 2 and len(tensor.shape.dim):
        tensor.shape.dim[draw.randrange(len(tensor.shape.dim))].dim_param = draw.choice([*_NAMES, "n"])
    elif kind == 3 and len(tensor.shape.dim):
        del tensor.shape.dim[draw.randrange(len(tensor.shape.dim))]
    elif kind == 4:
        tensor.shape.dim.add().dim_value = draw.choice([0, 1, 5])
    else:
        value.ClearField("type")


def change_ends(draw, model):
    g = model.graph
    side = draw.choice([g.input, g.output])
    kind = draw.randrange(4)
    if kind == 0 and len(side):
        del side[draw.randrange(len(side))]
    elif kind == 1 and len(side):
        side.add().CopyFrom(draw.choice(list(side)))
    elif kind == 2 and len(side):
        draw.choice(list(side)).name = _some_name(draw, model)
    else:
        g.output.add().name = _some_name(draw, model)


def change_name(draw, model):
    draw.choice(list(_nodes(draw, model))).name = draw.choice(_NAMES)


def rename_value(draw, model):
    """Everywhere: the model stays valid, with a name of another kind."""
    g = model.graph
    names = sorted({n for node in g.node for n in (*node.input, *node.output) if n} | {v.name for v in g.input})
    if not names:
        return
    old = draw.choice(names)
    new = draw.choice([*[n for n in _NAMES if n], "7", "if", "a b", "A", "a"])
    for node in g.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = new if name == old else name
    for value in (*g.input, *g.output, *g.value_info, *g.initializer):
        value.name = new if value.name == old else value.name


def change_opsets(draw, model):
    kind = draw.randrange(4)
    if kind == 0 and len(model.opset_import):
        draw.choice(list(model.opset_import)).version = draw.choice([0, 1, 6, 13, 18, 26, 99, -5])
    elif kind == 1 and len(model.opset_import):
        del model.opset_import[draw.randrange(len(model.opset_import))]
    elif kind == 2:
        entry = model.opset_import.add()
        entry.domain, entry.version = draw.choice(["", "mxexport.ops", "x.y"]), draw.choice([1, 20, 21])
    else:
        model.ir_version = draw.choice([0, 1, 3, 8, 10, 99])


def change_function(draw, model):
    if not len(model.functions):
        return
    function = draw.choice(list(model.functions))
    kind = draw.randrange(5)
    if kind == 0:
        model.functions.remove(function)
    elif kind == 1:
        function.name = draw.choice(["Conv", "Add", function.name + "2", ""])
    elif kind == 2 and len(function.input):
        del function.input[draw.randrange(len(function.input))]
    elif kind == 3:
        model.functions.add().CopyFrom(function)
    elif len(function.opset_import):
        draw.choice(list(function.opset_import)).version = draw.choice([1, 13, 99])


def change_metadata(draw, model):
    owners = [n for n in model.graph.node if len(n.metadata_props)]
    owners += [v for v in (*model.graph.input, *model.graph.output) if len(v.metadata_props)]
    if owners:
        entry = draw.choice(list(draw.choice(owners).metadata_props))
        entry.value = draw.choice([*_NAMES, "mxint8", "mxfp4_e2m1", "int8_g0", "-1", "99999999999999999999", "1.5"])


def nest_graph(draw, model):
    inner = helper.make_graph([helper.make_node("Identity", [_some_name(draw, model)], ["inner"])], "inner", [], [])
    inner.output.add().name = "inner"
    node = helper.make_node("If", [_some_name(draw, model)], ["nested"], then_branch=inner, else_branch=inner)
    model.graph.node.insert(draw.randrange(len(model.graph.node) + 1), node)


CHANGES = (
    drop_node, double_node, shuffle_nodes, change_edge, add_or_drop_edge, change_operator, change_attribute,
    change_attribute, change_initializer, change_initializer, change_type, change_type, change_ends, change_name,
    rename_value, change_opsets, change_function, change_metadata, nest_graph,
)  # fmt: skip


def changed_model(draw: random.Random, data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        with contextlib.suppress(IndexError):  # nothing of that kind is left
            draw.choice(CHANGES)(draw, model)
    data = model.SerializeToString()
    if draw.random() < 0.1:
        data = changed_bytes(draw, data)
    return data


def changed_bytes(draw: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(3)
        if kind == 0:
            out[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del out[at : at + draw.randrange(40)]
        else:
            out[at:at] = draw.randbytes(draw.randrange(20))
    return bytes(out)


# --- changes of JSON, YAML and arrays ----------------------------------------------------------------------------


def changed_json(draw: random.Random, text: str) -> str:
    data = json.loads(text)
    for _ in range(draw.randint(1, 3)):
        place = data
        while isinstance(place, dict | list) and len(place):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw.choice(keys)
            if draw.random() < 0.4 or not isinstance(place[key], dict | list):
                values = [None, -1, 0, 1.5, "text", [], {}, True, 10**30, [1], {"a": 1}]
                if draw.random() < 0.3:
                    del place[key]
                else:
                    place[key] = draw.choice(values)
                break
            place = place[key]
    text = json.dumps(data)
    return text[: draw.randrange(len(text))] if draw.random() < 0.05 else text


def changed_text(draw: random.Random, text: str) -> str:
    """Tables for people: lines doubled, dropped, cut, with other values."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines)) if lines else 0
        kind = draw.randrange(5)
        if kind == 0 and lines:
            lines.insert(at, lines[at])
        elif kind == 1 and lines:
            del lines[at]
        elif kind == 2 and lines:
            values = ["-1", "0", "[1, 2", "{a: b}", "!!python/object:os.system x", "&a *a", "null", "1e9", "mxint8"]
            lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(values)
        elif kind == 3:
            lines.insert(at, draw.choice(["\t", "- x", "? y", ": z", "é: 1", "'*': {pe: 2}", "a: " + "[" * 200]))
        elif lines:
            lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]
    return "\n".join(lines) + "\n"


def random_array(draw: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    """Most often of the right shape and type, else of another."""
    rng = np.random.default_rng(draw.randrange(2**32))
    if draw.random() < 0.4:
        shape = draw.choice([(), (0, *shape[1:]), shape[1:], (*shape, 1), (2, 3), (shape[0], 0), shape[:1]])
    dtype = draw.choice(["<f4"] * 4 + ["<f8", "<i8", "u1", "?", "<c8", "<U3", "<f2", "S2", "<M8[s]"])
    values = rng.standard_normal(shape) * draw.choice([1, 1e-40, 1e30, 0])
    if draw.random() < 0.2 and values.size:
        values = np.where(rng.random(shape) < 0.2, draw.choice(_FLOATS), values)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.zeros(shape, dtype) if dtype in ("<U3", "S2", "<M8[s]") else np.asarray(values).astype(dtype)


# --- commands ----------------------------------------------------------------------------------------------------


class Case:
    """One case in a directory of its own: `arguments` for the command, made when it is drawn."""

    def __init__(self, number: int, seed: int, seeds: Path):
        self.draw = random.Random(f"{seed}-{number}")
        self.seeds = seeds
        self.command = self.draw.choices(list(COMMANDS), [weight for weight, _ in COMMANDS.values()])[0]
        self.arguments = [self.command.split()[0], *COMMANDS[self.command][1](self)]

    def model(self, names: tuple[str, ...] = ("mlp", "cnn", "clean", "qdq", "qonnx", "hls4ml", "float")) -> str:
        name = self.draw.choice(names)
        self.frame = FRAMES.get(name, FRAMES["mlp"])
        data = (self.seeds / f"{name}.onnx").read_bytes()
        Path("in.onnx").write_bytes(changed_model(self.draw, data) if self.draw.random() < 0.93 else data)
        return "in.onnx"

    def array(self, name: str = "x.npy", count: int = 4) -> str:
        array = random_array(self.draw, (count, *self.frame))
        if self.draw.random() < 0.1:
            np.savez(name + ".npz", **{self.draw.choice(["input", "x", "a"]): array})
            name += ".npz"
        else:
            np.save(name, array, allow_pickle=False)
        if self.draw.random() < 0.05:
            Path(name).write_bytes(changed_bytes(self.draw, Path(name).read_bytes()))
        return name

    def right_array(self, count: int = 4) -> str:
        rng = np.random.default_rng(self.draw.randrange(2**32))
        np.save("x.npy", rng.standard_normal((count, *self.frame)).astype(np.float32))
        return "x.npy"

    def design(self) -> str:
        """A compiled design, its report or its dataflow graph changed."""
        self.frame = FRAMES["mlp"]
        shutil.copytree(self.seeds / "design", "design", copy_function=os.link)  # one of its files is changed
        report = self.draw.random() < 0.6
        file = Path("design/report.json" if report else "design/dataflow.onnx")
        data = file.read_bytes()
        file.unlink()
        if report:
            file.write_text(changed_json(self.draw, data.decode()))
        else:
            file.write_bytes(changed_model(self.draw, data))
        return "design"

    def maybe(self, chance: float, *options: str) -> list[str]:
        return list(options) if self.draw.random() < chance else []


def _export(c: Case) -> list[str]:
    shape = c.draw.choice(["1,32", "1,32", "2,32", "", "0", "1,-3", "a", "int64:1,32", "1,31", "1,32,1", "1e3", "99:1"])
    fmt = c.draw.choice(
        ["mxint8", "mxfp4_e2m1", "none", "mxint9", "int8", "", "MXINT8", "nvfp4", "int4_g0", "uint4_g32"]
    )
    options = c.maybe(0.3, "--opset", c.draw.choice(["18", "20", "26", "17", "x"])) + c.maybe(
        0.3, "--weights", "packed"
    )
    return ["fuzz_net:build", "out.onnx", "--input", shape, "--weight", fmt, *options]


_FORMATS = """"0":
  weight: mxfp4_e2m1
  activation: mxint8
"2":
  weight: {format: mxint8, source: mse}
  scale_rule: ceil
"""


def _quantize(c: Case) -> list[str]:
    c.frame = FRAMES["mlp"]
    Path("formats.yaml").write_text(changed_text(c.draw, _FORMATS))
    options = c.maybe(0.5, "--static") + c.maybe(0.7, "--formats", "formats.yaml")
    options += c.maybe(0.2, "--exclude", c.draw.choice(["0", "*", "", "9", "[", "\n"]))
    return ["fuzz_net:build", "out.onnx", "--calibration", c.array(), *options]


def _clean(c: Case) -> list[str]:
    options = c.maybe(0.2, "--verify") + c.maybe(0.2, "--float-weights") + c.maybe(0.3, "--exact")
    shapes = c.draw.choice(["batch=1", "batch=0", "x=1x32", "input=1", "=3", "batch=-1", "batch=99999999999999"])
    return [c.model(), "out.onnx", *options, *c.maybe(0.2, "--shapes", shapes)]


def _convert(c: Case) -> list[str]:
    target = c.draw.choice(["qdq", "mxexport", "hls4ml", "finn"])
    options = c.maybe(0.2, "--opset", c.draw.choice(["13", "21", "23", "24", "25", "99"]))
    return [c.model(), "out.onnx", "--to", target, *options]


def _run(c: Case) -> list[str]:
    executor = c.draw.choice(["onnxruntime"] * 4 + ["reference", "qonnx"])
    return [c.model((*MODELS, "dataflow")), c.array(), "--out", "out.npy", "--executor", executor]


def _verify(c: Case) -> list[str]:
    first = c.model()
    shutil.copy(first, "other.onnx")
    second = c.model() if c.draw.random() < 0.5 else first
    return ["other.onnx", second, *c.maybe(0.3, "--inputs", c.array())]


def _compile(c: Case) -> list[str]:
    model = c.model(("mlp", "cnn", "clean"))
    options = []
    if c.draw.random() < 0.3:
        Path("folding.yaml").write_text(changed_text(c.draw, '"0": {pe: 2, simd: 4}\n"2":\n  pe: 1\n  simd: 2\n'))
        options += ["--folding", "folding.yaml"]
    options += c.maybe(0.1, "--budget", c.draw.choice(["0.5", "lut=900", "lut=-1", "x", "nan", "lut=1e99,dsp=0"]))
    options += c.maybe(0.1, "--target-fps", c.draw.choice(["1e5", "0", "-1", "nan", "inf", "1e300"]))
    options += c.maybe(0.1, "--clock-mhz", c.draw.choice(["100", "0", "1e9", "nan"]))
    options += c.maybe(0.1, "--part", c.draw.choice(["xc7z020", "xczu7ev", "nothing", "", "xcvc1902"]))
    data = c.array(count=8) if c.draw.random() < 0.3 else c.right_array(8)
    return [model, "out", "--calibration", data, *options]


MODELS = ("mlp", "cnn", "clean", "qdq", "qonnx", "hls4ml", "float")
FRAMES = {"cnn": (3, 6, 6), "mlp": (32,), "dataflow": (32,)}
COMMANDS = {
    "info": (8, lambda c: [c.model((*MODELS, "dataflow"))]),
    "check": (8, lambda c: [c.model(), "--for", c.draw.choice(["fpga", "hls4ml", "finn", "qdq"])]),
    "clean": (20, _clean),
    "convert": (16, _convert),
    "run": (16, _run),
    "verify": (8, _verify),
    "compile": (14, _compile),
    "report file": (8, lambda c: [c.model((*MODELS, "dataflow")), *c.maybe(0.5, "--html", "out.html")]),
    "report design": (10, lambda c: [c.design(), *c.maybe(0.5, "--html", "out.html"), *c.maybe(0.2, "--explore")]),
    "simulate": (3, lambda c: [c.design(), c.array(), "--out", "out.npy"]),
    "quantize": (4, _quantize),
    "export": (2, _export),
}
"""Name -> (how often it is drawn, what makes its arguments)."""


# --- running -----------------------------------------------------------------------------------------------------


@functools.cache
def _command():
    """The command line, built once."""
    import typer

    from mxexport.cli import app

    return typer.main.get_command(app)


def run_case(number: int, seed: int, seeds: Path) -> tuple[str, str, str]:
    """(command, what became of it, what is wrong: empty where nothing is)."""
    from mxexport.errors import MXExportError

    with tempfile.TemporaryDirectory(prefix="mxexport-fuzz-") as directory, contextlib.chdir(directory):
        case = Case(number, seed, seeds)
        before = _listing()
        said = io.StringIO()
        became, wrong = "done", ""
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _command().main(case.arguments, standalone_mode=False)
            except MXExportError as error:
                became = f"{type(error).__name__}"
                wrong = _unreadable(str(error))
            except BaseException as error:
                kind = type(error).__name__
                if kind in ("Exit", "Abort", "SystemExit") or "click" in type(error).__module__:
                    became = f"exit {getattr(error, 'exit_code', 2)}"
                else:
                    became, wrong = "WRONG", _where(error)
        if became not in ("done", "WRONG", "VerificationError", "exit 3") and (left := _listing() - before):
            wrong = wrong or f"left {sorted(left)[:5]} behind {became}"
        if became == "done" and not wrong and case.command in ("clean", "convert"):
            wrong = _computes_something_else(case)
        return case.command, became, wrong and f"{' '.join(case.arguments)}: {wrong}"


def _where(error: BaseException) -> str:
    """The exception and the places of ours on its way, the innermost last."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}mxexport{os.sep}" in f.filename]
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[-4:]]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]} [{', '.join(places)}]"


def _listing() -> set[str]:
    return {str(p) for p in Path().rglob("*") if "__pycache__" not in p.parts}


def _unreadable(text: str) -> str:
    """Errors are for people: not empty, no traceback, no page of text."""
    if not text.strip():
        return "an error without a word"
    if "Traceback (most recent call last)" in text:
        return f"a traceback in an error: {text[-300:]}"
    return ""


def _computes_something_else(case: Case) -> str:
    """A result on inputs of its own: the clean or converted file against the one it was made of."""
    from mxexport.errors import MXExportError
    from mxexport.running.verification import Tolerance, verify

    if any(option in case.arguments for option in ("--shapes", "--to")) and "hls4ml" in case.arguments:
        return ""
    try:
        result = verify("in.onnx", "out.onnx", tensors="outputs", tolerance=Tolerance(1e-4, 1e-5), seed=3)
    except MXExportError:
        return ""  # the file given does not run, or is random
    return "" if result else f"silently other values: {result}"


def work(seed: int, seeds: Path, start: int, step: int, cases: int) -> None:
    """A process that runs every `step`th case and prints a line for each; a case that hangs ends it."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.path.insert(0, str(seeds))
    import torch

    torch.set_num_threads(1)
    _command()
    gc.freeze()  # what is imported stays: looked through again and again, it takes a tenth of the time
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    for number in range(start, cases, step):
        print(json.dumps({"begun": number}), file=out, flush=True)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)  # no handlers: what hangs in C ends, too
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        command, became, wrong = run_case(number, seed, seeds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"case": number, "command": command, "became": became, "wrong": wrong}), file=out, flush=True)


class Tally:
    def __init__(self):
        self.became: dict[str, Counter] = {name: Counter() for name in COMMANDS}
        self.wrong: list[tuple[int, str]] = []

    def take(self, told: dict) -> None:
        self.became[told["command"]][told["became"]] += 1
        if told["wrong"]:
            self.wrong.append((told["case"], told["wrong"]))

    def __str__(self) -> str:
        lines = []
        for name, counts in self.became.items():
            words = ", ".join(f"{count:,} {what}" for what, count in counts.most_common())
            lines.append(f"{name:14} {sum(counts.values()):7,}: {words}")
        total = sum(sum(counts.values()) for counts in self.became.values())
        return "\n".join([*lines, f"{'all':14} {total:7,}: {len(self.wrong)} wrong"])


def fuzz(cases: int, jobs: int, seed: int, show=print) -> Tally:
    """Run cases 0 … `cases` - 1 in `jobs` processes."""
    with tempfile.TemporaryDirectory(prefix="mxexport-fuzz-seeds-") as directory:
        seeds = Path(directory)
        make_seeds(seeds)
        tally, started, next_at = Tally(), time.monotonic(), 1000
        workers = {i: _start(seed, seeds, i, jobs, cases) for i in range(jobs)}
        at = dict.fromkeys(workers, -1)
        while workers:
            for i, worker in list(workers.items()):
                line = worker.stdout.readline()
                told = json.loads(line) if line else None
                if told is None:
                    status = worker.wait()
                    del workers[i]
                    if status:
                        command = _command_of(at[i], seed)
                        hang = -status in (signal.SIGALRM, signal.SIGPROF)
                        became = f"more than {LIMIT} s" if hang else f"a crash ({status})"
                        tally.take({"case": at[i], "command": command, "became": "WRONG", "wrong": became})
                        show(f"case {at[i]}: {command}: {became}", file=sys.stderr, flush=True)
                        if at[i] + jobs < cases:
                            workers[i] = _start(seed, seeds, at[i] + jobs, jobs, cases)
                elif "begun" in told:
                    at[i] = told["begun"]
                else:
                    tally.take(told)
                    if told["wrong"]:
                        show(f"case {told['case']}: {told['wrong']}", file=sys.stderr, flush=True)
            done = sum(sum(c.values()) for c in tally.became.values())
            if done >= next_at:
                rate = done / (time.monotonic() - started)
                show(f"{done:,} cases, {rate:.0f} a second, {len(tally.wrong)} wrong", file=sys.stderr, flush=True)
                next_at += 1000
        return tally


def _command_of(number: int, seed: int) -> str:
    draw = random.Random(f"{seed}-{number}")
    return draw.choices(list(COMMANDS), [weight for weight, _ in COMMANDS.values()])[0]


def _start(seed: int, seeds: Path, start: int, step: int, cases: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.fuzz", "--work", *map(str, (seed, seeds, start, step, cases))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def make_seeds(directory: Path) -> None:
    """The valid files that cases change."""
    import torch
    from torch import nn

    import mxexport as mx

    (directory / "fuzz_net.py").write_text(
        "import torch\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))\n"
    )
    with contextlib.chdir(directory), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        x = torch.randn(8, 32)
        mlp = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))
        mx.export(mx.quantize_model(mlp, "mxfp4_e2m1", "mxint8"), (x[:1],), "mlp.onnx")
        mx.export(mx.quantize_model(mlp, None, "mxint8"), (x[:1],), "float.onnx")

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
                self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8 * 9, 5)

            def forward(self, x):
                x = torch.relu(self.norm(self.a(x)))
                return self.head(nn.functional.max_pool2d(torch.relu(x + self.b(x)), 2).flatten(1))

        images = torch.randn(4, 3, 6, 6)
        mx.export(mx.quantize_model(Net().eval(), "mxfp6_e2m3", "mxint8"), (images[:1],), "cnn.onnx")
        mx.clean("mlp.onnx", "clean.onnx")
        mx.convert("mlp.onnx", "qdq.onnx", to="qdq")
        static = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
        fixed = mx.quantize_model(mlp, mx.QuantSpec("int4", scaling_per_output="channel"), static)
        fixed(x)
        mx.freeze_scales(fixed)
        mx.export(fixed, (x[:1],), "int.onnx")
        mx.convert("int.onnx", "qonnx.onnx", to="finn")
        power = mx.quantize_model(mlp, "mxint4", mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor"))
        power(x)
        mx.freeze_scales(power)
        mx.export(power, (x[:1],), "power.onnx")
        mx.convert("power.onnx", "hls4ml.onnx", to="hls4ml")
        design = mx.compile("mlp.onnx", "design", calibration=x.numpy())
        shutil.copy(design.path / "dataflow.onnx", "dataflow.onnx")
        design.simulate(x.numpy()[:2])  # the simulator is built once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this case alone, in this process")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        seed, seeds, *numbers = given.work
        work(int(seed), Path(seeds), *map(int, numbers))
        return 0
    if given.only is not None:
        with tempfile.TemporaryDirectory() as directory:
            make_seeds(Path(directory))
            sys.path.insert(0, directory)
            print(*run_case(given.only, given.seed, Path(directory)), sep="\n")
        return 0
    tally = fuzz(given.cases, given.jobs, given.seed)
    by_place: dict[str, list[tuple[int, str]]] = {}
    for case, wrong in tally.wrong:
        by_place.setdefault(wrong.partition("[")[2] or wrong[-80:], []).append((case, wrong))
    for same in sorted(by_place.values(), key=len):
        print(f"{len(same)} times, case {same[0][0]}: {same[0][1]}\n")
    print(tally)
    return bool(tally.wrong)


if __name__ == "__main__":
    sys.exit(main())
