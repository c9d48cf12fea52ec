"""A random network: operators in a directed acyclic graph, with values read twice, branches and heads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from benchmarks.soundness.draw import Draw
from benchmarks.soundness.operators import Generator, Made, Shape
from certnas.errors import UserError

LARGEST = 96
"""Units that a value may have."""
TRIES = 12
INPUTS: tuple[Shape, ...] = (
    (1, 4, 4), (2, 3, 4), (3, 4, 4), (4, 4, 4), (2, 5, 3), (1, 7, 1), (2, 8), (3, 5), (4, 4), (1, 9), (6,), (9,),
    (1,), (1, 1, 1),
)  # fmt: skip
FREQUENT = ("relu.default",) * 3 + (
    "conv2d.default",
    "conv1d.default",
    "linear.default",
    "add.Tensor",
    "cat.default",
)
"""What is drawn in half of the cases beside the operator in question."""


class Step(nn.Module):
    """A drawn call with its tensors."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.call, self.count, self.part = made.call, len(made.tensors), made.module
        for i, tensor in enumerate(made.tensors):
            if tensor.is_floating_point():
                self.register_parameter(f"t{i}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"t{i}", tensor)

    def forward(self, *values: Tensor) -> Tensor:
        if self.part is not None:
            return self.part(*values)
        return self.call(*values, *(getattr(self, f"t{i}") for i in range(self.count)))


class Drawn(nn.Module):
    """Steps on earlier values (0 is the input); every value that no step reads has a linear head, and these add up.

    words: each step with its options, for a reader.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.heads = nn.ModuleList(), nn.ModuleDict()
        self.operands: list[tuple[int, ...]] = []
        self.words: list[str] = []

    def values(self, x: Tensor) -> list[Tensor]:
        """The input and what every step gives."""
        found = [x]
        for step, operands in zip(self.steps, self.operands, strict=True):
            found.append(step(*(found[i] for i in operands)))
        return found

    def output(self, values: list[Tensor]) -> Tensor:
        """[N, K]"""
        parts = [head(values[int(i)].flatten(1) if values[int(i)].dim() > 1 else values[int(i)].unsqueeze(1))
                 for i, head in self.heads.items()]  # fmt: skip
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.values(x))


@dataclass(frozen=True)
class Question:
    """A network and the shape of its inputs; `operator` is the one it was drawn for."""

    operator: str
    shape: Shape
    model: Drawn


def network(draw: Draw, operator: str, generators: dict[str, Generator]) -> Question:
    """A network with the operator in it, in float64; all its numbers are float32 numbers."""
    want = generators[operator].dims
    fitting = [shape for shape in INPUTS if len(shape) in want]
    shape = draw.random.choice(fitting if draw.chance(0.8) else INPUTS)
    model, shapes = Drawn(), [shape]
    others = list(generators)
    length = draw.random.randint(2, 7)
    place = draw.random.randrange(length)
    for i in range(length):
        name = operator if i == place else draw.random.choice(FREQUENT if draw.chance(0.5) else others)
        _add(draw, model, shapes, name, generators[name], must=i == place)
    read = {operand for operands in model.operands for operand in operands}
    sinks = [i for i in range(len(shapes)) if i not in read]
    bare = len(sinks) == 1 and prod(shapes[sinks[0]]) <= 4 and draw.chance(0.5)
    classes = draw.random.randint(1, 3)
    for i in sinks:
        units = prod(shapes[i])
        head: nn.Module = nn.Identity()
        if not bare:
            head = nn.Linear(units, classes).double()
            with torch.no_grad():
                head.weight.copy_(draw.weight(classes, units, fan=units))
                head.bias.copy_(draw.weight(classes))
        model.heads[str(i)] = head
    return Question(operator, shape, model.double().eval())


def _add(
    draw: Draw, model: Drawn, shapes: list[Shape], name: str, generator: Generator, *, must: bool
) -> None:
    """One more step, after a reshape where no value fits; left out where nothing that is drawn works."""
    for _ in range(TRIES):
        x = draw.random.choice((len(shapes) - 1, draw.random.randrange(len(shapes))))
        if len(shapes[x]) not in generator.dims:
            fitting = [i for i, shape in enumerate(shapes) if len(shape) in generator.dims]
            if not fitting or (must and draw.chance(0.5)):
                x = _reshape(draw, model, shapes, x, draw.random.choice(generator.dims))
            else:
                x = draw.random.choice(fitting)
        draw.told = []
        try:
            made = generator.make(draw, shapes[x])
        except (RuntimeError, ValueError, IndexError, UserError):
            continue
        same = [i for i, shape in enumerate(shapes) if shape == shapes[x]]
        operands = (x, *(draw.random.choice(same) for _ in range(made.arity - 1)))
        step = Step(made).double().eval()
        shape = _shape_of(step, [shapes[i] for i in operands])
        if shape is not None:
            model.steps.append(step)
            model.operands.append(operands)
            model.words.append(
                f"{len(shapes)}: {name}{list(operands)}({', '.join(draw.told)}) -> {list(shape)}"
            )
            shapes.append(shape)
            return


def _reshape(draw: Draw, model: Drawn, shapes: list[Shape], x: int, dims: int) -> int:
    sizes, left = [], prod(shapes[x])
    for _ in range(dims - 1):
        sizes.append(draw.random.choice([d for d in range(1, 5) if left % d == 0]))
        left //= sizes[-1]
    shape = (*sizes, left)
    model.steps.append(Step(Made(lambda value: value.reshape(-1, *shape))))
    model.operands.append((x,))
    model.words.append(f"{len(shapes)}: reshape[{x}] -> {list(shape)}")
    shapes.append(shape)
    return len(shapes) - 1


def _shape_of(step: Step, operands: list[Shape]) -> Shape | None:
    """The shape of an output; None where torch refuses, or it is empty, too large or not one of images."""
    inputs = [torch.full((3, *shape), 0.5, dtype=torch.float64) for shape in operands]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = step(*inputs)
    except (RuntimeError, ValueError, IndexError):
        return None
    shape = tuple(output.shape[1:])
    return (
        shape
        if output.dim() and len(output) == 3 and 0 < prod(shape) <= LARGEST and len(shape) <= 4
        else None
    )
