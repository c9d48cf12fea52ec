"""Random networks as people write them in Python: aliases, writes in place, views, reuse, constants, buffers.

Each is a list of steps on a pool of tensors [N, …] that share memory as the steps say.  The list is plain text, so that
a failing one can be read and run again from its seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 6
IMAGE = (1, 2, 3)


class Forward(nn.Module):
    """x [N, 1, 2, 3] -> [N, 6]: the steps of a seed, in evaluation mode and float64."""

    mask: Tensor
    shift: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.steps = steps(seed)
        generator = torch.Generator().manual_seed(seed)
        self.linear, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.relu, self.drop = (
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5, inplace=True),
        )
        self.register_buffer("mask", torch.rand(WIDTH, generator=generator) > 0.5)
        self.register_buffer("shift", torch.zeros(WIDTH))
        self.register_buffer("memory", torch.zeros(WIDTH))
        self.scale = nn.Parameter(torch.zeros(WIDTH))
        self.double().eval()
        for tensor in [*self.parameters(), self.shift]:
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator).double() * 0.7)

    def forward(self, x: Tensor) -> Tensor:
        pool = [x.flatten(1) * 1.0]
        for number, (name, picks) in enumerate(self.steps):
            made = STEPS[name](self, *(pool[pick % len(pool)] for pick in picks))
            if made is not None:
                pool.append(made)
            if number % 3 == 2:
                pool = pool[-5:]
        total = pool[0]
        for tensor in pool[1:]:
            total = total + tensor
        return total


def steps(seed: int) -> list[tuple[str, tuple[int, int]]]:
    """Names and choices of operands, from the seed alone."""
    draw = random.Random(seed)
    return [
        (draw.choice(NAMES), (draw.randrange(-3, 5), draw.randrange(-3, 5)))
        for _ in range(draw.randint(2, 9))
    ]


def _out(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    memory = torch.empty_like(a)
    torch.add(a, b, out=memory)
    return memory


def _halves(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    both = torch.empty(a.shape[0], WIDTH, dtype=a.dtype)
    both[:, :3] = a[:, 3:]
    both[:, 3:] = b[:, :3]
    return both


def _zeros(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    both = torch.zeros(a.size(0), WIDTH, dtype=a.dtype)
    both[:, 1] = a[:, 0]
    both[:, 2:4] += b[:, :2]
    return both


def _remember(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    m.memory.copy_(m.shift * 2)
    m.memory.add_(1)
    return a * m.memory


def _swap(m: Forward, a: Tensor, b: Tensor) -> None:
    kept = a[:, 0].clone()
    a[:, 0] = a[:, 1]
    a[:, 1] = kept


def _augmented(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    c = a
    c += b * 0.5
    c *= 0.5
    return c


def _parts(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    one, two, three = a.chunk(3, 1)
    two.mul_(-1.0)
    return torch.cat([three, one, two], 1)


def _bound(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    first, second = torch.stack([a, b], 1).unbind(1)
    second.add_(1.0)
    return first * 0.5 + second


def _gate(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    return b * torch.sigmoid(a[:, 0]).unsqueeze(1)


def _number(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    number = a.sum(1) if a.dim() == 2 else a
    number.mul_(0.3)
    return b + number.view(-1, 1)


def _switched(m: Forward, a: Tensor, b: Tensor) -> Tensor:
    with torch.no_grad():
        c = torch.relu(a)
    return c - b


def _do(change: Callable[[Forward, Tensor, Tensor], object]) -> Callable[[Forward, Tensor, Tensor], None]:
    """A step that changes what is there and gives nothing new."""

    def step(m: Forward, a: Tensor, b: Tensor) -> None:
        change(m, a, b)

    return step


STEPS: dict[str, Callable[[Forward, Tensor, Tensor], Tensor | None]] = {
    "linear": lambda m, a, b: m.linear(a),
    "linear again": lambda m, a, b: F.linear(a, m.other.weight, m.other.bias),
    "relu": lambda m, a, b: F.relu(a),
    "relu module in place": lambda m, a, b: m.relu(a),
    "relu in place": _do(lambda m, a, b: torch.relu_(a)),
    "tanh": lambda m, a, b: torch.tanh(a),
    "sigmoid in place": _do(lambda m, a, b: a.sigmoid_()),
    "leaky relu": lambda m, a, b: F.leaky_relu(a, 0.2),
    "clip": lambda m, a, b: torch.clip(a, -0.5, 0.6),
    "clamp in place": _do(lambda m, a, b: a.clamp_(-1, 1)),
    "norm": lambda m, a, b: m.norm(a),
    "dropout in place": lambda m, a, b: m.drop(a),
    "dropout": lambda m, a, b: F.dropout(a, 0.3, training=False),
    "add": lambda m, a, b: a + b,
    "subtract": lambda m, a, b: torch.subtract(a, b),
    "scaled": lambda m, a, b: a * m.scale,
    "a constant over it": lambda m, a, b: a / torch.tensor([1.0, 2, 4, -1, 3, 0.5]).to(a),
    "add in place": _do(lambda m, a, b: a.add_(b)),
    "subtract in place": _do(lambda m, a, b: a.sub_(b, alpha=0.5)),
    "scale in place": _do(lambda m, a, b: a.mul_(-0.7)),
    "shift in place": _do(lambda m, a, b: a.add_(m.shift)),
    "masked": lambda m, a, b: a * m.mask,
    "masked in place": _do(lambda m, a, b: a.mul_(m.mask)),
    "augmented": _augmented,
    "alias": lambda m, a, b: a,
    "view": lambda m, a, b: a.view(a.shape[0], -1),
    "view of three": lambda m, a, b: a.view(-1, 3, 2).view(-1, 6),
    "reshape": lambda m, a, b: a.reshape(-1, 2, 3).flatten(1),
    "detach": lambda m, a, b: a.detach(),
    "contiguous": lambda m, a, b: a.contiguous(),
    "expand": lambda m, a, b: a.expand(-1, WIDTH),
    "expand as": lambda m, a, b: a.expand_as(b),
    "mask expanded as": lambda m, a, b: a * m.mask.expand_as(b),
    "view as": lambda m, a, b: a.view(-1, 2, 3).view_as(b),
    "reshape as": lambda m, a, b: a.view(-1, 2, 3).reshape_as(b),
    "narrow of all": lambda m, a, b: a.narrow(1, 0, WIDTH),
    "slice of all": lambda m, a, b: a[:, :],
    "clone": lambda m, a, b: a.clone(),
    "cast": lambda m, a, b: a.to(torch.float64),
    "transposed": lambda m, a, b: a.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6),
    "flip": lambda m, a, b: a.flip(1),
    "column": _do(lambda m, a, b: a[:, 2].mul_(2.0)),
    "column set": _do(lambda m, a, b: a.__setitem__((slice(None), 0), 0.25)),
    "columns from another": _do(lambda m, a, b: a.__setitem__((slice(None), slice(0, 3)), b[:, 3:])),
    "every second": _do(lambda m, a, b: a[:, ::2].add_(b[:, 1::2])),
    "by index": _do(lambda m, a, b: a.__setitem__((slice(None), [4, 1]), b[:, :2].clone())),
    "index fill": _do(lambda m, a, b: a.index_fill_(1, torch.tensor([3]), 0.5)),
    "copy": _do(lambda m, a, b: a.copy_(b)),
    "zeroed": _do(lambda m, a, b: a[:, -1:].zero_()),
    "through a view": _do(lambda m, a, b: a.view(-1, 2, 3)[:, 1].neg_()),
    "through three dimensions": _do(lambda m, a, b: a.view(-1, 2, 3).mul_(b.view(-1, 2, 3)[:, :1])),
    "filled memory": _halves,
    "filled zeros": _zeros,
    "out": _out,
    "buffer written": _remember,
    "swap": _swap,
    "parts": _parts,
    "unbound": _bound,
    "split": lambda m, a, b: torch.cat(a.split([2, 4], 1)[::-1], 1),
    "stacked": lambda m, a, b: torch.stack([a, b], 2).sum(2),
    "gate": _gate,
    "one number": _number,
    "ones of the batch": lambda m, a, b: a + torch.ones(a.shape[0], 1, dtype=a.dtype) * m.shift,
    "zero times": lambda m, a, b: a * 0 + b,
    "square": lambda m, a, b: a * a * 0.1,
    "product": lambda m, a, b: a * b * 0.1,
    "no gradients": _switched,
    "times the batch": lambda m, a, b: a * a.shape[0],
    "drawn": lambda m, a, b: a + torch.rand(WIDTH),
    "mean of the batch": lambda m, a, b: a - b.mean(0),
}  # fmt: skip
RARE = ("times the batch", "drawn", "mean of the batch")
NAMES = [name for name in STEPS for _ in range(1 if name in RARE else 12)]
