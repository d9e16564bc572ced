"""What all tests share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.parts import pytest_addoption, pytest_collection_modifyitems  # noqa: F401  (hooks)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    """Weights that a test does not care about are the same whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(7)
