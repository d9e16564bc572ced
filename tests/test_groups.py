"""Claims about mxexport.groups: how an axis is cut, padded, put together again, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mxexport.errors import ScaleShapeError, ShapeError
from mxexport.numbers import groups


@st.composite
def cut_tensors(draw):
    """(x with distinct entries, axis, group size): any rank up to 4, any axis from both ends, any tail."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return np.arange(1, 1 + np.prod(shape)).reshape(shape), axis, draw(st.integers(1, 9))


@given(cut_tensors())
def test_from_groups_inverts_to_groups(case):
    x, axis, group_size = case
    assert np.array_equal(groups.from_groups(groups.to_groups(x, axis, group_size), axis, x.shape[axis]), x)


@given(cut_tensors())
def test_groups_hold_consecutive_elements_then_zeros(case):
    x, axis, group_size = case
    rows = np.moveaxis(x, axis, -1)
    position = axis % x.ndim
    grouped = np.moveaxis(groups.to_groups(x, axis, group_size), (position, position + 1), (-2, -1))
    for index in np.ndindex(rows.shape[:-1]):
        row = list(rows[index])
        cut = [row[i : i + group_size] for i in range(0, len(row), group_size)]
        assert grouped[index].tolist() == [g + [0] * (group_size - len(g)) for g in cut]


@given(cut_tensors())
def test_shapes_announced_are_the_shapes_made(case):
    x, axis, group_size = case
    grouped = groups.to_groups(x, axis, group_size)
    position = axis % x.ndim
    assert grouped.shape == groups.grouped_shape(x.shape, axis, group_size)
    assert grouped.max(axis=position + 1).shape == groups.contracted_shape(x.shape, axis, group_size)


@given(cut_tensors())
def test_expand_repeats_each_entry_over_its_group(case):
    x, axis, group_size = case
    position = axis % x.ndim
    first = groups.to_groups(x, axis, group_size).take(0, axis=position + 1)  # first element of each group
    expanded = np.moveaxis(groups.expand(first, axis, group_size, x.shape[axis]), axis, -1)
    rows = np.moveaxis(x, axis, -1)
    for i in range(x.shape[axis]):
        assert np.array_equal(expanded[..., i], rows[..., i // group_size * group_size])


@pytest.mark.parametrize("length, group_size, count", [(64, 32, 2), (65, 32, 3), (31, 32, 1), (1, 1, 1), (0, 32, 0)])
def test_group_count_is_the_rounded_up_quotient(length, group_size, count):
    assert groups.group_count(length, group_size) == count


@pytest.mark.parametrize("shape, axis", [((0, 33), 1), ((33, 0), 0), ((0,), 0), ((2, 0, 33), 2)])
def test_empty_tensors_keep_their_shapes(shape, axis):
    x = np.zeros(shape)
    grouped = groups.to_groups(x, axis, 32)
    assert grouped.shape == groups.grouped_shape(shape, axis, 32)
    assert groups.from_groups(grouped, axis, shape[axis]).shape == shape


def test_a_group_longer_than_the_axis_is_one_short_group():
    assert groups.to_groups(np.array([1, 2, 3]), 0, 5).tolist() == [[1, 2, 3, 0, 0]]


@pytest.mark.parametrize("axis", [-3, 2])
def test_an_axis_outside_the_rank_is_refused(axis):
    with pytest.raises(ShapeError, match=rf"fc1: axis {axis} is outside a tensor of rank 2 \(expected -2\.\.1\)"):
        groups.normalize_axis(axis, 2, "fc1")


@pytest.mark.parametrize("group_size", [0, -32])
def test_a_group_size_below_one_is_refused(group_size):
    with pytest.raises(ShapeError, match=f"group_size is {group_size}; expected at least 1"):
        groups.to_groups(np.zeros(4), 0, group_size)


def test_a_contracted_scale_passes():
    groups.check_scale_shape("fc1", (64, 4), (64, 128), -1, 32)
    groups.check_scale_shape("conv", (64, 3, 3, 3), (64, 65, 3, 3), 1, 32)


def test_a_wrong_scale_shape_says_what_was_expected_and_why():
    message = (
        r"node 'fc1': scale has shape \(64, 5\), expected \(64, 4\): x is \(64, 128\) and group_size=32 makes 4 "
        r"groups on axis 1\.$"
    )
    with pytest.raises(ScaleShapeError, match=message):
        groups.check_scale_shape("node 'fc1'", (64, 5), (64, 128), -1, 32)


def test_an_expanded_zero_point_is_recognised_as_such():
    with pytest.raises(ScaleShapeError, match=r"zero_point has shape \(64, 128\).* looks expanded to one per element"):
        groups.check_scale_shape("fc1", (64, 128), (64, 128), 1, 32, "zero_point")
