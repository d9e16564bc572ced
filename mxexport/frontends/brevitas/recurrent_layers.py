"""Converted recurrent layers: the steps of Brevitas' cells, in its order of additions, one direction a layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxexport.frontends.brevitas.layers import ConvertedLayer

LSTM_GATES = ("input", "forget", "cell", "output")
LSTM_STATES = ("input_sigmoid", "forget_sigmoid", "cell_tanh", "output_sigmoid", "cell_state", "hidden_state_tanh")
"""Where an LSTM quantizes in a step, beside its accumulators and its output."""


class ConvertedDirection(ConvertedLayer):
    """One direction of one layer: x [T, N, I] ([N, T, I] with `batch_first`) and the states at the start [N, H] -> the
    hidden states in the order of x, and the states at the end [1, N, H].

    `gates`: names of the gates; each has the parameters `<gate>_weight_ih`, `<gate>_weight_hh` and, where there is one,
    `<gate>_bias`, with quantizers of these names. `activations`: role -> the function that comes before its quantizer.
    """

    states: tuple[str, ...] = ("output",)
    """The role that quantizes each of the states given at the start."""

    def __init__(
        self,
        kind: str,
        gates: tuple[str, ...],
        activations: dict[str, Callable[[Tensor], Tensor]],
        hidden_size: int,
        batch_first: bool,
        backward: bool,
        **options,
    ):
        parts = ("weight_ih", "weight_hh", "bias", "acc")
        self.roles = ("input", "output", *(f"{gate}_{part}" for gate in gates for part in parts), *activations)
        super().__init__(kind, **options)
        self.gates, self.activations, self.hidden_size = gates, activations, hidden_size
        self.time, self.backward = int(batch_first), backward

    def _quantizers_of_weights(self) -> dict[str, str]:
        names = [f"{gate}_{part}" for gate in self.gates for part in ("weight_ih", "weight_hh")]
        return {f"{name}_quant": name for name in names}

    def weights(self) -> dict[str, tuple[Tensor, Tensor, Tensor | float]]:
        """Gate -> quantized weights and bias."""
        found = {}
        for gate in self.gates:
            ih, hh = (self.quantized(f"{gate}_{w}", getattr(self, f"{gate}_{w}")) for w in ("weight_ih", "weight_hh"))
            bias = getattr(self, f"{gate}_bias", None)
            found[gate] = ih, hh, 0.0 if bias is None else self.quantized(f"{gate}_bias", bias)
        return found

    def gate(self, name: str, x: Tensor, hidden: Tensor, weights: tuple[Tensor, Tensor, Tensor | float]) -> Tensor:
        ih, hh, bias = weights
        return self.quantized(f"{name}_acc", F.linear(x, ih) + F.linear(hidden, hh) + bias)

    def activated(self, role: str, x: Tensor) -> Tensor:
        return self.quantized(role, self.activations[role](x))

    def step(self, x: Tensor, states: tuple[Tensor, ...], weights: dict) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, x: Tensor, *given: Tensor | None) -> tuple[Tensor, ...]:
        x, weights, outputs = self.quantized("input", x), self.weights(), []
        zeros = x.new_zeros(x.shape[1 - self.time], self.hidden_size)
        states = tuple(
            zeros if state is None else self.quantized(role, state)
            for role, state in zip(self.states, given, strict=True)
        )
        steps = x.unbind(self.time)
        for row in reversed(steps) if self.backward else steps:
            states = self.step(row, states, weights)
            outputs.append(states[0])
        return torch.stack(outputs[::-1] if self.backward else outputs, self.time), *(s.unsqueeze(0) for s in states)


class ConvertedRNN(ConvertedDirection):
    """h' = output_quant(f(gate_acc_quant(x W_ih + h W_hh + b)))"""

    def step(self, x: Tensor, states: tuple[Tensor, ...], weights: dict) -> tuple[Tensor, ...]:
        gate = self.gate("gate", x, states[0], weights["gate"])
        return (self.quantized("output", self.activated("act", gate)),)


class ConvertedLSTM(ConvertedDirection):
    """Every gate, both products with the cell state, their sum and its tanh are quantized; without a forget gate
    (coupled gates) it is one, quantized as an input gate is, minus the input gate."""

    states = ("output", "cell_state")

    def step(self, x: Tensor, states: tuple[Tensor, ...], weights: dict) -> tuple[Tensor, ...]:
        hidden, cell = states
        gates = {name: self.gate(name, x, hidden, weights[name]) for name in self.gates}
        i, g = self.activated("input_sigmoid", gates["input"]), self.activated("cell_tanh", gates["cell"])
        if "forget" in gates:
            f = self.activated("forget_sigmoid", gates["forget"])
        else:
            f = self.quantized("input_sigmoid", torch.ones_like(i)) - i
        kept, new = self.quantized("cell_state", f * cell), self.quantized("cell_state", i * g)
        cell = self.quantized("cell_state", kept + new)
        o = self.activated("output_sigmoid", gates["output"])
        return self.quantized("output", o * self.activated("hidden_state_tanh", cell)), cell


class ConvertedStack(ConvertedLayer):
    """Brevitas' QuantRNN or QuantLSTM: all layers and directions, with its arguments and results.

    `joined`: whether the cell states of an LSTM come as one tensor or as a list.
    """

    roles = ()

    def __init__(self, kind: str, layers: nn.ModuleList, joined: bool = True, **options):
        super().__init__(kind, **options)
        self.layers, self.joined = layers, joined

    def forward(self, x: Tensor, *given: Tensor | None):
        """(x, hx) -> (outputs, states) of a QuantRNN; (x, hx, cx) -> (outputs, (hidden, cell)) of a QuantLSTM."""
        count, ends = len(self.layers[0][0].states), []
        given = (*given, *[None] * (count - len(given)))
        for number, directions in enumerate(self.layers):
            # Brevitas counts two directions, also where there is one.
            starts = [[None if s is None else s[2 * number + d] for s in given] for d in range(len(directions))]
            results = [direction(x, *start) for direction, start in zip(directions, starts, strict=True)]
            x = torch.cat([r[0] for r in results], -1) if len(results) > 1 else results[0][0]
            ends += [r[1:] for r in results]
        states = [list(parts) for parts in zip(*ends, strict=True)]
        hidden = self.returned(_joined(states[0]))
        if count == 1:
            return self.returned(x), hidden
        return self.returned(x), (hidden, self.returned(_joined(states[1])) if self.joined else states[1])


def _joined(states: list[Tensor]) -> Tensor:
    return torch.cat(states) if len(states) > 1 else states[0]
