"""Whether a converted model computes what its source does: both are executed, plainly, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.errors import MXExportError, ShapeError, VerificationError
from mxexport.model.writer import tensor_bytes
from mxexport.running import executors
from mxexport.running.comparison import compare
from mxexport.running.execution import Verify, drawn_inputs, execute, graph_inputs, named_inputs

_MOST_BYTES = 256 << 20
_MOST_BYTES_REFERENCE = 4 << 20  # onnx's evaluator takes about a thousand times as long


@dataclass(frozen=True)
class Agreement:
    """What is asked of outputs that are not equal: at least `sqnr_db`, the ratio of their values' energy to that of the
    differences, for the `reason` given. None: they must be equal, bit for bit."""

    sqnr_db: float | None = None
    reason: str = ""


EQUAL_BITS = Agreement()
ROUNDED = Agreement(26, "float32 rounds products of wider integers otherwise, which may turn codes behind them over")


def verify_conversion(source: ir.Model, converted, verify: Verify, allowed: Agreement, where: str) -> str:
    """Execute `source` and `converted.model` (a `Converted`); what to say of it.

    Inputs and outputs belong together by their order. Inputs drawn have the shapes of the converted model, and lie on
    the grid that it declares them on; inputs given are split where it has a smaller batch.

    Raises:
        VerificationError: outputs that differ by more than `allowed`, or a converted model that does not execute.
        MXExportError: with `verify` True or given: a source that cannot be executed.
    """
    if verify is False:
        return "not compared: verify=False"
    if converted.changes:
        return f"not compared: {converted.changes}"
    run, most = (execute, _MOST_BYTES) if converted.runs else (_evaluate, _MOST_BYTES_REFERENCE)
    if verify is None and (size := tensor_bytes(source)) > most:
        return f"not compared: {size:,} bytes of weights; verify=True does"
    try:
        fed = _inputs(source, converted, verify)
        expected = [_outputs(run, source, inputs) for inputs in fed]
    except MXExportError as error:
        if verify is not None:
            raise
        return f"not compared: the source does not run on inputs drawn for it: {str(error).splitlines()[0]}"
    names = [value.name for value in graph_inputs(converted.model)]
    found = []
    for inputs in fed:
        try:
            found.append(_outputs(run, converted.model, dict(zip(names, inputs.values(), strict=True))))
        except MXExportError as error:
            raise VerificationError(f"{where}: the source executes, the converted model does not: {error}") from error
    return _compare(source, expected, found, allowed, where)


def _inputs(source: ir.Model, converted, verify: Verify) -> list[dict[str, np.ndarray]]:
    """By the names of `source`, one dict for each run."""
    names, wanted = [value.name for value in graph_inputs(source)], graph_inputs(converted.model)
    if len(names) != len(wanted):
        raise VerificationError(f"the source has the inputs {names}, the converted model {[v.name for v in wanted]}")
    if verify is None or verify is True:
        drawn = drawn_inputs(converted.model)
        return [{name: converted.on_grid(drawn[value.name]) for name, value in zip(names, wanted, strict=True)}]
    return _batches(named_inputs(source, verify), {n: v.shape for n, v in zip(names, wanted, strict=True)})


def _batches(fed: Mapping[str, np.ndarray], shapes: dict[str, ir.Shape | None]) -> list[dict[str, np.ndarray]]:
    sizes = {s[0] for s in shapes.values() if s is not None and len(s) and isinstance(s[0], int)}
    given = {array.shape[0] for array in fed.values() if array.ndim}
    if len(sizes) != 1 or len(given) != 1 or sizes == given:
        return [dict(fed)]
    (size,), (count,) = sizes, given
    if count % size:
        raise ShapeError(f"verify: {count} samples given, the converted model takes {size} at a time")
    return [{name: array[i : i + size] for name, array in fed.items()} for i in range(0, count, size)]


def _outputs(run: Callable, model: ir.Model, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(array) for array in run(model, inputs).values()]


def _evaluate(model: ir.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return executors.run_reference(model, inputs)


def _compare(source: ir.Model, expected: list, found: list, allowed: Agreement, where: str) -> str:
    names = [value.name for value in source.graph.outputs]
    if any(len(one) != len(names) for one in found):
        raise VerificationError(f"{where}: the source has {len(names)} outputs, the converted model {len(found[0])}")
    whole = [[_together(parts) for parts in zip(*runs, strict=True)] for runs in (expected, found)]
    ratios = [_ratio(name, a, b, allowed, where) for name, a, b in zip(names, *whole, strict=True)]
    worst = min(ratios, default=np.inf)
    if worst == np.inf:
        return "equal bits" if allowed.sqnr_db is None else "equal values"
    return f"SQNR {worst:.4g} dB: {allowed.reason}"


def _together(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _ratio(name: str, a: np.ndarray, b: np.ndarray, allowed: Agreement, where: str) -> float:
    """SQNR in dB, infinite where the arrays are equal. Integers have no -0, so only equal bits ask for it."""
    if allowed.sqnr_db is not None and a.dtype.kind == b.dtype.kind == "f":
        a, b = a + a.dtype.type(0), b + b.dtype.type(0)
    result = compare(name, a, b)
    if result.equal:
        return np.inf
    ratio = -np.inf if result.problem or result.sqnr_db is None else result.sqnr_db
    if allowed.sqnr_db is not None and ratio >= allowed.sqnr_db:
        return ratio
    found = result.problem or (
        f"{result.outside:,} of {result.values:,} values differ, first at {result.index}: {' and '.join(result.found)}"
    )
    expected = "equal bits" if allowed.sqnr_db is None else f"{allowed.sqnr_db:g} dB or equal values"
    raise VerificationError(
        f"{where}: output {name!r} of the converted model is not that of the source: {found}; SQNR {ratio:.4g} dB, "
        f"expected {expected}. Nothing was written; please report the model. verify=False writes it all the same"
    )
