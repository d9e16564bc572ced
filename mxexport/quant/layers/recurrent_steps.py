"""One step of time of each recurrent layer, in the order in which torch adds and multiplies.

Every function takes what the input adds to the gates (`given`, [..., G H], biases included), what the hidden state adds
(`held`, the same), the state before and what quantizes a cell state; it returns the state after. Source: the equations
of `torch.nn.RNN`, `LSTM` and `GRU`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""(hidden,) or (hidden, cell), each [..., H]."""
Keep = Callable[[Tensor], Tensor]
"""What a cell state is put through before it is read: its quantizer, or nothing."""


def tanh_step(given: Tensor, held: Tensor, state: State, keep: Keep) -> State:
    """h' = tanh(given + held)"""
    return (torch.tanh(held + given),)


def relu_step(given: Tensor, held: Tensor, state: State, keep: Keep) -> State:
    """h' = max(given + held, 0)"""
    return (torch.relu(held + given),)


def lstm_step(given: Tensor, held: Tensor, state: State, keep: Keep) -> State:
    """c' = keep(f c + i g), h' = o tanh(c'); gates in the order i, f, g, o."""
    i, f, g, o = (held + given).chunk(4, -1)
    cell = keep(torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g))
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru_step(given: Tensor, held: Tensor, state: State, keep: Keep) -> State:
    """h' = n + z (h - n), n = tanh(given_n + r held_n); gates in the order r, z, n."""
    (given_r, given_z, given_n), (held_r, held_z, held_n) = given.chunk(3, -1), held.chunk(3, -1)
    r, z = torch.sigmoid(held_r + given_r), torch.sigmoid(held_z + given_z)
    n = torch.tanh(given_n + r * held_n)
    return ((state[0] - n) * z + n,)


STEPS = {"RNN_TANH": tanh_step, "RNN_RELU": relu_step, "LSTM": lstm_step, "GRU": gru_step}
"""`mode` of torch's layers -> the step."""
