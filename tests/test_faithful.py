"""Trace and model are compared, and a difference refuses the network by name."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import bounds
import certnas
from certnas.errors import UserError
from certnas.faithful import Faithful, difference, points_about, points_within
from certnas.verifier import network_of


class Net(nn.Module):
    """A function of a linear layer of a 2×2 image, which knows the batch."""

    def __init__(self, function) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x.flatten(1)), x)


IMAGES = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def changed(graph: bounds.Graph, name: str, key: str, value: object) -> bounds.Graph:
    node = graph.nodes[name]
    nodes = {**graph.nodes, name: replace(node, arguments={**node.arguments, key: value})}
    return replace(graph, nodes=nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrong_node_is_named(dtype: torch.dtype) -> None:
    model = Net(lambda h, x: torch.relu(h * 2) + 1).to(dtype).eval()
    graph = bounds.trace(model, IMAGES.to(dtype))
    Faithful(model, graph).check(IMAGES)
    with pytest.raises(UserError, match=r"first differs at aten\.mul\.Tensor at node 'mul'") as caught:
        Faithful(model, changed(graph, "mul", "other", 2 + 1e-7)).check(IMAGES)
    assert "\n" not in str(caught.value)


REFUSED = {
    "a batch of one computes otherwise": lambda h, x: h * 2 if h.shape[0] == 1 else h,
    "a batch of one loses its dimension": lambda h, x: h[0] if h.shape[0] == 1 else h,
    "squeeze loses the batch of one": lambda h, x: h.unsqueeze(1).squeeze(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_company_must_not_change_the_values(name: str) -> None:
    model = Net(REFUSED[name]).eval()
    for ask in (
        lambda: certnas.certify(model, IMAGES, torch.zeros(6).long()),
        lambda: network_of(model, (1, 2, 2)),
    ):
        with pytest.raises(UserError, match=r"on one image alone"):
            ask()


def test_a_model_of_its_own_type_is_compared_in_it() -> None:
    """float64 meets a float32 weight of its own: the model is compared as it is."""
    weight = torch.rand(3, 3)
    model = Net(lambda h, x: h @ weight).eval()
    faithful = Faithful(model, bounds.trace(model, IMAGES))
    faithful.check(IMAGES)
    with pytest.raises(UserError, match="accepted: 1e-04"):
        Faithful(model, changed(faithful.graph, "linear", "bias", None)).check(IMAGES)


CANCELLING = {
    "a sum": lambda h, x: h * 4 + 1e16 - 1e16,
    "a sum that leaves some digits": lambda h, x: h + 1e12 - 1e12,
    "behind a nonlinearity": lambda h, x: torch.relu(h + 1e15) - 1e15,
}


@pytest.mark.parametrize("name", CANCELLING)
def test_rounding_that_bounds_do_not_know_is_refused(name: str) -> None:
    """Bounds are of real arithmetic, in which the large numbers cancel; the model computes in steps."""
    model = Net(CANCELLING[name]).eval()
    for ask in (
        lambda: certnas.certify(model, IMAGES, torch.zeros(6).long(), attack=False),
        lambda: network_of(model, (1, 2, 2)),
    ):
        with pytest.raises(UserError, match="rounding dominates, so nothing"):
            ask()


def test_a_model_that_raises_on_one_image_is_refused_in_one_line() -> None:
    model = Net(lambda h, x: nn.functional.batch_norm(h, None, None, training=True)).eval()
    with pytest.raises(UserError, match="cannot be evaluated on images of shape") as caught:
        certnas.certify(model, IMAGES, torch.zeros(6).long())
    assert "\n" not in str(caught.value)


def test_nan_on_both_sides_is_no_difference() -> None:
    nan, inf = float("nan"), float("inf")
    own = torch.tensor([nan, inf, 1.0])
    assert difference(own, own.clone()) == 0
    assert difference(own, torch.tensor([nan, inf, 1.5])) == 0.5
    assert difference(own, torch.tensor([0.0, inf, 1.0])) == inf
    assert difference(own, torch.tensor([nan, -inf, 1.0])) == inf
    model = Net(lambda h, x: torch.log(x.flatten(1)[:, :3] - 0.5)).eval()
    Faithful(model, bounds.trace(model, IMAGES)).check(IMAGES)


@pytest.mark.parametrize("order", [1.0, 2.0, float("inf")])
def test_the_points_lie_in_the_ball_and_the_box_and_reach_its_end(order: float) -> None:
    end = torch.full((6,), 0.1, dtype=torch.float64)
    points = points_about(IMAGES, order, end, None).flatten(1)
    apart = torch.linalg.vector_norm(points - IMAGES.double().flatten(1).repeat(3, 1), order, dim=1)
    assert torch.equal(points[:6], IMAGES.double().flatten(1))
    assert (apart <= 0.1 + 1e-12).all() and (apart > 0.0999).sum() >= 4
    boxed = points_about(IMAGES, order, 9 * end, (0.0, 1.0))
    assert boxed.min() >= 0 and boxed.max() <= 1


def test_the_points_of_a_box_are_corners_and_inner_ones() -> None:
    lower, upper = torch.full((1, 2, 2), -1.0).double(), torch.full((1, 2, 2), 2.0).double()
    points = points_within(lower, upper)
    corners = ((points == lower) | (points == upper)).flatten(1).all(1)
    assert corners.tolist() == [True] * 4 + [False] * 5 and (points[-1] == 0.5).all()


TWO_FUNCTIONS = {
    "is_grad_enabled": lambda h, x: h if torch.is_grad_enabled() else -h,
    "the image's requires_grad": lambda h, x: h if x.requires_grad else -h,
    "a layer's requires_grad": lambda h, x: h if h.requires_grad else -h,
    "grad_fn": lambda h, x: h if h.grad_fn is None else -h,
    "contiguous memory": lambda h, x: h if x.is_contiguous() else -h,
    "the place in memory": lambda h, x: h if x.storage_offset() == 0 else -h,
}


@pytest.mark.parametrize("name", TWO_FUNCTIONS)
def test_a_model_that_is_two_functions_is_refused_by_name(name: str) -> None:
    """Values must not depend on whether gradients are recorded, nor on where an image lies in memory."""
    model = Net(TWO_FUNCTIONS[name]).eval()
    for ask in (
        lambda: certnas.certify(model, IMAGES, torch.zeros(6).long(), attack=False),
        lambda: network_of(model, (1, 2, 2)),
    ):
        with pytest.raises(UserError, match="a model that computes one function"):
            ask()


def test_a_model_that_runs_without_gradients_alone_is_no_other_function() -> None:
    """PyTorch forbids some writes to views where they are recorded; a contiguous input is all that some models take."""
    for function in (
        lambda h, x: h + x.view(-1, 4)[:, :3],
        lambda h, x: torch.stack([piece.mul_(2.0) for piece in (h * 1).unbind(1)], 1),
        lambda h, x: torch.squeeze(h.unsqueeze(2)).reshape(-1, 3),
    ):
        model = Net(function).eval()
        Faithful(model, bounds.trace(model, IMAGES)).check(IMAGES)


def test_a_model_that_keeps_a_tensor_is_refused() -> None:
    kept = [torch.ones(3)]

    def function(h: Tensor, x: Tensor) -> Tensor:
        y, kept[0] = h + kept[0], -kept[0]
        return y

    with pytest.raises(UserError, match="keeps a tensor from call to call"):
        certnas.certify(Net(function).eval(), IMAGES, torch.zeros(6).long(), attack=False)


@pytest.mark.parametrize("wrapped", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapper_is_read_as_what_it_holds(wrapped) -> None:
    model = Net(lambda h, x: torch.relu(h)).eval()
    graph = bounds.trace(wrapped(model), IMAGES)
    torch.testing.assert_close(graph.bind()(IMAGES), model(IMAGES))


LAYERS = {
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "is not initialised; run the model"),
    "sparse": (lambda: Net(lambda h, x: h), "accepted: dense tensors"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_are_no_numbers_yet_are_refused(name: str) -> None:
    build, message = LAYERS[name]
    model = build().eval()
    if name == "sparse":
        model.register_buffer("eye", torch.eye(3).to_sparse())
    with pytest.raises(UserError, match=message):
        certnas.certify(model, IMAGES, torch.zeros(6).long())
