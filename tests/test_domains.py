"""Operators that are not defined everywhere: bounds in the domain, none beyond it, verification that splits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_models import model, node, properties, saved
from operators import Function
from soundness import METHODS, Ball, output_bounds
from torch import Tensor

import bounds
from certnas.errors import UserError
from certnas.models.formats.onnx import import_onnx, importing
from certnas.models.formats.onnx.site import Step
from certnas.verifier import parse_vnnlib, verify
from certnas.verifier.subject import open_onnx
from certnas.verifier.verification import network_of

PARTIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PARTIAL)
def test_units_beyond_the_domain_are_unknown_and_others_are_bounded(name: str, method: str) -> None:
    """A unit whose interval leaves the domain may be anything; its neighbours keep their bounds, and so do rows that
    do not read it.  The zonotope, whose error symbols are not kept apart so, may lose them."""
    f = PARTIAL[name]
    center = torch.tensor([[2.0, 0.1, 0.9, 0.5]]).double().requires_grad_()
    eps = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).double()
    network = bounds.trace(Function(f), center).bind(dtype=torch.float64)
    found = bounds.output_bounds(network, bounds.Linf(center, eps), METHODS[method])
    assert found.lower[0, 1] == -torch.inf and found.upper[0, 1] == torch.inf
    if method != "zonotope":
        kept = [0, 2, 3]
        outputs = f(center.detach() + eps * torch.linspace(-1, 1, 2001).double()[:, None])
        ends = [outputs.amin(0)[kept], outputs.amax(0)[kept]]
        for bound, end in zip((found.lower, found.upper), ends, strict=True):
            torch.testing.assert_close(bound[0, kept], end, rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad((found.upper - 2 * found.lower)[0, kept].sum(), center)
        assert torch.isfinite(gradient).all()


UNDEFINED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda x: torch.sigmoid(1 / x),
    "clamp": lambda x: (1 / x).clamp(-9, 9),
    "tanh": lambda x: torch.tanh(torch.log(x)),
    "zero times": lambda x: 0 * torch.log(x) + x,
    "a weight of zero": lambda x: torch.log(x) * torch.zeros(2) + x,
    "zero divided": lambda x: (x * torch.zeros(2)) / x,
    "softmax": lambda x: torch.softmax(torch.stack([torch.log(x), x], 1), 1)[:, 0],
    "sign": lambda x: torch.sqrt(x).square(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", UNDEFINED)
def test_nothing_is_said_of_what_reads_a_unit_beyond_the_domain(name: str, method: str) -> None:
    """A sigmoid of any number lies in [0, 1], of NaN it is NaN, and so is 0·NaN.  Its neighbour keeps its bounds."""
    x = torch.tensor([[0.1, 0.4]]).double()
    network = bounds.trace(Function(UNDEFINED[name]), x).bind(dtype=torch.float64)
    found = output_bounds(network, Ball("linf", x, 0.2).region(), METHODS[method])
    assert found.lower[0, 0] == -torch.inf and found.upper[0, 0] == torch.inf
    assert torch.isfinite(found.lower[0, 1]) and torch.isfinite(found.upper[0, 1])


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 2, 3)])
def test_no_property_is_proved_of_what_may_be_nan(axes: tuple[int, ...]) -> None:
    """Neither halved inputs, nor split activations, nor a mixture of constraints prove one."""
    n = len(axes) * 16
    weight = torch.ones(2, n) / n

    def f(x: Tensor) -> Tensor:
        return torch.sigmoid(torch.log(torch.nn.functional.linear(x, weight.to(x)))) + torch.relu(x[:, :2])

    network = network_of(Function(f), (n,), (torch.full((n,), 0.1), torch.ones(n)))
    for said in ("(>= Y_0 9)", "(and (>= Y_0 9) (>= Y_1 9))"):
        for low, status in ((-1.0, "timeout"), (0.1, "unsat")):
            prop = parse_vnnlib(properties([(low, 1.0)] * n, 2, said))
            assert verify(network, prop, timeout=2 if status == "timeout" else 60).status == status


def test_a_mask_of_minus_infinity_is_read_and_a_whole_row_of_it_is_not() -> None:
    x = torch.tensor([[[0.3, 0.1], [0.2, 0.9]]]).double()
    region = bounds.Linf(x, 0.1)
    for mask, known in (([[0.0, -torch.inf], [0.0, 0.0]], True), ([[-torch.inf] * 2, [0.0, 0.0]], False)):

        def f(x: Tensor, mask: list[list[float]] = mask) -> Tensor:
            return torch.softmax(
                x
                + torch.full((2, 2), 1.0) * torch.tensor(1.0)
                + torch.stack([torch.cat([torch.full((1,), value) for value in row]) for row in mask]),
                -1,
            )

        network = bounds.trace(Function(f), x).bind(dtype=torch.float64)
        found = bounds.output_bounds(network, region, bounds.Crown())
        assert bool(torch.isfinite(found.lower[0, 0]).all()) is known
        assert torch.isfinite(found.lower[0, 1]).all()


@pytest.mark.parametrize("variance", [0.0, -1.0])
def test_a_normalisation_by_no_variance_is_refused(variance: float) -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2, eps=1e-9), torch.nn.Sigmoid()).eval()
    graph = bounds.trace(network, torch.rand(2, 2))
    graph.bind()
    network[0].running_var.fill_(variance - 1e-9)
    with pytest.raises(bounds.InvalidInput, match="the root of a variance"):
        graph.bind()


@pytest.mark.parametrize("method", METHODS)
def test_a_maximum_of_unknown_units_is_unknown(method: str) -> None:
    """Also in windows that hold padding besides, and of rows that ask for one side alone."""
    pool = torch.nn.MaxPool1d(2, 2, padding=1)
    f = Function(lambda x: pool(torch.reciprocal(x.unsqueeze(1))).squeeze(1))
    x = torch.tensor([[0.1, 0.2, 0.1, 3.0]]).double()
    network = bounds.trace(f, x).bind(dtype=torch.float64)
    found = output_bounds(network, Ball("linf", x, 0.5).region(), METHODS[method])
    assert (found.lower[0, :2] == -torch.inf).all() and (found.upper[0, :2] == torch.inf).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_square_root_reaches_down_to_zero(method: str) -> None:
    x = torch.tensor([[0.2, 0.0, -3.0, 0.0]]).double()
    eps = torch.tensor([[0.5, 0.5, 0.5, 0.0]]).double().requires_grad_()
    f = Function(lambda x: torch.sqrt(x.square()))
    network = bounds.trace(f, x).bind(dtype=torch.float64)
    found = bounds.output_bounds(network, bounds.Linf(x, eps), METHODS[method])
    outputs = f(x + eps.detach() * torch.linspace(-1, 1, 2001).double()[:, None])
    assert (found.lower <= outputs + 1e-9).all() and (found.upper >= outputs - 1e-9).all()
    torch.testing.assert_close(found.upper[0], outputs.amax(0), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad((found.upper - found.lower).sum(), eps)
    assert torch.isfinite(gradient).all()


POSITIVE = {"Log": (-2.31, 0.7), "Sqrt": (0.31, 1.5)}
"""Operators on values in [0.1, 2], whose bounds hold there."""


@pytest.mark.parametrize("op", POSITIVE)
def test_a_file_of_such_an_operator_is_read_and_verified(op: str, tmp_path: Path) -> None:
    subject = open_onnx(saved(model([node(op, "x")], shape=("n", 2)), tmp_path))
    low, high = POSITIVE[op]
    for said, status in (
        (f"(<= Y_0 {low})", "unsat"),
        (f"(>= Y_1 {high})", "unsat"),
        (f"(>= Y_1 {high - 0.1})", "sat"),
    ):
        prop = parse_vnnlib(properties([(0.1, 2.0)] * 2, 2, said))
        assert verify(subject.network, prop, replay=subject.replay, timeout=60).status == status


def bowl(op: str) -> onnx.ModelProto:
    """op(x² − x + 0.3), whose least argument is 0.05; intervals of the whole of [0, 1] say −0.7."""
    nodes = [node("Mul", "x", "x", to="q"), node("Sub", "q", "x", to="s"), node("Add", "s", "c", to="t")]
    return model([*nodes, node(op, "t")], {"c": np.array(0.3, np.float32)}, shape=("n", 2))


@pytest.mark.parametrize(
    ("op", "said", "status"),
    [
        ("Reciprocal", "(>= Y_0 21)", "unsat"),
        ("Reciprocal", "(>= Y_0 19)", "sat"),
        ("Reciprocal", "(<= Y_1 3)", "unsat"),
        ("Log", "(<= Y_0 -3.1)", "unsat"),
        ("Log", "(<= Y_0 -2.9)", "sat"),
        ("Sqrt", "(<= Y_1 0.22)", "unsat"),
    ],
)
def test_a_box_whose_loose_bounds_leave_the_domain_is_split(
    op: str, said: str, status: str, tmp_path: Path
) -> None:
    subject = open_onnx(saved(bowl(op), tmp_path))
    prop = parse_vnnlib(properties([(0.0, 1.0)] * 2, 2, said))
    assert verify(subject.network, prop, replay=subject.replay, timeout=60).status == status
    box = bounds.Linf(torch.full((1, 2), 0.5).double(), 0.5)
    whole = bounds.output_bounds(subject.network, box, bounds.IBP())
    assert (whole.lower == -torch.inf).all() and (whole.upper == torch.inf).all()


def test_nothing_is_proved_of_a_region_that_leaves_the_domain(tmp_path: Path) -> None:
    """log is NaN on half of the box, so no bound of it holds there, however the box is split."""
    subject = open_onnx(saved(model([node("Log", "x")], shape=("n", 1)), tmp_path))
    prop = parse_vnnlib(properties([(-1.0, 1.0)], 1, "(>= Y_0 1)"))
    assert verify(subject.network, prop, replay=subject.replay, timeout=3).status == "timeout"


def test_an_import_is_compared_where_the_function_is_defined(tmp_path: Path) -> None:
    """log(x − 5) is NaN on images in [0, 1]; √(−x² − 1) is NaN everywhere, and there is nothing to compare."""
    five, minus = np.array(5.0, np.float32), np.array(-1.0, np.float32)
    shifted = model([node("Sub", "x", "c", to="a"), node("Log", "a")], {"c": five}, shape=("n", 3))
    import_onnx(saved(shifted, tmp_path))
    nodes = [node("Mul", "x", "x", to="q"), node("Mul", "q", "c", to="n"), node("Add", "n", "c", to="s")]
    nowhere = model([*nodes, node("Sqrt", "s")], {"c": minus}, shape=("n", 3))
    with pytest.raises(UserError, match="NaN or infinite on all random images"):
        import_onnx(saved(nowhere, tmp_path))


def test_an_import_that_is_nan_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(model([node("Log", "x")], shape=("n", 3)), tmp_path)
    for wrong in (lambda x: x.abs().log(), lambda x: torch.where(x < 0.5, torch.nan, x.log())):
        monkeypatch.setitem(importing.OPERATORS, "Log", lambda site, wrong=wrong: Step(wrong))
        with pytest.raises(UserError, match="differ by inf"):
            import_onnx(path)
