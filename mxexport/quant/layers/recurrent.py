"""Recurrent layers: RNN, LSTM and GRU whose products are quantized, unrolled over time where they are exported.

For every layer and direction, with x [T, N, I] and the hidden state h [N, H]:

    given   = linear(input_quant(x), weight_ih_quant(weight_ih), bias_ih)         once for all T
    held    = linear(hidden_quant(h), weight_hh_quant(weight_hh), bias_hh)        in every step
    h, c    = step(given[t], held, (h, c))                                        in float, `recurrent_steps`

The cell state of an LSTM stays in float or, with a format of its own, is quantized in every step before tanh reads it.
A projection (`proj_size`) is one more product: h = linear(projected_quant(h), weight_hr_quant(weight_hr)).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mxexport.errors import FormatError, ShapeError, UnsupportedError
from mxexport.numbers.formats import GroupFormat
from mxexport.quant.layers.layer import QuantLayer, apply
from mxexport.quant.layers.recurrent_steps import STEPS, State
from mxexport.quant.quantizers.sources import ScaleSource
from mxexport.quant.quantizers.spec import Format, QuantSpec, as_spec, make_activation_quantizer, make_weight_quantizer

AS_ACTIVATION = "activation"
"""The `hidden` format that follows the layer's `activation`."""


class QuantRecurrent(QuantLayer, nn.RNNBase):
    """What QuantRNN, QuantLSTM and QuantGRU share: torch's arguments, inputs, results and state_dict names.

    Weights [G H, I] and [G H, H] are grouped along their second axis, the input and the hidden state along their
    features: the axes that the products sum over. Both directions of a layer read one quantized input. Biases stay in
    float and so do the gates. `hidden`: the format of the hidden state where a product reads it, by default the
    activation's; `cell`: that of an LSTM's cell state from step to step, by default float. What is returned is not
    quantized (the cell state is what the next step reads).

    Raises:
        FormatError: as `QuantLayer`, an integer bias, or `cell` of a layer that has no cell state.
    """

    other_formats = ("hidden",)

    def __init__(
        self,
        *args,
        weight: Format = "mxint8",
        activation: Format = "mxint8",
        hidden: Format = AS_ACTIVATION,
        cell: Format = None,
        scale_rule: str = "floor",
        bias_format: str = "float",
        **kwargs,
    ):
        super(QuantLayer, self).__init__(*args, **kwargs)
        self.set_formats(weight, activation, scale_rule, bias_format, hidden, cell)

    def set_formats(
        self,
        weight: Format,
        activation: Format,
        scale_rule: str = "floor",
        bias_format: str = "float",
        hidden: Format = AS_ACTIVATION,
        cell: Format = None,
    ) -> None:
        """Choose formats; None keeps weights, inputs, the hidden state or the cell state in float."""
        if bias_format != "float":
            raise FormatError(
                f"{type(self).__name__}: bias_format {bias_format!r}, expected 'float': the biases are added to "
                "sums of two products, whose steps differ"
            )
        if cell is not None and self.mode != "LSTM":
            raise FormatError(f"{type(self).__name__}: cell={cell!r}, and only an LSTM has a cell state")
        hidden = activation if isinstance(hidden, str) and hidden == AS_ACTIVATION else hidden
        weight, activation, hidden, cell = as_spec(weight), _module(activation), _module(hidden), _module(cell)
        for name, attribute in self._quantizers_of_weights().items():
            of = getattr(self, attribute)
            self._hold(**{name: make_weight_quantizer(weight, of, self.weight_axis, self.channel_axis, scale_rule)})
        for layer in range(self.num_layers):
            length = getattr(self, f"weight_ih_l{layer}").shape[1]
            self._hold(**{f"input_l{layer}_quant": make_activation_quantizer(activation, -1, scale_rule, length)})
        held = {"hidden": (hidden, self.proj_size or self.hidden_size)}
        if self.mode == "LSTM":
            held["cell"] = (cell, self.hidden_size)
        if self.proj_size:
            held["projected"] = (hidden, self.hidden_size)
        for place in self._places():
            for what, (fmt, length) in held.items():
                quantizer = make_activation_quantizer(fmt, -1, scale_rule, length)
                self._hold(**{f"{what}_{place}_quant": quantizer})

    def _places(self) -> Iterator[str]:
        """`l0`, `l0_reverse`, `l1`, …: torch's suffixes of the parameters of each layer and direction."""
        for layer in range(self.num_layers):
            yield f"l{layer}"
            if self.bidirectional:
                yield f"l{layer}_reverse"

    @property
    def weight_names(self) -> tuple[str, ...]:
        return tuple(name for name in self._flat_weights_names if name.startswith("weight"))

    def _quantizers_of_weights(self) -> dict[str, str]:
        return {f"{name}_quant": name for name in self.weight_names}

    @property
    def weight_quant(self):
        """The quantizer of the first weight; those of the others have its format."""
        return self.weight_ih_l0_quant

    @property
    def input_quant(self):
        """The quantizer of the layer's input."""
        return self.input_l0_quant

    @property
    def states(self) -> dict[str, ScaleSource | None]:
        """What the report says of the states: in words -> the first quantizer of them, None in float."""
        names = {"hidden state": "hidden_l0_quant", "cell state": "cell_l0_quant"}
        return {what: getattr(self, name) for what, name in names.items() if hasattr(self, name)}

    @classmethod
    def from_float(cls, layer: nn.RNNBase, *formats, **others) -> QuantRecurrent:
        quantized = super().from_float(layer, *formats, **others)
        quantized._flat_weights, quantized._flat_weight_refs = layer._flat_weights[:], layer._flat_weight_refs[:]
        return quantized

    # --- the computation --------------------------------------------------------------------------------------

    def forward(self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None):
        """As torch's layer: x [T, N, I] ([N, T, I] with `batch_first`, or [T, I]) -> the hidden states of the last
        layer [T, N, D H], and the last states [L D, N, H] (of an LSTM a pair: hidden, cell).

        Raises:
            ShapeError: an input or initial states that do not fit, or no step at all.
            UnsupportedError: a PackedSequence, or, while exporting, a length that stays open.
        """
        self._check_input(x)
        time = self._time_axis(x)
        initial, last = self._initial(x, state), []
        for layer in range(self.num_layers):
            x, ends = self._layer(layer, x, initial)
            last += ends
            if layer < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout, self.training)
        states = tuple(torch.cat([_swapped(part, time) for part in parts]) for parts in zip(*last, strict=True))
        return x, states if self.mode == "LSTM" else states[0]

    def _layer(self, layer: int, x: Tensor, initial: list[State | None]) -> tuple[Tensor, list[State]]:
        """x [T, N, I] -> hidden states [T, N, D H], and the state at the end of each direction."""
        x, outputs, ends = apply(getattr(self, f"input_l{layer}_quant"), x), [], []
        directions = 2 if self.bidirectional else 1
        for direction in range(directions):
            place = f"l{layer}_reverse" if direction else f"l{layer}"
            hidden, end = self._direction(place, x, initial[layer * directions + direction], backward=bool(direction))
            outputs.append(hidden)
            ends.append(end)
        return torch.cat(outputs, -1) if directions > 1 else outputs[0], ends

    def _direction(self, place: str, x: Tensor, state: State | None, backward: bool) -> tuple[Tensor, State]:
        """Quantized x [T, N, I] and the state at the start -> hidden states [T, N, H] in the order of x, and the state
        at the end; a state has the axes of x, one step long."""
        weight_ih, weight_hh, weight_hr = (self._weight(f"weight_{kind}_{place}") for kind in ("ih", "hh", "hr"))
        bias_ih, bias_hh = (getattr(self, f"bias_{kind}_{place}", None) for kind in ("ih", "hh"))
        hidden_quant, cell_quant = (getattr(self, f"{what}_{place}_quant", None) for what in ("hidden", "cell"))
        projected_quant, step = getattr(self, f"projected_{place}_quant", None), STEPS[self.mode]
        time, hidden = self._time_axis(x), []
        steps = nn.functional.linear(x, weight_ih, bias_ih).split(1, time)
        for given in reversed(steps) if backward else steps:
            if state is None:  # zeros, whose product is zero
                held = x.new_zeros(weight_hh.shape[0]) if bias_hh is None else bias_hh
                state = (x.new_zeros(self.hidden_size),) * 2
            else:
                held = nn.functional.linear(apply(hidden_quant, state[0]), weight_hh, bias_hh)
            h, *cell = step(given, held, state, lambda c: apply(cell_quant, c))
            if weight_hr is not None:
                h = nn.functional.linear(apply(projected_quant, h), weight_hr)
            state = (h, *cell)
            hidden.append(h)
        return torch.cat(hidden[::-1] if backward else hidden, time), state

    def _time_axis(self, x: Tensor) -> int:
        return 1 if self.batch_first and x.ndim == 3 else 0

    def _weight(self, name: str) -> Tensor | None:
        weight = getattr(self, name, None)
        return None if weight is None else apply(getattr(self, f"{name}_quant"), weight)

    def _initial(self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None) -> list[State | None]:
        """The state at the start of each layer and direction, with the axes of x; None where none is given."""
        count, time = len(self._all_weights), self._time_axis(x)
        if state is None:
            return [None] * count
        batch = x.shape[:-1][:time] + x.shape[:-1][time + 1 :]
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * (self.mode == "LSTM")
        parts = state if self.mode == "LSTM" else (state,)
        self._check_state(parts, [(count, *batch, size) for size in sizes])
        return list(zip(*([_swapped(s, time) for s in part.split(1)] for part in parts), strict=True))

    # --- what does not fit ------------------------------------------------------------------------------------

    def _check_input(self, x: Tensor) -> None:
        own = type(self).__name__
        if isinstance(x, PackedSequence):
            raise UnsupportedError(
                f"{own}: a PackedSequence has no quantized form; give the padded tensor of "
                "torch.nn.utils.rnn.pad_packed_sequence and take the steps up to each length from the result"
            )
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            layout = "[N, T, I]" if self.batch_first else "[T, N, I]"
            raise ShapeError(
                f"{own}: the input has shape {tuple(x.shape)}; expected {layout} or, without a batch, [T, I], with "
                f"I = {self.input_size}"
            )
        length = x.shape[self._time_axis(x)]
        if not isinstance(length, int):
            batch = 0 if self.batch_first else 1
            raise UnsupportedError(
                f"{own}: its loop over time is unrolled into the file, so the length of the sequence must be constant, "
                "and it was to stay open; give dynamic_batch=False, or dynamic_shapes that open the batch alone "
                f'({{{batch}: "batch"}} of its input)'
            )
        if length == 0:
            raise ShapeError(f"{own}: the sequence has no step; expected at least one")

    def _check_state(self, parts: tuple[Tensor, ...], shapes: list[tuple[int, ...]]) -> None:
        if not isinstance(parts, (tuple, list)) or len(parts) != len(shapes):
            raise ShapeError(f"{type(self).__name__}: expected the initial state as a pair (hidden, cell)")
        if torch.compiler.is_exporting():  # sizes that stay open are not to be compared
            return
        for part, shape in zip(parts, shapes, strict=True):
            if tuple(part.shape) != shape:
                raise ShapeError(
                    f"{type(self).__name__}: an initial state has shape {tuple(part.shape)}; expected {shape}: layers "
                    "times directions, the batch where the input has one, features"
                )


def _swapped(state: Tensor, time: int) -> Tensor:
    """[1, N, H] of torch's states <-> the axes of the input, [N, 1, H] with the batch first."""
    return state.transpose(0, 1) if time else state


def _module(fmt: Format) -> Format:
    """The same format as a spec: its quantizer is a module, and nodes get its name: `hidden_l0_quant`."""
    return QuantSpec(fmt) if isinstance(fmt, (str, GroupFormat)) else as_spec(fmt)


class QuantRNN(QuantRecurrent, nn.RNN):
    """`nn.RNN` (tanh or ReLU), quantized as `QuantRecurrent` says."""


class QuantLSTM(QuantRecurrent, nn.LSTM):
    """`nn.LSTM`, quantized as `QuantRecurrent` says; `cell` is the format of its cell state, None for float."""

    other_formats = ("hidden", "cell")


class QuantGRU(QuantRecurrent, nn.GRU):
    """`nn.GRU`, quantized as `QuantRecurrent` says: the hidden state is quantized where weight_hh reads it, and stays
    in float where it is carried to the next step."""
