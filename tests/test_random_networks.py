"""Random networks over random regions: every method sound, in its promised place, and finite."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from oracles import Norm, descend_region, sample_region
from random_networks import RandomNetwork, Recipe, build, recipes
from torch import Tensor

import bounds
from bounds import Slope

CHUNKS, EACH = 10, examples(32, 210)
RADII = (0.0, 1e-3, 0.02, 0.1, 0.3, 1.0)
TURNS: tuple[dict[str, bounds.Method], ...] = (
    {"zonotope": bounds.Zonotope(), "crown parallel": bounds.Crown(Slope.PARALLEL)},
    {"zonotope of 3 errors": bounds.Zonotope(3), "crown zero": bounds.Crown(Slope.ZERO)},
    {"zonotope+crown": bounds.ZonotopeCrown(), "crown one": bounds.Crown(Slope.ONE)},
    {"zonotope+crown of 3": bounds.ZonotopeCrown(3), "crown not met": bounds.Crown(intersect=False)},
    {"alpha-crown": bounds.AlphaCrown(iterations=2, step=0.3)},
)
"""Beside ibp, crown-ibp and crown, each network meets the methods of one turn."""


@dataclass(frozen=True)
class Place:
    """A region in numbers: which norm, how large, how the radius is given, whether pixels stay in [0, 1]."""

    norm: Norm
    eps: float
    radii: str
    boxed: bool
    seed: int

    def region(self, shape: tuple[int, ...], scale: float = 1.0) -> bounds.Region:
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        x[0].flatten()[:2] = torch.tensor([0.0, 1.0])  # on the box's faces
        share = {
            "scalar": torch.ones(()),
            "image": torch.rand(2, generator=generator),
            "element": torch.rand(x.shape, generator=generator),
        }[self.radii].double()
        box = (0.0, 1.0) if self.boxed else (None, None)
        return bounds.NORMS[self.norm](x, self.eps * scale * share, *box)


places = st.builds(
    Place,
    norm=st.sampled_from(["linf", "linf", "l2", "l1"]),
    eps=st.sampled_from(RADII),
    radii=st.sampled_from(["scalar", "scalar", "image", "element"]),
    boxed=st.booleans(),
    seed=st.integers(0, 2**31),
)


def lowest(model: RandomNetwork, rows: Tensor, region: bounds.Region, place: Place) -> Tensor:
    """The least value of each row at points of the region: inside, corners, axes, and reached by descent.  [N, S]"""
    arguments = (region.x, region.eps, place.norm, region.lower, region.upper)
    generator = torch.Generator().manual_seed(place.seed + 1)
    points = [region.x[None], sample_region(*arguments, count=60, generator=generator)]
    if place.eps > 0:
        points += [descend_region(model, rows[:, s], *arguments, steps=3) for s in (0, rows.shape[1] - 1)]
    found = torch.cat(points)
    with torch.no_grad():
        values = model(found.flatten(0, 1)).reshape(*found.shape[:2], -1)
    return torch.einsum("nsk,pnk->pns", rows, values).amin(0)


def check(recipe: Recipe, place: Place, turn: int) -> None:
    model = build(recipe)
    region = place.region(recipe.shape)
    network = bounds.trace(model, region.x).bind()
    with torch.no_grad():
        assert torch.allclose(network(region.x), model(region.x), rtol=1e-12, atol=1e-12)
    generator = torch.Generator().manual_seed(recipe.weights + 1)
    rows = torch.cat(
        [
            bounds.margins(torch.tensor([0, 1]), recipe.classes, dtype=torch.float64),
            torch.randn(2, 1, recipe.classes, generator=generator, dtype=torch.float64),
        ],
        1,
    )
    methods = {
        "ibp": bounds.IBP(),
        "crown-ibp": bounds.CrownIBP(),
        "crown": bounds.Crown(),
        **TURNS[turn],
    }
    found = {
        name: bounds.lower_bounds(network, region, rows, method).detach() for name, method in methods.items()
    }
    reached = lowest(model, rows, region, place)
    slack = 1e-9 * (1 + found["ibp"].abs())
    for name, lower in found.items():
        assert torch.isfinite(lower).all(), name
        assert (lower <= reached + slack).all(), f"{name} is above a point by {(lower - reached).max():g}"
        if name != "crown not met":
            assert (lower >= found["ibp"] - slack).all(), f"{name} is looser than ibp"
    if "alpha-crown" in found:
        assert (found["alpha-crown"] >= found["crown"] - slack).all(), "alpha-crown is looser than crown"
    if place.eps == 0:
        assert (reached - found["ibp"] <= slack).all(), "a point has one value"
    within = bounds.lower_bounds(network, place.region(recipe.shape, 0.5), rows, bounds.IBP())
    assert (within >= found["ibp"] - slack).all(), "ibp of the smaller region is looser"


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_method_holds_on_random_networks(chunk: int) -> None:
    """CHUNKS × EACH networks, at least 2,000 of them at night; each chunk draws others."""

    @seed(chunk)
    @settings(
        max_examples=EACH, deadline=None, database=None, derandomize=False, print_blob=False,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(recipe=recipes(), place=places, turn=st.integers(0, len(TURNS) - 1))
    def holds(recipe: Recipe, place: Place, turn: int) -> None:
        check(recipe, place, turn)

    holds()


def test_how_many_networks_are_drawn() -> None:
    assert examples(300, 2000) <= CHUNKS * EACH


def test_the_draws_cover_every_kind_of_step_and_differ() -> None:
    seen: list[Recipe] = []

    @seed(0)
    @settings(max_examples=1000, database=None, derandomize=False, phases=[Phase.generate])
    @given(recipe=recipes())
    def collect(recipe: Recipe) -> None:
        seen.append(recipe)

    collect()
    kinds = {step.kind for recipe in seen for step in recipe.steps}
    assert kinds >= {
        "conv", "norm", "relu", "leaky", "sigmoid", "tanh", "hardswish", "abs", "square", "max", "average",
        "add", "mixed", "product", "cat", "slice", "stride", "scale",
    }  # fmt: skip
    assert len(set(seen)) >= 900
