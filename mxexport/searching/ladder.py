"""Which choices to measure next, from what is known of every layer alone.

`noise`: of the model's output with one layer so quantized, relative to the signal (`sensitivity`); noises of layers are
taken to add up. `cost`: of the layer, of what the search is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mxexport.searching.choices import Assignment


@dataclass(frozen=True)
class Space:
    """noise and cost: layer -> choice -> number."""

    noise: Mapping[str, Mapping[str, float]]
    cost: Mapping[str, Mapping[str, float]]

    def ladder(self) -> list[dict[str, str]]:
        """From the finest choices to the cheapest, one layer at a time: next is the step that saves most for the noise
        it adds."""
        rung = {
            layer: min(row, key=lambda c, row=row: (row[c], self.cost[layer][c])) for layer, row in self.noise.items()
        }
        steps = [step for layer, first in rung.items() for step in self._steps(layer, first)]
        rungs = [dict(rung)]
        for _, layer, choice in sorted(steps, key=lambda step: step[0]):
            rung[layer] = choice
            rungs.append(dict(rung))
        return rungs

    def _steps(self, layer: str, choice: str) -> list[tuple[float, str, str]]:
        """(noise for every unit of cost saved, layer, choice) of one layer, in an order in which the price rises: its
        lower convex hull."""
        found = []
        while cheaper := self.cheaper(layer, choice):
            price, choice = min(cheaper)
            found.append((price, layer, choice))
        return found

    def cheaper(self, layer: str, choice: str) -> list[tuple[float, str]]:
        """(price, choice) of all that cost less in this layer."""
        noise, cost = self.noise[layer], self.cost[layer]
        return [
            ((noise[other] - noise[choice]) / (cost[choice] - cost[other]), other)
            for other in noise
            if cost[other] < cost[choice]
        ]

    def lower(self, assignment: Assignment) -> list[dict[str, str]]:
        """All with one layer cheaper, in the order of their price."""
        found = [
            (price, {**assignment, layer: other})
            for layer, choice in assignment.items()
            for price, other in self.cheaper(layer, choice)
        ]
        return [lowered for _, lowered in sorted(found, key=lambda pair: pair[0])]


def spread(low: int, high: int, most: int) -> list[int]:
    """At most so many whole numbers between the two, without them, evenly."""
    inside = range(low + 1, high)
    if len(inside) <= most:
        return list(inside)
    return sorted({low + round((high - low) * (i + 1) / (most + 1)) for i in range(most)} & set(inside))
