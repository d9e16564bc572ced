"""The cheapest choice of all units together equals what trying every combination finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mxexport.fpga.scheduling import elimination


def cost(choice: dict, own: dict, between: dict) -> float:
    return sum(own[n][choice[n]] for n in own) + sum(t[choice[a], choice[b]] for (a, b), t in between.items())


def drawn(seed: int, units: int, edges: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    own = {n: rng.integers(0, 20, rng.integers(1, 4)).astype(float) for n in range(units)}
    pairs = list(itertools.combinations(range(units), 2))
    chosen = [pairs[i] for i in rng.choice(len(pairs), min(edges, len(pairs)), replace=False)]
    return own, {(a, b): rng.integers(0, 30, (len(own[a]), len(own[b]))).astype(float) for a, b in chosen}


@pytest.mark.parametrize("seed", range(30))
def test_equals_every_combination_tried(seed):
    own, between = drawn(seed, units=2 + seed % 6, edges=seed % 9)
    found = elimination.least(own, between)
    every = (dict(zip(own, c, strict=True)) for c in itertools.product(*(range(len(c)) for c in own.values())))
    assert cost(found, own, between) == min(cost(choice, own, between) for choice in every)


def test_long_chains_are_quick_and_dense_graphs_stay_small(monkeypatch):
    rng = np.random.default_rng(0)
    own = {n: rng.random(8) for n in range(3000)}
    between = {(n, n + 1): rng.random((8, 8)) for n in range(2999)}
    assert len(elimination.least(own, between)) == 3000
    monkeypatch.setattr(elimination, "_MOST", 20)
    own, between = drawn(3, units=8, edges=28)
    found = elimination.least(own, between)  # no longer exact, but a choice for everyone
    assert set(found) == set(own) and all(found[n] < len(own[n]) for n in own)
