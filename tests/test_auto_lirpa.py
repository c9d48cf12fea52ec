"""Bounds against auto_LiRPA: equal where it is right and exact, never looser; and where it is wrong."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from lirpa_networks import CASES, CLASSES, conv, images, on_stem, op, ready
from oracles import descend_region, sample_region
from torch import Tensor, nn

import bounds
from bounds.state import BoundState
from certnas.crosscheck import OracleUnusable, auto_lirpa_bounds, lirpa_version

METHODS = {"IBP": bounds.IBP(), "CROWN-IBP": bounds.CrownIBP(), "CROWN": bounds.Crown(intersect=False)}
REGIONS = {"linf": bounds.Linf, "l2": bounds.L2, "l1": bounds.L1}
EPS = {"linf": 0.01, "l2": 0.1}


def margins(n: int) -> Tensor:
    return bounds.margins(torch.arange(n) % CLASSES, CLASSES).double()


def ours(
    model: nn.Module, x: Tensor, eps: float, norm: str, method: bounds.Method, rows: Tensor
) -> tuple[Tensor, Tensor]:
    network = bounds.trace(model, x).bind().to(torch.float64)
    region = REGIONS[norm](x, eps)
    lower = bounds.lower_bounds(network, region, rows, method)
    return lower.detach(), -bounds.lower_bounds(network, region, -rows, method).detach()


def auto_lirpa_alone(
    model: nn.Module, x: Tensor, norm: str, method: str, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """One image at a time: auto_LiRPA 0.3's bounds of an image change with its company."""
    alone = [
        auto_lirpa_bounds(model, x[n : n + 1], EPS[norm], norm, method=method, rows=rows[n : n + 1])
        for n in range(len(x))
    ]
    return torch.cat([found.lower for found in alone]), torch.cat([found.upper for found in alone])


def rounding(name: str) -> float:
    """How much looser than auto_LiRPA's a single bound may be, as a share of the width: see the test below."""
    return 1e-5 if name in ("sigmoid", "tanh") and lirpa_version().startswith("0.7") else 1e-6


CASE_NORMS = [(name, norm) for name, case in CASES.items() for norm in case.norms]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "norm"), CASE_NORMS)
def test_bounds_equal_auto_lirpa_or_are_tighter(
    name: str, norm: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both follow auto_LiRPA's rule: CROWN where interval arithmetic leaves a unit undecided, and no intersection.

    Its planes of a max pool are others than ours: single bounds may be looser than its, not the mean width.  0.7
    takes tangents of a sigmoid and a tanh from a table of steps of 0.01.  These planes are looser than ours and have
    other slopes, so a single bound may be tighter than ours by a hundred-thousandth of the width; the mean is not.
    Bounds are equal where no unit's sign is looked for on the way, by which one more may be decided.
    """
    case, model, x = CASES[name], ready(CASES[name].build), images()
    rows = torch.cat([torch.eye(CLASSES).double().expand(len(x), -1, -1), margins(len(x))], dim=1)
    lower, upper = ours(model, x, EPS[norm], norm, METHODS[method], rows)
    theirs_lower, theirs_upper = auto_lirpa_alone(model, x, norm, method, rows)
    width = theirs_upper - theirs_lower
    assert (width > 1e-4).all(), "a region this small compares nothing"
    if not case.single and method != "IBP":
        assert (upper - lower).mean() <= width.mean()
        return
    assert (upper - lower).mean() <= (1 + 1e-9) * width.mean()
    slack = rounding(name) * width
    assert (lower >= theirs_lower - slack).all(), ((theirs_lower - lower) / width).max()
    assert (upper <= theirs_upper + slack).all(), ((upper - theirs_upper) / width).max()
    if case.equal:
        monkeypatch.setattr(BoundState, "_by_sign", lambda *_: False)
        lower, upper = ours(model, x, EPS[norm], norm, METHODS[method], rows)
        assert (lower <= theirs_lower + 1e-5 * width).all(), ((lower - theirs_lower) / width).max()
        assert (upper >= theirs_upper - 1e-5 * width).all(), ((theirs_upper - upper) / width).max()


@pytest.mark.slow
@pytest.mark.parametrize("norm", EPS)
def test_default_crown_is_tighter_on_average(norm: str) -> None:
    """Meeting intermediate bounds with interval arithmetic's is tighter on average over networks, but may flip the
    adaptive slope of a ReLU, so single bounds (and on "residual" the mean, by 0.1 %) may be looser; the better of the
    two chains is nowhere looser than auto_LiRPA."""
    ratios = []
    for name, case in ((name, case) for name, case in CASES.items() if norm in case.norms):
        model, x = ready(case.build), images()
        rows = torch.cat([torch.eye(CLASSES).double().expand(len(x), -1, -1), margins(len(x))], dim=1)
        lower, upper = ours(model, x, EPS[norm], norm, bounds.Crown(), rows)
        pure_lower, pure_upper = ours(model, x, EPS[norm], norm, bounds.Crown(intersect=False), rows)
        theirs_lower, theirs_upper = auto_lirpa_alone(model, x, norm, "CROWN", rows)
        width = theirs_upper - theirs_lower
        ratios.append(((upper - lower).mean() / width.mean()).item())
        if case.single:
            slack = rounding(name) * width
            assert (torch.maximum(lower, pure_lower) >= theirs_lower - slack).all()
            assert (torch.minimum(upper, pure_upper) <= theirs_upper + slack).all()
    assert sum(ratios) / len(ratios) <= 1


# -- where auto_LiRPA is wrong ------------------------------------------------------------------------------


def violation(model: nn.Module, x: Tensor, eps: float, norm: str, lower: Tensor, upper: Tensor) -> float:
    """How far points of the ball leave [lower, upper], in widths of it; ≤ 0 where none does."""
    points = [sample_region(x, eps, norm, count=500, generator=torch.Generator().manual_seed(0))]
    for row in torch.eye(CLASSES).double():
        points += [descend_region(model, row, x, eps, norm), descend_region(model, -row, x, eps, norm)]
    with torch.no_grad():
        outputs = model(torch.cat(points).flatten(0, 1)).reshape(-1, len(x), CLASSES)
    width = (upper - lower).clamp(min=1e-9)
    return torch.maximum((lower - outputs) / width, (outputs - upper) / width).max().item()


@dataclass(frozen=True)
class Wrong:
    build: Callable[[], nn.Sequential]
    norm: str = "linf"
    conv_mode: str = "matrix"
    methods: tuple[str, ...] = ("CROWN",)
    why: str = ""


WRONG = {
    "average pool without counting padding": Wrong(
        lambda: on_stem(nn.ReLU(), nn.AvgPool2d(2, 2, 1, count_include_pad=False)),
        methods=("IBP", "CROWN-IBP", "CROWN"),
        why="count_include_pad=False",
    ),
    "DARTS average pool": Wrong(
        lambda: on_stem(nn.ReLU(), op("avg_pool_3x3")),
        methods=("CROWN-IBP", "CROWN"),
        why="count_include_pad=False",
    ),
    "depthwise, patches": Wrong(
        lambda: on_stem(op("sep_conv_3x3")), conv_mode="patches", methods=("CROWN",), why="groups"
    ),
    "dilated, patches": Wrong(
        lambda: on_stem(nn.ReLU(), conv(4, 4, padding=2, dilation=2)), conv_mode="patches", why="dilation"
    ),
    "l2 with a normalisation layer": Wrong(
        CASES["normalised"].build,
        norm="l2",
        methods=("IBP", "CROWN-IBP", "CROWN"),
        why="reads the input",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_points_of_the_region_violate_auto_lirpa_and_not_us(name: str) -> None:
    case, x = WRONG[name], images()
    eps = EPS[case.norm]
    model = ready(case.build)
    rows = torch.eye(CLASSES).double().expand(len(x), -1, -1)
    for method in case.methods:
        with pytest.raises(OracleUnusable, match=case.why):
            auto_lirpa_bounds(model, x, eps, case.norm, method=method, conv_mode=case.conv_mode)
        theirs = auto_lirpa_bounds(
            model, x, eps, case.norm, method=method, conv_mode=case.conv_mode, allow_unsound=True
        )
        assert violation(model, x, eps, case.norm, theirs.lower, theirs.upper) > 1e-3, method
        lower, upper = ours(model, x, eps, case.norm, METHODS[method], rows)
        assert violation(model, x, eps, case.norm, lower, upper) <= 1e-9, method
