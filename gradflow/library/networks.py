"""The modules behind the models of `models.py`, and how they are initialized. Imports torch: loaded only when a model is built.

Every module takes any number of leading axes, uses plain tensor operations (so that `vmap` over a stacked `node` axis, per-sample gradients
and second derivatives work), and draws its initial values in float64 from a generator of its own: the seed alone decides them, whatever the
default type, and the global generator is not touched. Language models are in `causal_models.py`.

Axes: F features in, H hidden, K classes or outputs, C channels, R rows and S columns of an image, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "elu": functional.elu,
    "silu": functional.silu,
}


def build(make: Callable[[], nn.Module], seed: int, initialize: Callable[[nn.Module, torch.Generator], None]) -> nn.Module:
    """The module that `make` describes, each of its parts filled by `initialize` from a generator with this seed."""
    with torch.device("meta"):  # no memory and no draw from the global generator
        module = make()
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            initialize(part, generator)
    return module


def uniform_(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    parameter.copy_((2 * draw - 1) * bound)


def normal_(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    parameter.copy_(deviation * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def like_torch(part: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's defaults: uniform within 1 / sqrt(inputs) of a unit; within 1 / sqrt(hidden) for recurrent cells."""
    if isinstance(part, nn.Linear | nn.Conv2d | RecurrentCell):
        fan_in = part.hidden if isinstance(part, RecurrentCell) else part.weight[0].numel()
        for parameter in part.parameters(recurse=False):
            uniform_(parameter, 1 / math.sqrt(fan_in), generator)


def zeros(part: nn.Module, generator: torch.Generator) -> None:
    for parameter in part.parameters(recurse=False):
        parameter.zero_()


def squeeze_single(y: Tensor) -> Tensor:
    """One output adds no axis: [.., 1] -> [..]."""
    return y.squeeze(-1) if y.shape[-1] == 1 else y


class Affine(nn.Linear):
    """[.., F] -> [.., K], or [..] for one output."""

    def forward(self, x: Tensor) -> Tensor:
        return squeeze_single(super().forward(x))


class MultilayerPerceptron(nn.Module):
    """[.., F] -> [.., K]: linear layers with an activation, then dropout, between them."""

    def __init__(self, widths: Sequence[int], act: str, dropout: float, bias: bool):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in zip(widths, widths[1:]))
        self.act, self.dropout = ACTIVATIONS[act], dropout

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            if i > 0:
                x = self.act(x)
                x = functional.dropout(x, self.dropout, self.training) if self.dropout else x
            x = layer(x)
        return squeeze_single(x)


class ConvolutionalNetwork(nn.Module):
    """[.., R, S] (one color) or [.., C, R, S] -> [.., K]: 3x3 convolutions that halve the image, then one linear layer."""

    def __init__(self, channels: Sequence[int], classes: int, size: int, colors: int, act: str):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip((colors, *channels), channels))
        for _ in channels:
            size = (size + 1) // 2
        self.head = nn.Linear(channels[-1] * size * size, classes)
        self.act, self.image_axes, self.colors = ACTIVATIONS[act], 2 if colors == 1 else 3, colors

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: -self.image_axes]
        x = x.reshape(-1, self.colors, *x.shape[-2:])
        for convolution in self.convolutions:
            x = self.act(convolution(x))
        return squeeze_single(self.head(x.flatten(1)).reshape(*leading, -1))


class RecurrentCell(nn.Module):
    """One position of a tanh, GRU or LSTM cell, with the parameters of torch.nn.RNNCell, GRUCell and LSTMCell."""

    GATES = {"rnn": 1, "gru": 3, "lstm": 4}

    def __init__(self, inputs: int, hidden: int, kind: str):
        super().__init__()
        gates = self.GATES[kind]
        self.hidden, self.kind = hidden, kind
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden))

    def forward(self, x: Tensor, h: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        a, b = functional.linear(x, self.weight_ih, self.bias_ih), functional.linear(h, self.weight_hh, self.bias_hh)
        if self.kind == "rnn":
            return torch.tanh(a + b), memory
        if self.kind == "gru":
            (reset_a, update_a, new_a), (reset_b, update_b, new_b) = a.chunk(3, -1), b.chunk(3, -1)
            update = torch.sigmoid(update_a + update_b)
            new = torch.tanh(new_a + torch.sigmoid(reset_a + reset_b) * new_b)
            return (1 - update) * new + update * h, memory
        take, keep, new, give = (a + b).chunk(4, -1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(new)
        return torch.sigmoid(give) * torch.tanh(memory), memory


class RecurrentNetwork(nn.Module):
    """[.., T, F] -> [.., K] after the last token, or [.., T, K] with `per_token`. The state starts at zero."""

    def __init__(self, inputs: int, hidden: int, outputs: int, cell: str, per_token: bool):
        super().__init__()
        self.cell = RecurrentCell(inputs, hidden, cell)
        self.head = nn.Linear(hidden, outputs)
        self.per_token = per_token

    def forward(self, x: Tensor) -> Tensor:
        h = memory = x.new_zeros(*x.shape[:-2], self.cell.hidden)
        seen = []
        for token in x.unbind(-2):
            h, memory = self.cell(token, h, memory)
            seen.append(h)
        return squeeze_single(self.head(torch.stack(seen, -2) if self.per_token else h))
