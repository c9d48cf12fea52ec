"""Networks of random shape for the tests: a hypothesis strategy draws a `Recipe`, `build` makes it a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One node: `kind` applied to earlier values (0 is the input); `options` are its numbers."""

    kind: str
    operands: tuple[int, ...]
    shape: Shape
    options: tuple[int, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A directed acyclic graph of steps on inputs of one shape; `weights` seeds its parameters."""

    shape: Shape
    steps: tuple[Step, ...]
    classes: int
    weights: int

    def sinks(self) -> list[int]:
        """The values that no step reads: each gets a linear head, and the heads are added."""
        read = {operand for step in self.steps for operand in step.operands}
        return [i for i in range(len(self.steps) + 1) if i not in read]

    def shapes(self) -> list[Shape]:
        return [self.shape, *(step.shape for step in self.steps)]


UNARY = ("relu", "leaky", "sigmoid", "tanh", "hardswish", "abs", "square")
KINDS = (
    "conv", "conv", "conv", "depthwise", "norm", "relu", "relu", "unary", "max", "max", "average",
    "add", "mixed", "cat", "slice", "stride", "product", "scale",
)  # fmt: skip


def window(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False) -> int:
    """How many windows fit, as torch counts them: with `ceil` the last must start inside of image or left padding."""
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-reach // stride) if ceil else reach // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    shape = (number(1, 3), number(4, 6), number(4, 6))
    shapes, steps = [shape], []
    for _ in range(number(1, 8)):
        step = _step(draw(st.sampled_from(KINDS)), number, shapes)
        steps.append(step)
        shapes.append(step.shape)
    return Recipe(shape, tuple(steps), number(2, 3), number(0, 2**31))


def _step(kind: str, number, shapes: list[Shape]) -> Step:
    x = max(number(0, len(shapes) - 1), number(0, len(shapes) - 1))
    c, h, w = shapes[x]
    same = [i for i, shape in enumerate(shapes) if shape == shapes[x]]
    match kind:
        case "conv" | "depthwise":
            k, stride, dilation = number(1, 3), number(1, 2), number(1, 2)
            padding = number(0, 1)
            if min(window(s, k, stride, padding, dilation) for s in (h, w)) < 1:
                k, padding, dilation = 1, 0, 1
            groups = c if kind == "depthwise" or number(0, 3) == 0 else 1
            out = c if groups > 1 else number(1, 3)
            size = tuple(window(s, k, stride, padding, dilation) for s in (h, w))
            return Step("conv", (x,), (out, *size), (k, stride, padding, dilation, groups, number(0, 1)))
        case "max":
            k, stride, dilation, ceil = number(1, 3), number(1, 2), number(1, 2), number(0, 1)
            padding = min(number(0, 1), k // 2)
            if min(window(s, k, stride, padding, dilation) for s in (h, w)) < 1:
                k, padding, dilation = 1, 0, 1
            if padding and min(h, w) < dilation:
                dilation = 1  # or a window would hold nothing but padding
            size = tuple(window(s, k, stride, padding, dilation, bool(ceil)) for s in (h, w))
            return Step("max", (x,), (c, *size), (k, stride, padding, dilation, ceil))
        case "average":
            k, stride, ceil, include = number(1, 3), number(1, 2), number(0, 1), number(0, 1)
            padding = min(number(0, 1), k // 2)
            if min(window(s, k, stride, padding, 1) for s in (h, w)) < 1:
                k, padding = 1, 0
            size = tuple(window(s, k, stride, padding, 1, bool(ceil)) for s in (h, w))
            return Step("average", (x,), (c, *size), (k, stride, padding, ceil, include))
        case "add" | "mixed" | "product":
            return Step(kind, (x, same[number(0, len(same) - 1)]), (c, h, w))
        case "cat":
            beside = [i for i, shape in enumerate(shapes) if shape[1:] == (h, w) and shape[0] + c <= 4]
            if not beside:
                return Step("relu", (x,), (c, h, w))
            other = beside[number(0, len(beside) - 1)]
            return Step("cat", (x, other), (c + shapes[other][0], h, w))
        case "slice":
            start = number(0, c - 1)
            return Step("slice", (x,), (c - start, h, w), (start,))
        case "stride":
            start = number(0, 1) if min(h, w) > 1 else 0
            return Step("stride", (x,), (c, -(-(h - start) // 2), -(-(w - start) // 2)), (start,))
        case "unary":
            return Step(UNARY[number(0, len(UNARY) - 1)], (x,), (c, h, w))
    return Step(kind, (x,), (c, h, w))


class RandomNetwork(nn.Module):
    """A recipe with parameters; batch norms have statistics of their own and γ of either sign."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.parts = nn.ModuleDict()
        self.alphas = nn.ParameterDict()
        shapes = recipe.shapes()
        for i, step in enumerate(recipe.steps, 1):
            channels = shapes[step.operands[0]][0]
            if step.kind == "conv":
                k, stride, padding, dilation, groups, bias = step.options
                self.parts[str(i)] = nn.Conv2d(
                    channels, step.shape[0], k, stride, padding, dilation, groups, bool(bias)
                )
            elif step.kind == "norm":
                self.parts[str(i)] = nn.BatchNorm2d(channels)
            elif step.kind in ("mixed", "scale"):
                self.alphas[str(i)] = nn.Parameter(torch.zeros(len(step.operands) + 1))
        for i in recipe.sinks():
            c, h, w = shapes[i]
            self.parts[f"head{i}"] = nn.Linear(c * h * w, recipe.classes)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for i, step in enumerate(self.recipe.steps, 1):
            values.append(self._value(i, step, *(values[operand] for operand in step.operands)))
        heads = [self.parts[f"head{i}"](values[i].flatten(1)) for i in self.recipe.sinks()]
        return sum(heads[1:], start=heads[0])

    def _value(self, i: int, step: Step, x: Tensor, y: Tensor | None = None) -> Tensor:
        options = step.options
        match step.kind:
            case "conv" | "norm":
                return self.parts[str(i)](x)
            case "max":
                k, stride, padding, dilation, ceil = options
                return F.max_pool2d(x, k, stride, padding, dilation, bool(ceil))
            case "average":
                k, stride, padding, ceil, include = options
                return F.avg_pool2d(x, k, stride, padding, bool(ceil), bool(include))
            case "add":
                return x + y
            case "product":
                return x * y
            case "mixed":
                share = torch.softmax(self.alphas[str(i)], 0)
                return share[0] * x + share[1] * y
            case "scale":
                return torch.softmax(self.alphas[str(i)], 0)[0] * x
            case "cat":
                return torch.cat([x, y], 1)
            case "slice":
                return x[:, options[0] :]
            case "stride":
                return x[:, :, options[0] :: 2, options[0] :: 2]
            case "leaky":
                return F.leaky_relu(x, 0.2)
            case "square":
                return x.square()
        return getattr(torch, step.kind, None)(x) if step.kind != "hardswish" else F.hardswish(x)


def build(recipe: Recipe) -> RandomNetwork:
    """The recipe's network in float64 and evaluation mode; the caller's random state is not used."""
    generator = torch.Generator().manual_seed(recipe.weights)
    network = RandomNetwork(recipe).double().eval()
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                fan = tensor[0].numel() if tensor.dim() > 1 else 1
                tensor.copy_(draw.square() + 0.1 if name.endswith("running_var") else draw / fan**0.5)
    return network
