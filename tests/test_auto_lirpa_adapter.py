"""The adapter to auto_LiRPA: it leaves nothing behind, and refuses what it cannot or must not compare."""

import random
import sys
import warnings
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from lirpa_networks import CASES, CLASSES, images, on_stem, ready
from oracles import descend_region, sample_region
from torch import Tensor, nn

from certnas.crosscheck import (
    Ascent,
    Converted,
    LirpaBounds,
    OracleUnusable,
    auto_lirpa,
    auto_lirpa_bounds,
    lirpa_library,
)
from certnas.errors import UserError


def run(model: nn.Module, **options: object) -> LirpaBounds:
    return auto_lirpa_bounds(model, images(), 0.01, "linf", **{"method": "CROWN", **options})


def test_the_adapter_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    model = ready(CASES["batch norm"].build).float().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    filters, handlers, modules = list(warnings.filters), list(logging.getLogger().handlers), set(sys.modules)
    seeds = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = run(model)
    assert found.lower.dtype == torch.float64
    assert not found.lower.requires_grad
    assert capfd.readouterr() == ("", "")
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(seeds[0], torch.get_rng_state())
    assert (seeds[1], seeds[2]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert list(warnings.filters) == filters
    assert logging.getLogger().handlers == handlers
    assert torch.get_default_dtype() == torch.float32
    assert not hasattr(torch._C.Node, "__getitem__")
    assert "numpy.lib.arraysetops" not in set(sys.modules) - modules


def test_a_model_it_cannot_convert_is_refused_with_its_reason() -> None:
    class Erf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x).flatten(1)

    with pytest.raises(OracleUnusable, match="conversion failed"):
        run(Erf())


def test_a_clean_output_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_lirpa, "_known_wrong", lambda *_: None)
    with pytest.raises(OracleUnusable, match="clean output differs from the model's by"):
        run(ready(lambda: on_stem(nn.ReLU(), nn.AvgPool2d(2, 2, 1, count_include_pad=False))))


def test_a_missing_package_is_one_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "auto_LiRPA", raising=False)
    monkeypatch.setattr(lirpa_library.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="uv sync --group test") as caught:
        run(ready(CASES["mlp"].build))
    assert "\n" not in str(caught.value) and "needs auto_LiRPA 0.3 or 0.7" in str(caught.value)


@pytest.mark.parametrize("options", [{"method": "DeepPoly"}, {"norm": "l3"}])
def test_arguments_it_does_not_know_are_refused(options: dict[str, str]) -> None:
    arguments = {"norm": "linf", "method": "IBP", **options}
    with pytest.raises(UserError, match="is not one of"):
        auto_lirpa_bounds(ready(CASES["mlp"].build), images(), 0.1, **arguments)


def test_an_ascent_of_no_evaluation_is_refused() -> None:
    with pytest.raises(UserError, match=r"iterations ≥ 1 and step > 0, got 0 and 0\.5"):
        Ascent(iterations=0)


EACH = torch.tensor([0.02, 0.3, 0.07], dtype=torch.float64)


@pytest.mark.parametrize("conv_mode", ["matrix", "patches"])
@pytest.mark.parametrize(
    ("case", "norm", "method"),
    [
        *product(("mlp", "cnn"), ("linf", "l2"), ("IBP", "CROWN-IBP")),
        *product(("mlp",), ("linf", "l2"), ("CROWN",)),
    ],
)
def test_radii_for_each_image_give_the_bounds_of_separate_calls(
    case: str, norm: str, method: auto_lirpa.Method, conv_mode: auto_lirpa.ConvMode
) -> None:
    """One conversion serves batches of two sizes, one radius for all and one for each image."""
    x, model = images(3), ready(CASES[case].build)
    converted = Converted(model, x, norm, conv_mode=conv_mode)
    together = converted.bounds(x, EACH, method=method)
    for n, radius in enumerate(EACH.tolist()):
        alone = auto_lirpa_bounds(model, x[n : n + 1], radius, norm, method=method, conv_mode=conv_mode)
        for found in (converted.bounds(x[n : n + 1], radius, method=method), alone):
            torch.testing.assert_close(together.lower[n : n + 1], found.lower, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(together.upper[n : n + 1], found.upper, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("conv_mode", ["matrix", "patches"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_crown_of_radii_for_each_image_is_that_of_their_company(
    norm: str, conv_mode: auto_lirpa.ConvMode
) -> None:
    """Where convolutions follow, bounds depend on the others in the batch: equal radii give one radius's bounds."""
    x, model = images(3), ready(CASES["cnn"].build)
    converted = Converted(model, x, norm, conv_mode=conv_mode)
    converted.bounds(x, EACH, method="CROWN")
    each = converted.bounds(x, torch.full((3,), 0.07, dtype=torch.float64), method="CROWN")
    one = converted.bounds(x, 0.07, method="CROWN")
    fresh = auto_lirpa_bounds(model, x, 0.07, norm, method="CROWN", conv_mode=conv_mode)
    for found in (each, one):
        torch.testing.assert_close(found.lower, fresh.lower, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.upper, fresh.upper, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("conv_mode", ["matrix", "patches"])
def test_crown_optimized_improves_on_crown_and_holds_at_points(
    conv_mode: auto_lirpa.ConvMode, dtype: torch.dtype
) -> None:
    """Its slopes move under this torch, and leave no trace in what is computed after."""
    x, model = images(), ready(CASES["cnn"].build)
    points = [sample_region(x, 0.1, "linf", count=300, generator=torch.Generator().manual_seed(0))]
    for row in torch.eye(CLASSES).double():
        points += [descend_region(model, sign * row, x, 0.1, "linf") for sign in (1, -1)]
    with torch.no_grad():
        reached = model(torch.cat(points).flatten(0, 1)).reshape(-1, len(x), CLASSES)
    x = x.to(dtype)
    converted = Converted(model.to(dtype), x, "linf", conv_mode=conv_mode)
    bound = partial(converted.bounds, x, 0.1)
    crown, found = (bound(method=method) for method in ("CROWN", "CROWN-Optimized"))
    first = bound(method="CROWN-Optimized", ascent=Ascent(iterations=1))
    assert not found.lower.requires_grad and found.lower.dtype == dtype
    for start in (crown, first):
        assert ((found.upper - found.lower) < 0.99 * (start.upper - start.lower)).all()
    assert (found.lower - 1e-5 <= reached).all() and (found.upper + 1e-5 >= reached).all()
    alone = bound(method="CROWN-Optimized", upper=False)
    assert torch.equal(alone.lower, found.lower) and alone.upper.isposinf().all()
    assert torch.equal(bound(method="CROWN").lower, crown.lower)
