"""Files read and written tensor by tensor are what onnx itself would read and write; bad ones are named."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mxexport.errors import InputFileError
from mxexport.model import graph
from tests.pass_helpers import model

RNG = np.random.default_rng(4)


def many_types() -> ir.Model:
    floats = RNG.standard_normal((40, 64)).astype(np.float32)
    codes = RNG.integers(-8, 8, (40, 512)).astype(ml_dtypes.int4)
    tensors = {
        "f": ir.tensor(floats),
        "h": ir.tensor(floats.astype(np.float16)),
        "b": ir.tensor(np.tile(floats, 2).astype(ml_dtypes.bfloat16)),
        "i": ir.tensor(codes),
        "l": ir.tensor(np.arange(1000)),
        "s": ir.tensor(["a", "b"]),
        "scalar": ir.tensor(np.float32(3)),
        "empty": ir.tensor(np.zeros((0, 4), np.float32)),
    }
    made = model("y = Relu(x)")
    for name, tensor in tensors.items():
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        made.graph.register_initializer(value)
    return made


def assert_same_tensors(a: ir.Model, b: ir.Model) -> None:
    assert set(a.graph.initializers) == set(b.graph.initializers)
    for name, value in a.graph.initializers.items():
        x, y = value.const_value, b.graph.initializers[name].const_value
        assert x.dtype == y.dtype and tuple(x.shape) == tuple(y.shape), name
        if x.dtype == ir.DataType.STRING:
            assert list(x.string_data()) == list(y.string_data())
        else:
            assert x.tobytes() == y.tobytes(), name
            assert np.array_equal(x.numpy(), y.numpy()), name


def test_round_trip_of_every_type(tmp_path):
    made = many_types()
    graph.save(made, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    assert_same_tensors(ir.load(tmp_path / "m.onnx"), made)
    loaded = graph.load(tmp_path / "m.onnx")
    assert_same_tensors(loaded, made)
    graph.save(loaded, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    graph.save(loaded, tmp_path / "m.onnx")  # over the very file it is read from
    assert_same_tensors(loaded, made)
    assert_same_tensors(ir.load(tmp_path / "m.onnx"), made)


def test_files_written_by_onnx_are_read_alike(tmp_path):
    made = many_types()
    for name in ("m.onnx", "m.json"):
        onnx.save(graph.to_proto(made), tmp_path / name)
        assert_same_tensors(graph.load(tmp_path / name), made)
    ir.save(made, tmp_path / "beside.onnx", external_data="beside.data")
    assert_same_tensors(graph.load(tmp_path / "beside.onnx"), made)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"not a model at all", b"\xff" * 50])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    try:
        assert not list(graph.load(tmp_path / "m.onnx").graph)
    except InputFileError as error:
        assert "is not a readable ONNX model" in str(error)


def test_cut_and_inconsistent_files_are_refused(tmp_path):
    graph.save(many_types(), tmp_path / "m.onnx")
    whole = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match="cut.onnx is not a readable ONNX model"):
        graph.load(tmp_path / "cut.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    next(t for t in proto.graph.initializer if t.name == "f").dims[0] = 1 << 40
    (tmp_path / "odd.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputFileError, match="tensor 'f' holds 10240 bytes"):
        graph.load(tmp_path / "odd.onnx")
    with pytest.raises(InputFileError, match="no such file"):
        graph.load(tmp_path / "missing.onnx")


def test_a_file_cannot_refer_to_itself_without_a_name(tmp_path):
    """An empty location is how a reader marks tensors that it left in the model's own file."""
    made = graph.to_proto(model("y = Relu(x)"))
    tensor = made.graph.initializer.add(name="w", data_type=onnx.TensorProto.UINT8, dims=[8])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", ""), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(InputFileError, match="tensor 'w': data file ''; expected a path inside"):
        graph.load(tmp_path / "m.onnx")
