"""Initializers are shared where their bits are the same, and only there; names are handed out once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from mxexport.model.editing import add_initializer, new_initializer
from mxexport.model.names import Names, free_name
from tests.helpers import assert_equal_bits

OTHER_BITS = {
    "sign of zero": (np.float32([0.0]), np.float32([-0.0])),
    "dtype": (np.zeros(2, np.int8), np.zeros(2, np.uint8)),
    "shape": (np.zeros((1, 2), np.float32), np.zeros(2, np.float32)),
}


def empty() -> ir.Graph:
    return ir.Graph([], [], nodes=[], name="g")


@pytest.mark.parametrize("case", OTHER_BITS)
def test_tensors_of_other_bits_are_apart(case):
    g = empty()
    first, second = (add_initializer(g, "c", array) for array in OTHER_BITS[case])
    assert (first.name, second.name) == ("c", "c_1") and list(g.initializers) == ["c", "c_1"]


SAME_BITS = {"NaN": np.float32([np.nan, 1]), "bfloat16": np.zeros(3, ml_dtypes.bfloat16), "empty": np.zeros((0, 4))}


@pytest.mark.parametrize("case", SAME_BITS)
def test_tensors_of_the_same_bits_are_one(case):
    g, array = empty(), SAME_BITS[case]
    assert add_initializer(g, "c", array) is add_initializer(g, "c", array.copy())


def test_a_default_of_an_input_is_not_shared():
    g, zeros = empty(), np.zeros(2, np.float32)
    g.inputs.append(add_initializer(g, "c", zeros))
    assert add_initializer(g, "c", zeros).name == "c_1"


def test_names_taken_elsewhere_are_left_alone():
    assert add_initializer(empty(), "c", np.zeros(2), taken={"c", "c_1"}).name == "c_2"
    assert free_name("c", {"c": 0}) == "c_1"
    names = Names(["fc", "fc_2"])
    assert [names.unique("fc") for _ in range(3)] == ["fc_1", "fc_3", "fc_4"] and names.unique("x") == "x"


def test_arrays_are_stored_in_order():
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    stored = new_initializer(empty(), "c", turned).const_value.numpy()
    assert stored.flags.c_contiguous
    assert_equal_bits(stored, turned)
