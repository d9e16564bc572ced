"""Writes an ONNX file and the file of its tensors: both whole or both as they were before. Other files likewise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import InputFileError, OptionError
from mxexport.model import protobuf
from mxexport.model.staging import replace_files, staging

EXTERNAL_ABOVE = 100_000_000
"""Bytes of tensors above which they get a file of their own."""
_PROTO_LIMIT = 1_800_000_000  # protobuf refuses 2 GiB; leave room for everything but tensors


def writable(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path where a file may be put: it is replaced by renaming, so never a directory or a device.

    Raises:
        InputFileError: no such directory, or something other than a file is there.
    """
    try:
        path = Path(path)
        if "\0" in str(path):
            raise ValueError("a name cannot hold a zero byte")
        if not path.name or not path.parent.is_dir():
            raise InputFileError(f"cannot write {path}: no such directory: {path.parent}")
        if path.exists() and not path.is_file():
            raise InputFileError(f"cannot write {path}: {'a directory' if path.is_dir() else 'no file'} is there")
    except (TypeError, ValueError, OSError) as error:
        raise InputFileError(f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    return path


def write_model(model: ir.Model, path: Path, external_data: bool | None = None) -> Path | None:
    """Write `model`; the data file beside it if there is one (`<name>.data`), else None.

    external_data: keep tensors in the data file; None does so above `EXTERNAL_ABOVE`. The data file of the model that
    was at `path` before is replaced or removed.

    Raises:
        InputFileError: `path` cannot be written.
        OptionError: tensors of 2 GiB without a data file.
    """
    if external_data is None:
        external_data = tensor_bytes(model) > EXTERNAL_ABOVE
    elif not external_data and tensor_bytes(model) > _PROTO_LIMIT:
        raise OptionError(f"{path}: an ONNX file cannot hold 2 GiB of tensors; leave external_data=None")
    path = writable(path)
    data = data_path(path)
    stale = not external_data and _refers_to(path, data.name)
    _put_standard_opset_first(model)
    try:
        with staging(path) as staged:
            # Tensors in a file of their own may lie in the very file that is replaced: all forms read them.
            if external_data:
                ir.save(model, staged / path.name, external_data=data.name)
            else:
                read_tensors(model)
                write = ir.save if protobuf.is_text(path) else protobuf.write_whole
                write(model, staged / path.name)
            external_data = external_data and (staged / data.name).exists()  # tensors may all be small
            names = [data.name] if external_data else []
            replace_files(staged, path.parent, [*names, path.name])
        if stale:
            data.unlink(missing_ok=True)
    except OSError as error:
        raise InputFileError(f"cannot write {path}: {error.strerror or error}") from error
    return data if external_data else None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename. Raises OSError."""
    with staging(path) as staged:
        (staged / path.name).write_bytes(data)
        os.replace(staged / path.name, path)


def read_tensors(model: ir.Model) -> None:
    """Read initializers that lie in a data file into memory. Arrays taken from them before stay valid."""
    for value in (value for g in model.graphs() for value in g.initializers.values()):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)


def data_path(path: Path) -> Path:
    """Where the tensors of the model at `path` lie when they have a file of their own."""
    return path.with_name(f"{path.name}.data")


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of the initializers of the main graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _put_standard_opset_first(model: ir.Model) -> None:
    """qonnx reads the first opset import."""
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        ordered = sorted(imports.items())
        imports.clear()
        imports.update(ordered)


def _refers_to(path: Path, data_name: str) -> bool:
    """Whether the model at `path` keeps tensors in the file `data_name`."""
    if not (path.is_file() and path.with_name(data_name).is_file()):
        return False
    try:
        old = onnx.load(path, load_external_data=False)
    except Exception:  # not a model of ours: nothing beside it is ours, either
        return False
    return any(
        entry.key == "location" and entry.value == data_name
        for tensor in old.graph.initializer
        for entry in tensor.external_data
    )
