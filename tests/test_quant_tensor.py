"""Quant tensors as tensors: equal to their values in every operation, groups kept where they stay whole."""

from __future__ import annotations

import copy
import io
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional

import mxexport as mx
from mxexport.errors import FormatError, InputFileError, OptionError, ScaleShapeError, ShapeError, UnsupportedError
from mxexport.quant import GroupwiseQuantTensor, load_file, save_file
from mxexport.quant.tensors.codes import decode
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values

FORMATS = (*ALL_FORMATS, "nvfp4")


def quantized(name: str = "mxfp6_e2m3_g8", shape=(3, 5, 20), axis: int = 1) -> GroupwiseQuantTensor:
    torch.manual_seed(0)
    return mx.quantize(torch.randn(shape), name, axis)


def assert_consistent(q: GroupwiseQuantTensor) -> None:
    """Shapes are contracted, and codes times scales are the values."""
    g, a = q.group_size, q.axis
    assert q.value_.shape == (*q.shape[:a], -(-q.shape[a] // g), g, *q.shape[a + 1 :])
    assert q.scale_.shape == (*q.value_.shape[: a + 1], 1, *q.value_.shape[a + 2 :])
    assert q.zero_point_ is None or q.zero_point_.shape == q.scale_.shape
    assert not q.value_.flatten(a, a + 1).narrow(a, q.shape[a], -q.shape[a] % g).any()
    again = decode(q.codes, q.scale_, q.zero_point_, q.format)
    assert torch.equal(again, q.value_)


KEEPING = {
    "neg": lambda q: -q,
    "abs": lambda q: abs(q),
    "relu": torch.relu,
    "clone": torch.clone,
    "detach": lambda q: q.detach(),
    "deepcopy": copy.deepcopy,
    "contiguous": lambda q: q.contiguous(),
    "cpu": lambda q: q.cpu(),
    "to": lambda q: q.to("cpu", copy=True),
    "double": lambda q: q.double().float(),
    "transpose": lambda q: q.transpose(0, -1),
    "swapaxes": lambda q: q.swapaxes(1, 2),
    "permute": lambda q: q.permute(2, 0, 1),
    "movedim": lambda q: q.movedim(1, -1),
    "mT": lambda q: q.mT,
    "view": lambda q: q.view(15 // 5, 5, 4, 5),
    "reshape": lambda q: q.reshape(3, 5, -1),
    "flatten": lambda q: q.flatten(2),
    "unsqueeze": lambda q: q.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda q: q.unsqueeze(0).squeeze(),
    "row": lambda q: q[1],
    "rows": lambda q: q[1:3, :, ::2],
    "none": lambda q: q[None, ..., 3],
    "groups": lambda q: q[:, :4],
    "tail": lambda q: q[:, 4:],
    "narrow": lambda q: q.narrow(2, 3, 7),
    "split": lambda q: q.split([4, 1], 1)[1],
    "chunk": lambda q: q.chunk(3, 0)[1],
    "unbind": lambda q: q.unbind(2)[4],
    "index_select": lambda q: q.index_select(0, torch.tensor([2, 0])),
    "indexed": lambda q: q[torch.tensor([[0, 2], [2, 1]])],
    "indexed_behind": lambda q: q[:, :, torch.tensor([[0, 2], [2, 1]])],
    "indexed_apart": lambda q: q[torch.tensor([0, 2]), :, torch.tensor([[1], [3]])],
    "masked": lambda q: q[torch.tensor([True, False, True])],
    "none_masked": lambda q: q[:, :, torch.zeros(20, dtype=torch.bool)],
    "embedding": lambda q: functional.embedding(torch.tensor([[0, 2], [2, 1]]), q[:, :, 0]),
    "flip": lambda q: q.flip(0, -1),
    "expand": lambda q: q[:1].expand(2, 3, 5, 20),
    "repeat": lambda q: q.repeat(2, 1, 1, 3),
    "repeat_groups": lambda q: q[:, :4].repeat(1, 3, 1),
    "cat": lambda q: torch.cat([q, -q], 0),
    "cat_whole": lambda q: torch.cat([q[:, :4], q], 1),
    "stack": lambda q: torch.stack([q, -q], -1),
    "times_power_of_two": lambda q: 0.25 * q * 8,
    "over_power_of_two": lambda q: q / 2,
    "empty_slice": lambda q: q[2:2],
}


@pytest.mark.parametrize("name", ["mxfp4_e2m1_g4", "mxint8_g4", "int4_g4", "float_fnuz_e4m3_g4"])
@pytest.mark.parametrize("operation", KEEPING)
def test_operation_on_whole_groups_keeps_them(name, operation):
    q = quantized(name)
    result = KEEPING[operation](q)
    assert type(result) is type(q) and result.format == q.format
    assert torch.equal(result.value, KEEPING[operation](q.value))
    assert_consistent(result)


LEAVING = {
    "add": lambda q: q + 1,
    "add_tensor": lambda q: q + q,
    "sub": lambda q: 1 - q,
    "mul": lambda q: q * 3,
    "div": lambda q: 2 / (q + 9),
    "power": lambda q: q**2,
    "matmul": lambda q: q @ torch.eye(20),
    "less": lambda q: q < 0.5,
    "equal": lambda q: q == q,
    "maximum": lambda q: torch.maximum(q, -q),
    "max_pool": lambda q: functional.max_pool1d(q, 2),
    "max_pool2d": lambda q: functional.max_pool2d(q, 2),
    "softmax": lambda q: q.softmax(-1),
    "sum": lambda q: q.sum(1),
    "where": lambda q: torch.where(q > 0, q, 0.0),
    "flatten": lambda q: q.flatten(),
    "joined": lambda q: q.reshape(15, 20),
    "cut_groups": lambda q: q[:, :3],
    "strided": lambda q: q[:, ::4],
    "selected": lambda q: q[:, 2],
    "indexed": lambda q: q[:, torch.tensor([0, 2])],
    "indexed_across": lambda q: q[torch.tensor([0, 2]), torch.tensor([[1], [3]])],
    "masked": lambda q: q[q > 0],
    "flipped_groups": lambda q: q.flip(0, 1),
    "repeated_short": lambda q: q.repeat(1, 2, 1),
    "cat_short": lambda q: torch.cat([q, q], 1),
    "cat_plain": lambda q: torch.cat([q, torch.ones(3, 5, 20)], 0),
    "stack_plain": lambda q: torch.stack([q, torch.ones(3, 5, 20)]),
    "int": lambda q: q.int(),
    "zeros_like": torch.zeros_like,
}


@pytest.mark.parametrize("name", ["mxfp8_e4m3_g4", "uint4_g4", "nvfp4"])
@pytest.mark.parametrize("operation", LEAVING)
def test_other_operations_give_plain_tensors(name, operation):
    q = quantized(name)
    result = LEAVING[operation](q)
    assert type(result) is torch.Tensor
    assert torch.equal(result, LEAVING[operation](q.value))


def test_asymmetric_codes_mirror_under_neg():
    q = quantized("uint4_g4")
    assert_consistent(-q)
    assert torch.equal((-q).value, -q.value) and torch.equal((-q).zero_point_, 15 - q.zero_point_)
    assert type(abs(q)) is torch.Tensor and type(torch.relu(q)) is type(q)


def test_whole_groups_can_be_split_off_an_axis_and_joined_again():
    q = quantized("mxint8_g4", (6, 24), 1)
    split = q.view(6, 3, 8)
    assert split.axis == 2 and split.value_.shape == (6, 3, 2, 4)
    joined = split.view(-1)
    assert joined.axis == 0 and torch.equal(joined.value, q.value.flatten())
    assert_consistent(split)
    assert_consistent(joined)
    assert type(q.view(12, 12)) is type(q) and type(q.view(24, 6)) is torch.Tensor


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_views_and_slices_equal_those_of_the_values(data):
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    axis, group = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 4))
    q = mx.quantize(torch.randn(shape), f"mxfp8_e4m3_g{group}", axis)
    q = q.permute(*data.draw(st.permutations(range(len(shape)))))
    factors = [2] * sum(n in (2, 6) for n in shape) + [3] * sum(n in (3, 6) for n in shape)
    factors += [4] * sum(n == 4 for n in shape) + [1]
    target = tuple(data.draw(st.permutations(factors)))
    results = [(q.reshape(target), q.value.reshape(target))]
    dim = data.draw(st.integers(0, len(shape) - 1))
    index = (slice(None),) * dim + (slice(data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))),)
    results.append((q[index], q.value[index]))
    for result, expected in results:
        assert result.shape == expected.shape
        if isinstance(result, GroupwiseQuantTensor):
            assert_consistent(result)
            result = result.value
        assert torch.equal(result, expected)


def test_power_of_two_that_would_lose_bits_gives_a_plain_tensor():
    q = mx.quantize(torch.tensor([[2.0**-126, 0, 0, 0], [1, 2, 3, 4]]), "mxfp8_e4m3_g4")
    for factor in (2.0**-20, 0.5):  # the first group already has the smallest scale
        assert type(q * factor) is torch.Tensor and torch.equal(q * factor, q.value * factor)
    assert type(q[1:] * 0.5) is type(q)


def test_storage_is_contracted_after_every_operation():
    q = quantized("mxint8", (64, 256), 1)
    limit = 64 * 256 * 4 + 64 * 8 * 4
    for result in (q, -q, q.t(), q.view(8, 8, 256), torch.cat([q[:32], q[32:]])):
        inner = [getattr(result, name) for name in result.__tensor_flatten__()[0]]
        assert sum(t.numel() * t.element_size() for t in inner) == limit


def test_dtype_moves_change_values_and_leave_scales_float32():
    q = quantized("mxint8_g4")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        moved = q.to(dtype)
        assert moved.dtype == moved.value_.dtype == dtype and moved.scale_.dtype == torch.float32
        assert torch.equal(moved.codes, q.codes)
    assert type(q.to("meta")) is type(q) and q.to("meta").scale_.device.type == "meta"


def test_quant_tensors_refuse_writing():
    q = quantized()
    for write in (lambda: q.add_(1), lambda: q.zero_(), lambda: torch.add(q, 1, out=q), lambda: q.__setitem__(0, 1.0)):
        with pytest.raises(UnsupportedError, match="cannot be changed in place"):
            write()
    x = torch.ones(3, 5, 20)
    assert torch.equal(x.add_(q), 1 + q.value)


def test_writing_to_plain_results_leaves_the_quant_tensor_alone():
    q = mx.quantize(torch.randn(3, 8), "mxint8_g4")
    before = q.value
    for plain in (q.value, q.dequantize(), q.view(-1)[:5], q.view(24).view(4, 6), q[:, :3], q[:, 5], q.diagonal()):
        plain.zero_() if type(plain) is torch.Tensor else plain.value.zero_()
    q.numpy()[:] = 0
    torch.from_dlpack(q).zero_()
    assert torch.equal(q.value, before) and before.any()


WRONG_PLACES = {
    "cat": lambda q: torch.cat([q, q], 5),
    "stack": lambda q: torch.stack([q, q], 5),
    "unsqueeze": lambda q: q.unsqueeze(7),
    "t": lambda q: q.t(),
    "permute": lambda q: q.permute(3, 1, 2),
    "select": lambda q: q.select(5, 0),
    "flip": lambda q: q.flip(4),
    "split_sizes": lambda q: q.split([1, 1], 0),
    "split_size": lambda q: q.split(-1),
    "unbind": lambda q: q.unbind(4),
    "squeeze": lambda q: q.squeeze(4),
    "index_select": lambda q: q.index_select(5, torch.tensor([0])),
    "embedding": lambda q: functional.embedding(torch.tensor([-1]), q[:, :, 0]),
    "embedding_scalar": lambda q: functional.embedding(torch.tensor(3), q[:, :, 0]),
    "long_mask": lambda q: q[torch.ones(4, dtype=torch.bool)],
}


@pytest.mark.parametrize("operation", WRONG_PLACES)
def test_dimensions_that_are_not_there_are_refused_as_by_torch(operation):
    q = quantized()
    with pytest.raises((IndexError, RuntimeError)) as expected:
        WRONG_PLACES[operation](q.value)
    with pytest.raises(expected.type):
        WRONG_PLACES[operation](q)


def test_groups_are_kept_in_inference_mode_too():
    with torch.inference_mode():
        for name in ("flatten", "swapaxes", "movedim", "chunk", "narrow", "embedding"):
            q = quantized()
            result = KEEPING[name](q)
            assert type(result) is type(q) and torch.equal(result.value, KEEPING[name](q.value))


def test_tensors_made_outside_inference_mode_work_in_it():
    q = quantized("mxint8_g4")
    for name in ("transpose", "row", "rows", "tail", "split", "flatten", "unbind", "expand"):
        with torch.inference_mode():
            result = KEEPING[name](q)
            assert type(result) is type(q) and torch.equal(result.value, KEEPING[name](q.value))
    with torch.inference_mode():
        assert torch.equal(q[:, 2], q.value[:, 2]) and type(q[:, :3]) is torch.Tensor
        by_hand = functional.conv1d(torch.ones(1, 5, 20), q), functional.conv1d(torch.ones(1, 5, 20), q.value)
        assert torch.equal(*by_hand)
        assert torch.equal(torch.fft.hfft2(q, dim=(0, 1, 2)), torch.fft.hfft2(q.value, dim=(0, 1, 2)))
        bicubic = {"size": (7, 7), "mode": "bicubic"}
        assert torch.equal(functional.interpolate(q[None], **bicubic), functional.interpolate(q.value[None], **bicubic))


STRIDES = {
    "as_strided": lambda x: x.as_strided((2, 3), (10, 2)),
    "group_norm": lambda x: functional.group_norm(x, 1),
    "det": lambda x: torch.linalg.det(x[:, :, :5] + torch.eye(5)),
    "complex": lambda x: torch.view_as_complex(x[..., :2]).abs(),
    "pdist": lambda x: functional.pdist(x.flatten(1) + 0) + functional.pdist(x[1]).sum(),
    "norm": lambda x: x.norm(dim=-1),
    "normalize": lambda x: functional.normalize(x, 3.0, dim=1),
}


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("operation", STRIDES)
def test_operations_that_rely_on_strides_or_write_to_temporaries_get_values_and_gradients(operation, axis):
    q = quantized("mxfp6_e2m3_g3", axis=axis).requires_grad_()
    x = q.value.detach().requires_grad_()
    results = [STRIDES[operation](t) for t in (q, x)]
    assert torch.equal(*results)
    for result in results:
        (result * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
    torch.testing.assert_close(q.grad, x.grad)


def test_vmap_takes_quant_tensors_and_cannot_make_them():
    q = quantized()
    assert torch.equal(torch.vmap(lambda row: row * 3)(q), q.value * 3)
    for transform in (torch.vmap, torch.func.jacrev):
        with pytest.raises(UnsupportedError, match="vmap .* cannot make quant tensors; quantize outside"):
            transform(lambda x: mx.quantize(x, "mxint8").value)(torch.randn(3, 4))


def test_data_is_replaced_by_quant_tensors_only():
    weight = torch.nn.Parameter(mx.quantize(torch.randn(3, 8), "mxint8_g4"))
    with pytest.raises(UnsupportedError, match=r"must be one, too: quantize\('mxint8_g4'\)"):
        weight.data = torch.ones(2, 2)
    weight.data = mx.quantize(torch.ones(2, 40), "mxfp8_e4m3")
    assert weight.shape == (2, 40) and weight.format.name == "mxfp8_e4m3" and weight.requires_grad
    assert torch.equal(weight.value, torch.ones(2, 40))


def test_shared_memory_holds_the_parts():
    module = torch.nn.Linear(8, 3)
    module.weight = torch.nn.Parameter(mx.quantize(module.weight.detach(), "mxint8_g4"))
    module.share_memory()
    assert module.weight.is_shared() and module.weight.scale_.is_shared()


def test_checkpoint_loads_without_running_code_and_its_parts_are_checked(tmp_path):
    q = quantized("uint4_g4")
    torch.save({"w": torch.nn.Parameter(q)}, tmp_path / "f.pt")
    loaded = torch.load(tmp_path / "f.pt", weights_only=True)["w"]
    assert type(loaded) is type(q) and torch.equal(loaded.value, q.value)
    for change in (
        {"scale_": torch.ones(1)},
        {"axis": 0},
        {"axis": "1"},
        {"_grouped": None},
        {"_format_name": "int4_g4"},
    ):
        bad = quantized("uint4_g4")
        bad.__dict__.update(change)
        torch.save({"w": bad}, tmp_path / "f.pt")
        with pytest.raises(Exception, match="part|shape|expected|zero point"):
            torch.load(tmp_path / "f.pt", weights_only=True)


def test_module_holds_a_quant_tensor_as_parameter_and_loads_its_state_dict():
    def layer(seed):
        torch.manual_seed(seed)
        module = torch.nn.Linear(40, 4)
        module.weight = torch.nn.Parameter(mx.quantize(module.weight.detach(), "mxint8"))
        return module

    a, b, x = layer(0), layer(1), torch.randn(2, 40)
    b.load_state_dict(a.state_dict())
    assert torch.equal(b(x), a(x)) and isinstance(b.weight, GroupwiseQuantTensor)
    a(x).sum().backward()
    assert torch.equal(a.weight.grad, x.sum(0).expand(4, 40))
    assert isinstance(copy.deepcopy(a).weight, torch.nn.Parameter)
    with pytest.raises(UnsupportedError, match="cannot copy a plain"), torch.no_grad():
        b.weight.copy_(torch.zeros(4, 40))


def test_gradients_pass_straight_through_every_operation():
    x = torch.randn(4, 32, requires_grad=True)
    q = mx.quantize(x, "mxfp8_e4m3_g8", scale_rule="ceil")  # nothing is clipped
    weights = torch.randn(32, 4)
    loss = (-q.t() * weights).sum() + q.value_.sum() + q.value.sum() + q[1:3, 8:].sum() + torch.cat([q, q]).sum()
    loss.backward()
    inner = torch.zeros(4, 32)
    inner[1:3, 8:] = 1
    torch.testing.assert_close(x.grad, -weights.t() + 4 + inner)
    assert q.requires_grad and not q.detach().requires_grad


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_function_takes_and_returns_quant_tensors(backend):
    def function(q, x):
        y = -q.t()
        made = mx.quantize(x, "int4_g16")
        return y, y.value + 1, q.scale_, y.codes, functional.linear(x, q), made.value, made, made.scale

    q, x = quantized("mxfp8_e4m3", (4, 70)), torch.randn(3, 70)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)(q, x)
    for actual, expected in zip(compiled, function(q, x), strict=True):
        assert type(actual) is type(expected)
        torch.testing.assert_close(actual + 0, expected + 0, rtol=1e-6, atol=1e-6)
    assert compiled[0].format == q.format and compiled[0].axis == 0


def test_compiled_function_has_the_straight_through_gradient():
    def function(x):
        q = mx.quantize(x, "mxfp8_e4m3", scale_rule="ceil")
        return (q.t() * 3).sum() + q.value.sum()

    torch._dynamo.reset()
    x = torch.randn(4, 70, requires_grad=True)
    torch.compile(function, fullgraph=True, backend="aot_eager")(x).backward()
    assert torch.equal(x.grad, torch.full((4, 70), 4.0))


def test_python_protocols():
    q = quantized("mxint8", (2, 5))
    assert np.array_equal(q.numpy(), q.value.numpy()) and np.array_equal(np.asarray(q), q.value.numpy())
    assert q.tolist() == q.value.tolist() and q[0, 0].item() == q.value[0, 0].item()
    assert "mxint8" in repr(q) and "mxint8" in f"{q}" and len(q) == 2 and [r.shape for r in q] == [(5,), (5,)]
    x = torch.randn(2, 5, requires_grad=True)
    assert "requires_grad" not in repr(q) and "grad_fn" in repr(mx.quantize(x, "mxint8"))
    buffer = io.BytesIO()
    torch.save(q, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False), q)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"value_": torch.zeros(2, 3, 5)}, ShapeError, r"expected \(2, 4\) on axes 1 and 2"),
        ({"scale_": torch.ones(2, 2, 4)}, ScaleShapeError, r"expected \(2, 2, 1\): one entry per group"),
        ({"zero_point_": torch.zeros(2, 2, 1)}, ShapeError, "has no zero point"),
        ({"axis": 2}, ShapeError, "axis 2 is outside"),
        ({"fmt": "uint8_g4"}, ShapeError, "needs a zero point"),
        ({"fmt": "int8"}, FormatError, "has no groups"),
        ({"scale_": torch.ones(2, 2, 1).half()}, ShapeError, "scale_ is torch.float16 on cpu, expected torch.float32"),
        ({"scale_": torch.ones(2, 2, 1, device="meta")}, ShapeError, "on meta, expected torch.float32 on cpu"),
        ({"scale_": None}, ShapeError, "scale_ is NoneType"),
        ({"value_": torch.zeros(2, 2, 4).int()}, ShapeError, "expected a floating tensor"),
        ({"value_": [[0.0]]}, ShapeError, "value_ is list"),
        ({"axis": None}, ShapeError, "expected integers"),
        ({"length": 7.0}, ShapeError, "expected integers"),
        ({"tensor_scale": torch.ones(())}, ShapeError, "nvfp4 has one"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, error, message):
    parts = {"value_": torch.zeros(2, 2, 4), "scale_": torch.ones(2, 2, 1), "zero_point_": None}
    parts |= {"fmt": "mxint8_g4", "axis": 1, "length": 7}
    assert GroupwiseQuantTensor.from_parts(**parts).shape == (2, 7)
    with pytest.raises(error, match=message):
        GroupwiseQuantTensor.from_parts(**(parts | change))


def test_what_stands_in_the_padding_of_parts_does_not_matter():
    q = GroupwiseQuantTensor.from_parts(torch.ones(2, 2, 4), torch.ones(2, 2, 1), None, "mxint8_g4", 1, 7)
    assert q.value_[:, 1, 3].tolist() == [0, 0] and torch.equal(q.value, torch.ones(2, 7))


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMATS)
def test_file_gives_back_the_same_bits(tmp_path, name, dtype):
    x = torch.from_numpy(np.stack([edge_values((30, 70), seed) for seed in range(2)], axis=2)).to(dtype)
    if dtype == torch.float16:
        x = x.clamp(-100, 100)
    q = mx.quantize(x, name, axis=1)
    save_file({"w": q, "plain": torch.arange(3), "flipped": q.permute(1, 0, 2)}, tmp_path / "f")
    loaded = load_file(tmp_path / "f")
    assert list(loaded) == ["flipped", "w", "plain"] and torch.equal(loaded["plain"], torch.arange(3))
    again = loaded["w"]
    assert type(again) is type(q) and again.format == q.format and again.axis == 1 and again.dtype == dtype
    assert_equal_bits(again.value_.float().numpy(), q.value_.float().numpy())
    assert_equal_bits(again.scale_.numpy(), q.scale_.numpy())
    assert loaded["flipped"].axis == 0 and q.zero_point_ is None or torch.equal(again.zero_point_, q.zero_point_)


def test_file_is_small(tmp_path):
    x = torch.randn(256, 1024)
    for name, bits in (("mxfp4_e2m1", 4.25), ("mxfp6_e2m3", 6.25), ("mxint8", 8.25), ("int3_g32", 4)):
        save_file({"w": mx.quantize(x, name)}, tmp_path / "f")
        assert (tmp_path / "f").stat().st_size < x.numel() * bits / 8 + 600


@pytest.mark.parametrize(
    "tensors, message",
    [
        ([], "expected a dict"),
        ({1: torch.ones(1)}, "cannot be called 1"),
        ({"__metadata__": torch.ones(1)}, "cannot be called '__metadata__'"),
        ({"w": 1.0}, "'w' is float"),
        ({"w": torch.ones(2).to_sparse()}, "sparse"),
        ({"w": mx.quantize(torch.ones(4), "mxint8").to("meta")}, "on meta"),
    ],
)
def test_what_a_file_cannot_hold_is_named(tmp_path, tensors, message):
    with pytest.raises(OptionError, match=message):
        save_file(tensors, tmp_path / "f")
    with pytest.raises(InputFileError, match="cannot write"):
        save_file({"w": quantized()}, tmp_path)  # a directory


def test_values_that_are_not_codes_are_not_saved(tmp_path):
    q = GroupwiseQuantTensor.from_parts(torch.full((1, 1, 4), 0.3), torch.ones(1, 1, 1), None, "mxint8_g4", 1, 4)
    with pytest.raises(FormatError, match="'w' are not mxint8_g4 codes times scales"):
        save_file({"w": q}, tmp_path / "f")
    with pytest.raises(FormatError, match="two tensors would be called 'w.codes'"):
        save_file({"w": quantized(), "w.codes": torch.ones(1)}, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


ENTRY = {"format": "mxint8", "axis": 1, "shape": [2, 40], "dtype": "float32"}


@pytest.mark.parametrize(
    "metadata, message",
    [
        ("not json", "is not what save_file writes"),
        ("[" * 100_000, "is not what save_file writes"),
        (json.dumps([]), "is not what save_file writes"),
        (json.dumps({"version": 2, "tensors": {}}), "file version 2, expected 1"),
        (json.dumps({"version": 1, "tensors": {"w": 3}}), "not an object"),
        *(
            (json.dumps({"version": 1, "tensors": {"w": ENTRY | change}}), message)
            for change, message in [
                ({"format": "mxfp9"}, "'w' cannot be read: unknown format"),
                ({"format": ["mxint8"]}, "expected a format name"),
                ({"format": "mxint8_g8"}, r"w.codes is torch.uint8 \(2, 2, 32\), expected torch.uint8 \(2, 5, 8\)"),
                ({"format": "mxfp4_e2m1"}, r"expected torch.uint8 \(2, 2, 16\)"),
                ({"format": "uint8_g32"}, "w.scale is torch.uint8"),
                ({"axis": 7}, "axis 7 is outside"),
                ({"axis": True}, "axis True is outside"),
                ({"shape": [2, 10**12]}, "w.codes is"),
                ({"shape": [2, -40]}, "not a list of sizes"),
                ({"dtype": "object"}, "dtype 'object'"),
            ]
        ),
        (json.dumps({"version": 1, "tensors": {"v": ENTRY}}), "'v.codes' is missing"),
        (json.dumps({"version": 1, "tensors": {"w": {}}}), "'format' is missing"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path, metadata, message):
    save_file({"w": mx.quantize(torch.randn(2, 40), "mxint8")}, tmp_path / "f")
    tensors = safetensors.torch.load_file(tmp_path / "f")
    safetensors.torch.save_file(tensors, tmp_path / "f", {"mxexport": metadata})
    with pytest.raises(InputFileError, match=message):
        load_file(tmp_path / "f")


def test_other_files_are_named(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        load_file(tmp_path / "absent")
    (tmp_path / "f").write_bytes(b"PK not safetensors")
    with pytest.raises(InputFileError, match="not a readable safetensors file"):
        load_file(tmp_path / "f")
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "g")
    assert torch.equal(load_file(tmp_path / "g")["x"], torch.ones(2))
