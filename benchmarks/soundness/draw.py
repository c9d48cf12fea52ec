"""What one seed draws: choices that are told in words, and weights."""

from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
NUMBERS = (0.3, -0.7, 1.0, -1.0, 0.0, 2.5, -2.5, 1e-3, 30.0, -1e3)
"""What an option that may be any number is drawn from."""


class Draw:
    """The random choices of one seed; `told` lists the named ones since it was last emptied."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.told: list[str] = []

    def pick(self, name: str, choices: Sequence[T]) -> T:
        """One of the choices; the name and what was chosen are told."""
        chosen = self.random.choice(choices)
        self.told.append(f"{name}={chosen}")
        return chosen

    def number(self, name: str) -> float:
        return self.pick(name, NUMBERS)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def integers(self, name: str, low: int, high: int, count: int) -> list[int]:
        """`count` whole numbers from low to high, all equal in half of the cases."""
        first = self.random.randint(low, high)
        same = self.chance(0.5)
        chosen = [first, *(first if same else self.random.randint(low, high) for _ in range(count - 1))]
        self.told.append(f"{name}={chosen}")
        return chosen

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers, rounded to float32 so that either precision has the same."""
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        return drawn.float().double()

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1], rounded to float32."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).float().double()

    def weight(self, *shape: int, fan: int = 1) -> Tensor:
        """Weights of about 1/√fan; sometimes with zeros, of one sign, all zero, or with a large one."""
        drawn = self.normal(*shape, scale=1.5 / fan**0.5)
        match self.random.choices(("plain", "sparse", "negative", "zero", "large"), (12, 3, 2, 1, 1))[0]:
            case "sparse":
                drawn = drawn * (self.uniform(*shape) > 0.5)
            case "negative":
                drawn = -drawn.abs()
            case "zero":
                drawn = drawn * 0
            case "large":
                drawn = drawn * (1 + 99.0 * (self.uniform(*shape) > 0.9))
        return drawn.float().double()

    def constant(self, shape: Sequence[int]) -> Tensor:
        """A tensor that broadcasts against [N, *shape]: whole, per channel, of the last axes, or one number."""
        whole = [1, *shape]
        forms: list[list[int]] = [whole, list(shape), [], [1] * len(whole)]
        if len(shape) > 1:
            forms += [[shape[0], *[1] * (len(shape) - 1)], list(shape[1:])]
        chosen = self.random.choice(forms)
        self.told.append(f"constant={chosen}")
        return self.weight(*chosen)

    def subset(self, name: str, items: Sequence[Any]) -> list[Any]:
        """Some of the items, at least one, in any order."""
        chosen = self.random.sample(list(items), self.random.randint(1, len(items)))
        self.told.append(f"{name}={chosen}")
        return chosen
