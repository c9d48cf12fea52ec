"""The independent checker: it proves what CROWN proved, in two arithmetics, and nothing that was tampered with."""

import ast
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from effort import examples
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from oracles import sample_region
from random_networks import build, recipes
from shared_data import checkpoint, mnist_test
from torch import Tensor, nn

import bounds
import certnas
from bounds.chunking import budget
from bounds.state import BoundState
from certnas.checker import Certificate, CheckedNetwork, Known, Rejected, check
from certnas.checker.numbers import Arithmetic, dyadic, lowered
from certnas.checker.region import CheckedRegion
from certnas.errors import UserError
from certnas.models import open_model
from certnas.proofs import certificate_of, plain


def network_of(model: nn.Module, x: Tensor) -> tuple[bounds.Network, "plain"]:
    network = bounds.trace(model, x.to(next(model.parameters()).dtype)).bind(dtype=torch.float64)
    return network, plain(network)


def certified(
    model: nn.Module,
    x: Tensor,
    norm: str = "linf",
    eps: float = 0.01,
    method: bounds.Method | None = None,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> tuple[Certificate | None, CheckedNetwork]:
    """A certificate that the winning class beats all others around x [1, *shape]."""
    network, made = network_of(model, x)
    with torch.no_grad():
        logits = network(x)
    rows = bounds.margins(logits.argmax(1), logits.shape[1], dtype=torch.float64)
    region = bounds.NORMS[norm](x, eps, *(box or (None, None)))
    return certificate_of(network, made, region, rows, method or bounds.Crown()), made.network


def enclosure(network: CheckedNetwork, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of f(x) in real arithmetic at one image x [*shape].  [K] each"""
    point = Certificate(network.output, "linf", x, 0.0, (x, x), x, x, (), {}, {})
    low, high = Known.of(point, network, Arithmetic(False)).boxes.of(network.output)
    return low[0], high[0]


class Small(nn.Module):
    """Every operator that the checker relaxes, in one small network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.head = nn.Linear(4 * 4 + 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm(self.first(x)), 0.1)
        z = torch.relu(self.second(y)) + y
        pooled = torch.tanh(F.max_pool2d(z, 3, 2, 1))
        squeezed = torch.sigmoid(F.avg_pool2d(z[:, :2], 3, 2, 1, count_include_pad=False))
        return self.head(torch.cat([pooled.flatten(1), squeezed.flatten(1)], 1))


def small(seed_: int = 0) -> nn.Module:
    torch.manual_seed(seed_)
    model = Small().double().eval()
    for buffer in (model.norm.running_mean, model.norm.running_var):
        buffer.copy_(torch.rand(4) + 0.2)
    return model


def image(side: int = 4) -> Tensor:
    return torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(7)).double()


NORMS = ("linf", "l2", "l1")


@pytest.mark.parametrize("box", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", NORMS)
def test_certificates_are_proved_in_both_arithmetics_and_agree(
    norm: str, box: tuple[float, float] | None
) -> None:
    found, network = certified(small(), image(), norm, {"linf": 0.02, "l2": 0.06, "l1": 0.1}[norm], box=box)
    assert found is not None
    exact, rounded = (check(found, network, exact=which) for which in (True, False))
    assert np.abs(exact - rounded).max() < 1e-11
    assert (rounded <= exact).all(), "rounding moves bounds down, never up"


def test_alpha_crown_certificates_are_proved() -> None:
    method = bounds.AlphaCrown(iterations=5)
    plain_, network = certified(small(), image(), eps=0.03)
    optimised, _ = certified(small(), image(), eps=0.03, method=method)
    assert plain_ is not None and optimised is not None
    assert check(optimised, network).sum() > check(plain_, network).sum()
    check(optimised, network, exact=True)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_max_pooling_is_certified_as_far_as_it_is_bounded(norm: str) -> None:
    """Units that are 0 stay 0 when bounds are moved outward; else a window's planes would be far apart."""
    x, y = mnist_test(1)
    model = open_model(str(checkpoint("Convnet_maxpool.onnx"))).module
    radius = float(certnas.certify(model, x, y, norm=norm, attack=False).radius_lower[0])
    found, _ = certified(model, x.double(), norm, radius)
    assert radius > 0.05 and found is not None


def test_rows_that_only_intervals_prove_are_certified() -> None:
    """CROWN is the better of planes and of intervals that the last layer reads; certificates reach as far."""
    found = 0
    for number in range(40):
        torch.manual_seed(number)
        model = nn.Sequential(
            nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
        ).double()
        x = torch.rand(1, 2).double()
        network, made = network_of(model, x)
        y = model(x).argmax(1)
        rows, eps = bounds.margins(y, 3, dtype=torch.float64), 2.0**-6
        while eps < 2 and bool((_lower(network, x, eps * 1.05, rows) > 0).all()):
            eps *= 1.05
        region = bounds.Linf(x, eps)
        by_planes = BoundState(network, region, budget(None, torch.float64, x.device), bounds.Slope.ADAPTIVE)
        for target in by_planes.facts.readers:
            by_planes.refine(target)
        with torch.no_grad():
            short = bool((by_planes.lower_bounds(network.graph.output, rows) <= 0).any())
        for method in (bounds.Crown(), bounds.AlphaCrown(iterations=2)) if short else ():
            kept = certificate_of(network, made, region, rows, method)
            if bool((_lower(network, x, eps, rows) > 1e-6).all()):
                assert kept is not None and (check(kept, made.network, spare=4) > 0).all()
                found += 1
    assert found >= 2


def _lower(network: bounds.Network, x: Tensor, eps: float, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return bounds.lower_bounds(network, bounds.Linf(x, eps), rows, bounds.Crown())


@pytest.mark.parametrize("exact", [False, True])
def test_random_networks(exact: bool) -> None:
    """What is proved holds at sampled points; most networks that the checker knows are proved."""
    tried, proved = 0, 0

    @seed(5)
    @settings(
        max_examples=examples(6, 12) if exact else examples(25, 60),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=recipes(), norm=st.sampled_from(NORMS), size=st.sampled_from([0.0, 1e-3, 0.02]))
    def holds(recipe, norm: str, size: float) -> None:
        nonlocal tried, proved
        model = build(recipe)
        generator = torch.Generator().manual_seed(recipe.weights)
        x = torch.rand(1, *recipe.shape, generator=generator, dtype=torch.float64)
        try:
            found, network = certified(model, x, norm, size)
        except UserError as error:
            assert "checker knows no" in str(error) or "no certificate can be" in str(error)
            return
        low, high = enclosure(network, x[0].numpy())
        with torch.no_grad():
            logits = model(x)[0].numpy()
        slack = 1e-9 * (1 + np.abs(logits).max())
        assert (low <= logits + slack).all() and (logits - slack <= high).all()
        assert (high - low <= slack).all()
        if found is None:
            return
        tried += 1
        derived = check(found, network, exact=exact)
        proved += 1
        points = sample_region(x, size, norm, 0.0, 1.0, count=40, generator=generator).flatten(0, 1)
        with torch.no_grad():
            values = model(points) @ torch.from_numpy(found.rows[:, 0]).T
        assert (values.amin(0).numpy() >= derived - 1e-9).all()

    holds()
    assert tried == proved and tried >= (examples(2, 4) if exact else examples(8, 20))


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv, grouped, strided, dilated": (nn.Conv2d(4, 6, 3, 2, 2, 2, 2), (4, 7, 8)),
    "conv, same": (nn.Conv2d(2, 3, (2, 3), padding="same"), (2, 5, 6)),
    "depthwise": (nn.Conv2d(3, 3, 3, 1, 1, groups=3, bias=False), (3, 5, 5)),
    "average, padding counted": (nn.AvgPool2d(3, 2, 1), (2, 7, 6)),
    "average, not counted, ceil": (nn.AvgPool2d(3, 2, 1, True, False), (2, 6, 6)),
    "adaptive average": (nn.AdaptiveAvgPool2d(1), (3, 5, 4)),
    "adaptive average to 2": (nn.AdaptiveAvgPool2d(2), (3, 6, 4)),
    "max, overlapping, padded": (nn.MaxPool2d(3, 2, 1), (2, 7, 6)),
    "max, dilated, ceil": (nn.MaxPool2d(2, 2, 0, 2, ceil_mode=True), (2, 6, 7)),
    "batch norm": (nn.BatchNorm2d(3), (3, 4, 4)),
    "relu6": (nn.ReLU6(), (2, 4, 4)),
    "hardtanh": (nn.Hardtanh(-0.3, 0.4), (2, 4, 4)),
    "zero padding": (nn.ZeroPad2d((1, 2, 0, 1)), (2, 3, 3)),
    "reflection": (nn.ReflectionPad2d(1), (2, 4, 4)),
    "pixel shuffle": (nn.PixelShuffle(2), (4, 3, 3)),
}


class Around(nn.Module):
    """(2 − 3·module(x)) / 0.7, its mean taken, between linear maps."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self.shift = module, nn.Parameter(torch.randn(shape))
        self.last = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        y = (2 - 3 * self.module(x * 2 - self.shift)) / 0.7
        return self.last(
            torch.cat([y.flatten(1), y.mean((2, 3)), -y.mean((-2, -1), keepdim=True)[:, :, 0, 0]], 1)
        )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", MODULES)
def test_extracted_networks_are_the_models(name: str) -> None:
    """The rigorous value at random points holds the model's own, and is as narrow as rounding."""
    torch.manual_seed(1)
    module, shape = MODULES[name]
    model = Around(module, shape).double()
    model(torch.rand(4, *shape).double())
    model.eval()
    x = torch.randn(3, *shape, dtype=torch.float64)
    _, made = network_of(model, x[:1])
    for one, logits in zip(x, model(x).detach(), strict=True):
        low, high = enclosure(made.network, one.numpy())
        assert (low <= logits.numpy() + 1e-12).all() and (logits.numpy() - 1e-12 <= high).all()
        assert (high - low).max() < 1e-11


class Gram(nn.Module):
    """A product of two tensors that both depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x @ x.transpose(-1, -2)).flatten(1))


def test_an_operator_that_the_checker_lacks_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    with pytest.raises(UserError, match=r"checker knows no aten\.gelu\.default at node 'gelu'"):
        network_of(model, torch.rand(1, 3))
    with pytest.raises(UserError, match="a product whose right factor is not one constant matrix"):
        network_of(Gram(), torch.rand(1, 2, 2))
    with pytest.raises(ValueError, match="no operator 'softmax'"):
        CheckedNetwork((3,)).add("softmax", (), (3,), {})


# Arithmetic, against fractions.


def test_rounded_sums_are_below_the_exact_ones() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 7, 300):
        a, b = (rng.standard_normal((5, size)) * 10.0 ** rng.integers(-12, 12, (5, size)) for _ in range(2))
        a[:, -1], b[:, -1] = -a[:, 0], b[:, 0]  # cancels what is largest
        rounded = Arithmetic(False).dot(Arithmetic(False).read(a), Arithmetic(False).read(b)).n
        exact = Arithmetic(True).dot(Arithmetic(True).read(a), Arithmetic(True).read(b))
        for row in range(5):
            truth = sum(
                Fraction(p) * Fraction(q) for p, q in zip(a[row].tolist(), b[row].tolist(), strict=True)
            )
            assert Fraction(float(rounded[row])) <= truth
            assert Fraction(exact.n[row], 2**exact.k) == truth


@pytest.mark.parametrize("terms", [1, 2, 50, 10**6])
def test_the_margin_of_rounding_is_at_least_highams(terms: int) -> None:
    """γ_m·magnitude, in exact arithmetic, with the unit roundoff that float64 has."""
    unit, magnitude = Fraction(1, 2**53), np.array([3.0])
    found = lowered(np.array([0.25]), terms, magnitude)
    assert Fraction(1, 4) - Fraction(float(found[0])) >= terms * unit / (1 - terms * unit) * 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_boxes_hold_what_a_long_sum_rounds_away(sign: float) -> None:
    """1 and many 2⁻⁵⁴: added one after the other, each is rounded away; the margin must grow with their number."""
    size, tiny = 1 << 14, 2.0**-54
    network = CheckedNetwork((size,))
    weight = sign * np.full((1, 1, size), tiny)
    weight[..., 0] = sign
    network.add("linear", (network.input,), (1,), {"weight": weight, "bias": np.zeros((1, 1, 1))})
    low, high = enclosure(network, np.ones(size))
    truth = Fraction(sign) * (1 + (size - 1) * Fraction(tiny))
    assert Fraction(float(low[0])) <= truth <= Fraction(float(high[0]))


def test_dyadic_numbers_are_the_floats() -> None:
    values = np.array([0.0, 1.0, -3.5, 1e-300, 5e-324, 1e300, 0.1])
    numbers = dyadic(values)
    assert [Fraction(n, 2**numbers.k) for n in numbers.n] == [Fraction(v) for v in values.tolist()]
    assert (numbers.nearest() == values).all()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_minima_over_the_region(norm: str, exact: bool) -> None:
    """Below the engine's exact minimum by rounding alone, and below every sampled point."""
    rng = np.random.default_rng(3)
    x, coef = rng.random((1, 6)), rng.standard_normal((4, 6)) * [1, 1e-3, 5, 1, 1, 0]
    for eps in (0.0, 0.1, 0.6, 5.0):
        for box in (None, (0.0, 1.0)):
            nothing, sides = np.zeros((0, 0)), (x[0] - eps, x[0] + eps)
            if box is not None:
                sides = np.maximum(sides[0], box[0]), np.minimum(sides[1], box[1])
            about = Certificate("", norm, x[0], eps, sides, nothing, nothing, (), {}, {})
            arithmetic = Arithmetic(exact)
            found = CheckedRegion.of(about, arithmetic).minimum(arithmetic.read(coef)).nearest()
            region = bounds.NORMS[norm](torch.from_numpy(x), eps, *(box or (None, None)))
            best = region.minimum(torch.from_numpy(coef)[None])[0].numpy()
            assert (found <= best + 1e-14).all() and (found >= best - 1e-9).all()


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh])
def test_planes_of_curves_are_decided_sharply(function) -> None:
    """The best plane of each slope is accepted and one 10⁻¹² better is not."""
    from certnas.checker import ClaimedPlane, Planes
    from certnas.checker.relaxations import sandwiched

    rng = np.random.default_rng(0)
    network = CheckedNetwork((1,))
    node = network.nodes[network.add(function.__name__, (network.input,), (1,), {})]
    for _ in range(60):
        low, high = np.sort(rng.uniform(-4, 4, 2))
        slope = rng.uniform(-0.2, 1.1) if rng.random() < 0.8 else 0.0
        grid = torch.linspace(low, high, 40001, dtype=torch.float64)
        gap = function(grid) - slope * grid
        best = float(gap.min()), float(gap.max())

        def accepted(lower: float, upper: float, ends=(low, high), slope=slope) -> bool:
            planes = [ClaimedPlane(np.full((1, 1), slope), np.full((1, 1), bias)) for bias in (lower, upper)]
            sides = (dyadic(np.array([end])) for end in ends)
            return sandwiched(node, Planes(*planes), *sides)

        room = 1e-8  # the grid's own error is of second order in its step
        assert accepted(best[0] - room, best[1] + room)
        assert not accepted(best[0] + 1e-12, best[1] + room)
        assert not accepted(best[0] - room, best[1] - 1e-12)


CHECKER = sorted((Path(__file__).parents[1] / "certnas/checker").glob("*.py"))
ALLOWED = {"numpy", "mpmath", *sys.stdlib_module_names}
STATEMENTS = 22


@pytest.mark.parametrize("path", CHECKER, ids=lambda path: path.stem)
def test_the_checker_stands_alone_in_functions_that_can_be_seen_whole(path: Path) -> None:
    """It imports numpy, mpmath and Python's own modules; functions are short; what is public says what it is."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            own = [name for name in names if not name.startswith("certnas.checker")]
            assert {name.partition(".")[0] for name in own} <= ALLOWED, f"{path.name} imports {own}"
        if isinstance(node, ast.FunctionDef):
            count = sum(isinstance(part, ast.stmt) for part in ast.walk(node)) - 1
            assert count <= STATEMENTS, f"{path.name}: {node.name} has {count} statements"
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]
    assert all(ast.get_docstring(node) for node in public)


def test_every_step_of_the_theorem_is_named_where_it_is_computed() -> None:
    """(a) to (f) stand in the theorem, and each at the head of one function that computes it."""
    trees = {path.stem: ast.parse(path.read_text()) for path in CHECKER}
    functions = [
        node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    heads = [(ast.get_docstring(function) or "")[:3] for function in functions]
    for step in "abcdef":
        assert f"({step})" in (ast.get_docstring(trees["check"]) or "") and heads.count(f"({step})") == 1


def test_the_checker_loads_neither_torch_nor_the_bound_engine() -> None:
    code = "import sys, certnas.checker; assert not {'torch', 'bounds'} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_or_foreign_certificate_is_rejected() -> None:
    found, network = certified(small(), image())
    assert found is not None
    (part,) = found.parts
    (given,) = part.refutations
    negative = replace(part, refutations=(replace(given, bounds=-given.bounds),))
    with pytest.raises(Rejected, match="a bound not above"):
        check(replace(found, parts=(negative,)), network)
    with pytest.raises(Rejected, match="are refuted"):
        check(
            replace(
                found, rows=found.rows[:0], offsets=found.offsets[:0], parts=(replace(part, refutations=()),)
            ),
            network,
        )
    with pytest.raises(Rejected, match="another network"):
        check(found, certified(small(1), image())[1])
