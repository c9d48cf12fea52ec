"""What a bound state knows: answers depend on the bounds that are held, and not on what was asked before."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import MemoryBudget, budget
from bounds.graph import Network
from bounds.state import BoundState

METHODS: dict[str, bounds.Method] = {
    "ibp": bounds.IBP(),
    "crown-ibp": bounds.CrownIBP(),
    "zonotope": bounds.Zonotope(),
    "zonotope+crown": bounds.ZonotopeCrown(),
    "crown": bounds.Crown(),
    "alpha-crown": bounds.AlphaCrown(iterations=2, shared=True),
}


class Net(nn.Module):
    """Two branches that meet, so that tensors have several readers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.side, self.last = nn.Conv2d(4, 4, 1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = torch.relu(self.second(h)) + torch.tanh(self.side(h))
        return self.last(torch.relu(h).flatten(1))


def subject(seed: int = 0) -> tuple[Network, Tensor, Tensor]:
    torch.manual_seed(seed)
    x = torch.rand(2, 1, 4, 4).double()
    return (
        bounds.trace(Net().double().eval().requires_grad_(False), x).bind(),
        x,
        torch.eye(3).double().expand(2, -1, -1),
    )


def state(network: Network, region: bounds.Region, room: MemoryBudget | None = None) -> BoundState:
    room = room or budget(None, network.dtype, network.device)
    return BoundState(network, region, room, bounds.Slope.ADAPTIVE)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_a_method_gives_the_same_whatever_ran_before_it(norm: str) -> None:
    """Every method after every other one, on one state."""
    network, x, rows = subject()
    region = bounds.NORMS[norm](x, {"linf": 0.1, "l1": 0.8}[norm])
    alone = {name: method.lower(state(network, region), rows).detach() for name, method in METHODS.items()}
    assert (alone["crown"] > alone["crown-ibp"] + 1e-3).any()
    for first, second in permutations(METHODS, 2):
        shared = state(network, region)
        METHODS[first].lower(shared, rows)
        found = METHODS[second].lower(shared, rows).detach()
        assert torch.equal(found, alone[second]), (first, second)


QUESTIONS: dict[str, Callable[[BoundState, Tensor], object]] = {
    "intervals": lambda known, rows: [known.interval(name) for name in known.facts.order],
    "relaxations": lambda known, rows: [
        known.relaxation(name) for name in known.relaxed_before(known.network.graph.output)
    ],
    "boxed rows": lambda known, rows: known.lower_bounds_by_intervals(rows),
    "rows": lambda known, rows: known.lower_bounds(known.network.graph.output, rows),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_question_changes_no_later_answer(question: str, norm: str) -> None:
    """Tensors are refined one by one, with the question before each of them and without."""
    network, x, rows = subject(1)
    region = bounds.NORMS[norm](x, {"linf": 0.1, "l2": 0.3}[norm])
    found = []
    for asked in (False, True):
        known = state(network, region)
        for target in known.facts.readers:
            if asked:
                QUESTIONS[question](known, rows)
            known.refine(target)
        sides = [torch.cat([*known.interval(name)]).flatten() for name in known.facts.readers]
        found.append(torch.cat([*sides, known.lower_bounds(network.graph.output, rows).flatten()]).detach())
    assert torch.equal(*found)


def test_what_was_derived_from_a_bound_goes_with_it() -> None:
    """Intervals and relaxations after a tensor whose bound is replaced follow the new one, others stay."""
    network, x, _ = subject()
    known = state(network, bounds.Linf(x, 0.1))
    before, after = list(known.facts.readers)[:2]
    old = {name: known.interval(name) for name in known.facts.order}
    planes = {name: known.relaxation(name) for name in known.relaxed_before(network.graph.output)}
    middle = old[before].center
    known.hold({before: bounds.Interval(middle, middle)})
    assert float(known.interval(after).radius.max()) < 1e-12 < float(old[after].radius.max())
    assert known.interval(network.graph.input) is old[network.graph.input]
    first = next(iter(known.facts.readers[before])).node
    assert known.relaxation(first) is not planes[first]
    with pytest.raises(TypeError):
        known.intervals[before] = old[before]  # type: ignore[index]


def test_bounds_that_were_given_stay_when_a_method_starts_anew() -> None:
    network, x, rows = subject()
    known = state(network, bounds.Linf(x, 0.1))
    name = next(iter(known.facts.readers))
    middle = known.interval(name).center
    known.give({name: bounds.Interval(middle, middle)})
    found = bounds.CrownIBP().lower(known, rows)
    assert known.intervals[name].lower is middle
    assert (found > bounds.CrownIBP().lower(state(network, bounds.Linf(x, 0.1)), rows)).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_that_are_computed_again_compute_the_same(norm: str, shared: bool) -> None:
    """alpha-CROWN under a small budget, whose backward pass repeats blocks after other bounds are held."""
    network, x, rows = subject(2)
    region = bounds.NORMS[norm](x, {"linf": 0.1, "l2": 0.3, "l1": 0.8}[norm])
    method = bounds.AlphaCrown(iterations=3, shared=shared)
    whole = bounds.lower_bounds(network, region, rows, method)
    blocks = bounds.lower_bounds(network, region, rows, method, memory=60_000)
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-9)


def test_derivatives_do_not_depend_on_the_budget() -> None:
    network, x, rows = subject(2)
    found = []
    for memory in (None, 60_000):
        centre = x.clone().requires_grad_()
        lower = bounds.lower_bounds(network, bounds.L1(centre, 0.8), rows, bounds.Crown(), memory=memory)
        found.append(torch.autograd.grad(lower.sum(), centre)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


class Gated(nn.Module):
    """A gate of one number an image, whose tensor has no axis but the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x.flatten(1)))
        return self.last(h * torch.sigmoid(h[:, 0]).unsqueeze(1))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", [*METHODS, "own slopes"])
def test_one_number_an_image_is_a_tensor_like_any_other(method: str, norm: str) -> None:
    torch.manual_seed(0)
    model, x = Gated().double().eval(), torch.rand(2, 1, 4, 4).double()
    network = bounds.trace(model, x).bind()
    region = bounds.NORMS[norm](x, 0.1)
    chosen = METHODS.get(method, bounds.AlphaCrown(iterations=2))
    found = bounds.output_bounds(network, region, chosen).detach()
    points = x + 0.1 * torch.cat([torch.eye(16), -torch.eye(16)]).double().reshape(32, 1, 1, 4, 4)
    values = torch.stack([model(point) for point in points]).detach()
    assert (found.lower <= values + 1e-12).all() and (values <= found.upper + 1e-12).all()
