"""Operators, methods and norms that are added from outside of the package work everywhere inside of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import bounds
import certnas
from bounds.extend import ELEMENTWISE, RULES, BoundState, Call, Curve, curve_rule
from bounds.passes import patches
from certnas.errors import UserError
from certnas.models.inspection import inspect
from certnas.models.opened import OpenedModel
from certnas.nas.metrics import METRICS, build_metric
from certnas.nas.metrics.metric import Momentary
from cli.main import main
from tests.tiny_search import config
from tests.tiny_search import found as search_one

aten = torch.ops.aten
SINH = Curve(torch.sinh, torch.cosh, stationary=lambda s: [sign * s.clamp(min=1).acosh() for sign in (1, -1)])


def summed(call: Call, x: Tensor) -> Tensor:
    return torch.cumsum(x, call["dim"])


@dataclass(frozen=True)
class Sampled(bounds.Method):
    """CROWN-IBP without the interval bound of the rows, as somebody else might write it."""

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        return state.lower_bounds(state.network.graph.output, coef)


class L3(bounds.Region):
    """‖(x' − x) / ε‖₃ ≤ 1, met with a box by leaving the box aside: a larger region, so a sound bound."""

    name, p, symbol, reported = "l3", 3.0, "l3", (0.1, 0.5)

    def _dual_norm(self, coef: Tensor) -> Tensor:
        return torch.linalg.vector_norm(coef, 1.5, dim=-1)

    def _dual_norm_in_box(self, coef: Tensor, room: Tensor) -> Tensor:
        return self._dual_norm(coef)


@pytest.fixture
def added() -> Iterator[None]:
    bounds.register_operator(aten.sinh.default, curve_rule(lambda call: SINH))
    bounds.register_operator(aten.cumsum.default, bounds.Affine(summed))
    bounds.register_method("sampled", Sampled())
    bounds.register_norm(L3)
    yield
    for target in (aten.sinh.default, aten.cumsum.default):
        del RULES[target]
    del bounds.METHODS["sampled"], bounds.NORMS["l3"]


class Model(nn.Module):
    """A convolution, the two operators from outside, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3)
        self.last = nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sinh(self.second(torch.sinh(self.first(x))))
        return self.last(torch.cumsum(h, 2).flatten(1))


def setting() -> tuple[nn.Module, Tensor]:
    model = Model().double().eval()
    x = torch.rand(2, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, x


def inside(region: bounds.Region, p: float, eps: float, count: int) -> Tensor:
    """Points of the ball ‖δ‖_p ≤ eps, on its surface mostly.  [count, N, *shape]"""
    generator = torch.Generator().manual_seed(7)
    delta = torch.randn(count, *region.x.shape, dtype=torch.float64, generator=generator)
    delta[: count // 2] = delta[: count // 2].sign()
    length = torch.linalg.vector_norm(delta.flatten(2), p, dim=2)
    return region.x + eps * delta / length.reshape(count, -1, 1, 1, 1)


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("norm", ["linf", "l2", "l3"])
def test_bounds_hold_by_every_method(norm: str) -> None:
    model, x = setting()
    graph, region = bounds.trace(model, x), bounds.NORMS[norm](x, 0.05)
    points = inside(region, bounds.NORMS[norm].p, 0.05, 200)
    with torch.no_grad():
        values = model(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    widths = {}
    for name, method in bounds.METHODS.items():
        found = bounds.output_bounds(graph.bind(), region, method)
        assert bool((found.lower <= values + 1e-9).all() and (found.upper >= values - 1e-9).all()), name
        widths[name] = float((found.upper - found.lower).detach().mean())
    assert widths["crown"] < widths["ibp"]
    assert widths["crown-ibp"] <= widths["sampled"] < 1.5 * widths["crown-ibp"]


@pytest.mark.usefixtures("added")
def test_an_operator_from_outside_has_windows_a_cost_and_an_inspection() -> None:
    model, x = setting()
    network = bounds.trace(model, x).bind()
    sinh = [node for node in network.graph.nodes.values() if node.op == "aten.sinh.default"]
    assert len(sinh) == 2 and all(patches.receptive_field_of(network.call(node)) for node in sinh)
    assert RULES[aten.sinh.default].patches is ELEMENTWISE
    costs = bounds.estimates(network, 2)
    assert costs["crown"].multiplications > costs["ibp"].multiplications > 0
    found = inspect(OpenedModel(model.float(), "model", (1, 5, 5), 3, "made in a test", ""))
    assert found.unsupported == () and found.neurons == 2 * 25 + 2 * 9


def test_without_its_record_the_operator_is_refused() -> None:
    model, x = setting()
    with pytest.raises(bounds.UnsupportedOp, match="sinh"):
        bounds.lower_bounds(
            bounds.trace(model, x).bind(), bounds.Linf(x, 0.1), torch.zeros(2, 1, 3), bounds.IBP()
        )


@pytest.mark.usefixtures("added")
def test_the_certifier_takes_a_norm_and_a_method_from_outside() -> None:
    model, x = setting()
    model, x = model.float(), x.float()
    y = model(x).argmax(1)
    found = certnas.certify(model, x, y, norm="l3", method="sampled", clip=None, attack=False)
    plain = certnas.certify(model, x, y, norm="l2", method="sampled", clip=None, attack=False)
    assert (found.radius_lower > 0).all()
    assert (
        found.radius_lower < plain.radius_lower * 25 ** (1 / 2 - 1 / 3)
    ).all()  # ‖·‖₃ ≤ ‖·‖₂ ≤ 25^(1/6) ‖·‖₃
    with pytest.raises(certnas.errors.UserError, match="l3"):
        certnas.certify(model, x, y, norm="l3", method="sampled", clip=None)


@pytest.mark.usefixtures("added")
def test_the_command_line_takes_a_norm_from_outside() -> None:
    run = CliRunner().invoke(
        main, ["certify", "--norm", "l3", "--no-attack", "--images", "2", "--method", "crown-ibp"]
    )
    assert run.exit_code == 0, run.output
    assert "l3" in run.output
    wrong = CliRunner().invoke(main, ["certify", "--norm", "l4", "--images", "2"])
    assert wrong.exit_code == 2 and "l3" in wrong.output and "l4" in wrong.output


@pytest.mark.usefixtures("added")
def test_names_that_are_taken_are_refused() -> None:
    for register in (
        lambda: bounds.register_operator(aten.relu.default, bounds.Affine(summed)),
        lambda: bounds.register_method("crown", Sampled()),
        lambda: bounds.register_norm(L3),
        lambda: bounds.register_operator(aten.tan.default, "no rule"),
    ):
        with pytest.raises(bounds.InvalidInput, match="register_"):
            register()


@pytest.mark.parametrize("key", ["name", "p", "symbol", "reported"])
def test_a_norm_says_all_of_itself(key: str) -> None:
    told = {"name": "l5", "p": 5.0, "symbol": "l5", "reported": (0.1,)}
    del told[key]
    with pytest.raises(bounds.InvalidInput, match=f"L5 lacks {key}$"):
        bounds.register_norm(type("L5", (bounds.Region,), told))
    assert "l5" not in bounds.NORMS


@dataclass(frozen=True, kw_only=True)
class Flatness(Momentary):
    """Minus the mean length of the input gradient of the largest logit."""

    scale: float = 1.0

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(network(x).amax(1).sum(), x, create_graph=True)
        return -self.scale * slope.flatten(1).square().sum(1).mean()


def test_a_search_takes_a_metric_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "flatness", Flatness)
    settings = config(metric={"name": "flatness", "options": {"scale": 2.0}})
    plain = config(metric={"name": "none"})
    assert isinstance(build_metric("flatness", {"scale": 2.0}), Flatness)
    with pytest.raises(UserError, match="scale"):
        build_metric("flatness", {"slope": 2.0})
    with_it, without = (dict(search_one(one).supernet.named_parameters()) for one in (settings, plain))
    assert any(not torch.equal(with_it[name], without[name]) for name in without)
