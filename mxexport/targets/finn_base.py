"""finn-base 0.0.3 as an executor of its own, and what else of it serves: device budgets, hex memory images.

finn-base (deprecated since 2022; qonnx took its place) is imported as `finn`, so it cannot share an environment with
FINN itself. `.ci/install-finn-base` installs it. Three things are adapted: it asks for `onnx.mapping`, which onnx
removed in 1.19; it finds custom operators only in modules whose name starts with `finn` and whose `custom_op` is a
plain dict; and it reads the opset from the first import.
"""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec

import numpy as np
import onnx

from mxexport.errors import MissingToolError, OptionError, UnsupportedError
from mxexport.model.calls import output_names
from mxexport.ops import DOMAIN, OPERATORS, qonnx_general
from mxexport.running import executors

FINN_DOMAIN = "finn.custom_op.mxexport"
_GENERAL = "finn.custom_op.general"
_RESOURCES = ("LUT", "FF", "BRAM_18K", "URAM", "DSP")
_BOARDS = {
    "xc7z020": "Pynq-Z1",
    "xczu3eg": "Ultra96",
    "xczu7ev": "ZCU104",
    "xczu9eg": "ZCU102",
    "xczu28dr": "ZCU111",
    "xcu50": "U50",
    "xcu200": "U200",
    "xcu250": "U250",
    "xcu280": "U280",
}


def is_installed() -> bool:
    """True where `finn` is importable and is finn-base (FINN itself has no `finn.core.onnx_exec`)."""
    try:
        return find_spec("finn.core.onnx_exec") is not None
    except ModuleNotFoundError:
        return False


def run_finn_base(model: executors.ModelLike, inputs, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """Execute node by node in finn-base, our operators through wrappers; output name -> array.

    Open dimensions are fixed first. `outputs` asks for tensors by name, intermediate ones included.

    Raises:
        MissingToolError: finn-base is not installed.
        UnsupportedError: operators that finn-base does not have, or finn-base fails.
    """
    _register()
    from finn.core.modelwrapper import ModelWrapper
    from finn.core.onnx_exec import execute_onnx

    proto, outputs = executors.load_proto(model), output_names(outputs)
    fed = executors.feeds(proto, inputs)
    with executors.our_errors("finn-base"):
        static = executors.with_static_shapes(proto, {name: array.shape for name, array in fed.items()})
        context = execute_onnx(ModelWrapper(to_finn_base(static)), fed, return_full_exec_context=outputs is not None)
    return {name: context[name] for name in outputs or [o.name for o in proto.graph.output]}


def to_finn_base(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the domains that finn-base looks up, without functions, the standard opset first.

    Metadata is left out: there finn-base would read orders to run the model on a board or in a simulator.

    Raises:
        UnsupportedError: nodes of domains that finn-base has no operators for.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:], copy.metadata_props[:]
    domains = {DOMAIN: (FINN_DOMAIN, OPERATORS), qonnx_general.DOMAIN: (_GENERAL, {"Quant", "BipolarQuant"})}
    problems = []
    for node in copy.graph.node:
        if node.domain == "":
            continue
        domain, known = domains.get(node.domain, ("", ()))
        if node.op_type not in known:
            problems.append((node.name, f"finn-base has no {node.op_type} of {node.domain}"))
        node.domain = domain
    if problems:
        raise UnsupportedError("finn-base cannot execute the model", problems)
    versions = {item.domain: item.version for item in copy.opset_import}
    del copy.opset_import[:]
    copy.opset_import.append(onnx.helper.make_opsetid("", versions.pop("")))
    copy.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in (FINN_DOMAIN, _GENERAL))
    _declare_initializers(copy.graph)
    return copy


def _declare_initializers(g: onnx.GraphProto) -> None:
    """finn-base wants a value info for every tensor, constants included."""
    declared = {v.name for v in (*g.input, *g.output, *g.value_info)}
    for tensor in g.initializer:
        if tensor.name not in declared:
            g.value_info.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def device_budget(part: str, *, usable: bool = False) -> dict[str, int]:
    """LUT, FF, BRAM_18K, URAM and DSP of `part` (`xczu7ev-ffvc1156-2-e`, `xczu7ev`), all dies together.

    The figures are finn-base's: on some devices a few percent below the data sheet.
    usable: only the share that finn-base advises to fill where timing shall close.

    Raises:
        OptionError: a part that finn-base has no figures for.
        MissingToolError: finn-base is not installed.
    """
    board = _BOARDS.get(part.lower().split("-")[0])
    if board is None:
        raise OptionError(f"no resource figures for part {part!r}; known: {', '.join(_BOARDS)}")
    _register()
    from finn.util.platforms import DEFAULT_RES_LIMITS, platforms

    total = np.sum(platforms[board]().compute_resources, axis=0)
    total = np.floor(total * DEFAULT_RES_LIMITS) if usable else total
    return {name: int(count) for name, count in zip(_RESOURCES, total, strict=True)}


def hex_words(values: np.ndarray, bits: int, *, signed: bool = True) -> list[str]:
    """Integers [words, fields] -> one hex word per row, field 0 in the low bits, packed by finn-base (up to 32 bits).

    An independent check of `fpga.words.write_mem`, which writes the same words.
    """
    _register()
    from finn.core.datatype import DataType
    from finn.util.data_packing import pack_innermost_dim_as_hex_string

    kind = DataType[f"{'' if signed else 'U'}INT{bits}"]
    width = -(-values.shape[-1] * bits // 4) * 4
    return list(pack_innermost_dim_as_hex_string(values, kind, width, reverse_inner=True, prefix=""))


# --- adapting finn-base ---------------------------------------------------------------------------------------


def _register() -> None:
    """Make our operators known to finn-base; once per process."""
    if not is_installed():
        raise MissingToolError("finn-base is not installed; run .ci/install-finn-base <bin directory of your python>")
    if FINN_DOMAIN in sys.modules:
        return
    if not hasattr(onnx, "mapping"):
        onnx.mapping = types.ModuleType("onnx.mapping")
        types_known = [code for code in onnx.TensorProto.DataType.values() if code]
        onnx.mapping.TENSOR_TYPE_TO_NP_TYPE = {c: onnx.helper.tensor_dtype_to_np_dtype(c) for c in types_known}
    module = types.ModuleType(FINN_DOMAIN)
    module.custom_op = {op_type: _wrap(operator) for op_type, operator in OPERATORS.items()}
    sys.modules[FINN_DOMAIN] = module


def _wrap(operator: type) -> type:
    from finn.core.datatype import DataType
    from finn.custom_op.base import CustomOp

    class Wrapped(CustomOp):
        def __init__(self, node):
            super().__init__(node)
            self.inner = operator(node)

        def get_nodeattr_types(self):
            return self.inner.get_nodeattr_types()

        def make_shape_compatible_op(self, model):
            return self.inner.make_shape_compatible_op(model)

        def infer_node_datatype(self, model):
            for name in self.onnx_node.output:
                if name:
                    model.set_tensor_datatype(name, DataType["FLOAT32"])

        def execute_node(self, context, graph):
            self.inner.execute_node(context, graph)

        def verify_node(self):
            return self.inner.verify_node()

    Wrapped.__name__ = operator.__name__
    return Wrapped
