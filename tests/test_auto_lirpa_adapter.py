"""The adapter to auto_LiRPA: it leaves nothing behind, and refuses what it cannot or must not compare."""

import random
import sys
import warnings

import numpy as np
import pytest
import torch
from lirpa_networks import CASES, images, on_stem, ready
from torch import Tensor, nn

from certnas.crosscheck import LirpaBounds, OracleUnusable, auto_lirpa, auto_lirpa_bounds
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
    def missing(name: str) -> str:
        raise auto_lirpa.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(auto_lirpa.importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="uv sync --group test") as caught:
        run(ready(CASES["mlp"].build))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"method": "DeepPoly"}, {"norm": "l3"}])
def test_arguments_it_does_not_know_are_refused(options: dict[str, str]) -> None:
    arguments = {"norm": "linf", "method": "IBP", **options}
    with pytest.raises(UserError, match="is not one of"):
        auto_lirpa_bounds(ready(CASES["mlp"].build), images(), 0.1, **arguments)
