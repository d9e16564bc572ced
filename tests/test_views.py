"""Views: where the axes of a tensor are in the stream that carries it, through reshapes and transposes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mxexport.fpga.streams.views import View
from mxexport.fpga.unit import Refused

BATCH = 3


def frames(*shape: int) -> np.ndarray:
    return np.arange(BATCH * math.prod(shape)).reshape(BATCH, *shape)


def splits(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes as they are, joined, and with the first in two parts, either way."""
    cuts = [k for k in (2, 3) if sizes and sizes[0] % k == 0]
    apart = [(k, sizes[0] // k, *sizes[1:]) for k in cuts]
    return [sizes, (math.prod(sizes),), *apart]


def in_strides(tensor: np.ndarray) -> bool:
    """Whether each index moves through the frames by steps of its own, whatever the others are."""
    origin = (0,) * tensor.ndim
    steps = [tensor[(*origin[:i], slice(None), *origin[i + 1 :])] - tensor[origin] for i in range(tensor.ndim)]
    return np.array_equal(tensor, sum(np.ix_(*steps)) + tensor[origin])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_view_follows_what_numpy_does(data):
    """Transposes of a tensor, and reshapes that join or split the axes behind its batch; and back into frames."""
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3))
    x, view = frames(*sizes), View.of(sizes)
    tensor = x.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        perm = data.draw(st.permutations(range(tensor.ndim)))
        tensor, view = tensor.transpose(perm), view.transposed(perm)
        at = next(i for i, axis in enumerate(view.axes) if any(a.size == 0 for a in axis))
        behind = data.draw(st.sampled_from(splits(tensor.shape[at + 1 :])))
        shape = [*tensor.shape[:at], "batch", *behind]
        tensor = tensor.reshape([BATCH if n == "batch" else n for n in shape])
        if not in_strides(tensor):
            with pytest.raises(Refused, match="expected whole parts"):
                view.reshaped(shape)
            return
        view = view.reshaped(shape)
    np.testing.assert_array_equal(view.to_tensor(x), tensor)
    np.testing.assert_array_equal(view.to_stream(tensor, tuple(sizes)), x)
    again = View.read(view.text())
    np.testing.assert_array_equal(again.to_tensor(x), tensor)


def test_heads_of_attention_come_token_by_token():
    x, heads = frames(5, 12), View.of((5, 12)).reshaped(["batch", 5, 3, 4]).transposed([0, 2, 1, 3])
    np.testing.assert_array_equal(heads.to_tensor(x), x.reshape(BATCH, 5, 3, 4).transpose(0, 2, 1, 3))
    assert heads.sizes() == (5, 3, 4) and heads.trailing(3) and not heads.trailing(2) and heads.leading(2)
    turned = heads.transposed([0, 1, 3, 2])
    assert turned.trailing(2) and turned.leading(3)
    joined = heads.transposed([0, 2, 1, 3]).reshaped(["batch", 5, 12])
    assert joined.sizes() == (5, 12) and joined.same(View.of((5, 12))) and not heads.same(turned)


def test_sequences_first_keep_the_batch_inside():
    """As nn.MultiheadAttention splits heads without batch_first: [tokens, batch * heads, channels]."""
    first = View.of((5, 12)).transposed([1, 0, 2]).reshaped([5, "n", 4])
    x = frames(5, 12)
    np.testing.assert_array_equal(first.to_tensor(x), x.transpose(1, 0, 2).reshape(5, BATCH * 3, 4))
    back = first.transposed([1, 0, 2]).reshaped(["batch", 3, 5, 4])
    np.testing.assert_array_equal(back.to_tensor(x), x.reshape(BATCH, 5, 3, 4).transpose(0, 2, 1, 3))


def test_what_cannot_be_followed_is_refused():
    view = View.of((5, 12))
    for shape in (["batch", 7, 9], ["batch", 5, 5, 4], [3, 5, 4], ["batch", "n"], None):
        with pytest.raises(Refused, match="expected whole parts|no known shape"):
            view.reshaped(shape)
    with pytest.raises(Refused, match="not the batch"):
        view.around(0)
    with pytest.raises(Refused, match="in one piece"):
        view.transposed([0, 2, 1]).reshaped(["batch", 60]).around(1)


def test_parts_around_an_axis():
    heads = View.of((5, 24)).reshaped(["batch", 5, 2, 3, 4]).transposed([2, 0, 3, 1, 4])
    assert heads.around(0) == (5, 2, 12) and heads.around(2) == (10, 3, 4) and heads.around(4) == (30, 4, 1)
    assert heads.cut(0, 1).without(0).sizes() == (5, 3, 4) and heads.with_last(4, 7).sizes() == (5, 2, 3, 7)


def test_a_known_batch_stays_the_first_axis():
    view = View.of((5, 12)).reshaped([1, 5, 3, 4])
    assert view.sizes() == (5, 3, 4) and len(view.axes) == 4
