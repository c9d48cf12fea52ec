"""The exact minimum of a linear form over a region, against linear programming, a dual search, points and gradcheck."""

import numpy as np
import pytest
import torch
from oracles import linear_minimum, sample_region
from torch import Tensor

import bounds
from bounds import InvalidInput, Linf

SHAPE = (2, 2, 3)
BOXES = {
    "no box": (None, None),
    "unit box": (0.0, 1.0),
    "lower only": (0.0, None),
    "upper only": (None, 1.0),
    "per channel": (
        torch.tensor([-0.1, 0.0]).double().reshape(2, 1, 1),
        torch.tensor([1.0, 1.3]).double().reshape(2, 1, 1),
    ),
}
RADII = {
    "scalar": 0.4,
    "small": 0.01,
    "large": 3.0,
    "per image": torch.tensor([0.05, 0.7]).double(),
    "per element": torch.linspace(0.02, 1.1, 24).double().flip(0).reshape(2, *SHAPE),
}


def image() -> Tensor:
    """Two images in [0, 1], some pixels on the faces."""
    x = torch.rand(2, *SHAPE).double()
    x[0, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    x[1, 1, 1] = torch.tensor([1.0, 1.0, 0.0])
    return x


def forms() -> Tensor:
    """Rows of several kinds: dense, sparse, one pixel, all equal, widely spread, zero.  [2, 6, *SHAPE]"""
    dense = torch.randn(2, *SHAPE).double()
    sparse = torch.where(torch.rand_like(dense) < 0.6, 0.0, dense)
    single = torch.zeros_like(dense)
    single[:, 1, 0, 2] = -1.5
    spread = dense * 10.0 ** torch.linspace(-2, 2, 12).double().reshape(SHAPE)
    return torch.stack(
        [dense, sparse, single, torch.full_like(dense, 0.7), spread, torch.zeros_like(dense)], 1
    )


def flat(value: float | Tensor | None, free: float) -> np.ndarray:
    tensor = torch.as_tensor(free if value is None else value, dtype=torch.float64)
    return tensor.expand(SHAPE).flatten().numpy()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("eps", RADII.values(), ids=RADII.keys())
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_minimum_equals_the_oracle(norm: str, eps: float | Tensor, box: tuple) -> None:
    x, coef = image(), forms()
    found = bounds.NORMS[norm](x, eps, *box).minimum(coef)
    low, high = flat(box[0], -np.inf), flat(box[1], np.inf)
    for n in range(2):
        radii = torch.as_tensor(eps, dtype=torch.float64)
        radii = radii if radii.dim() == 0 else radii[n]
        for s in range(coef.shape[1]):
            form = coef[n, s].flatten().numpy()
            scale = max(1.0, float(np.abs(form).max()))
            expected = linear_minimum(
                form / scale, x[n].flatten().numpy(), radii.flatten().numpy(), norm, low, high
            )
            assert found[n, s].item() / scale == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("eps", RADII.values(), ids=RADII.keys())
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_minimum_is_below_every_point(norm: str, eps: float | Tensor, box: tuple) -> None:
    x, coef = image(), forms()
    found = bounds.NORMS[norm](x, eps, *box).minimum(coef)
    generator = torch.Generator().manual_seed(0)
    points = sample_region(x, eps, norm, *box, count=3000, generator=generator)
    values = torch.einsum("nsd,pnd->pns", coef.flatten(2), points.flatten(2)).amin(0)
    assert (found <= values + 1e-12 * (1 + coef.abs().amax((2, 3, 4)))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_minimum_of_long_forms_is_never_above_the_true_one(
    norm: str, radius: float, dtype: torch.dtype
) -> None:
    """3,072 pixels: the minimiser is built greedily in float64 here, and its value bounds ours from above.

    The radii are met by no pixel, a few and many at the end of their room.
    """
    x = torch.rand(1, 3, 32, 32, dtype=dtype)
    coef = torch.randn(1, 20, 3, 32, 32, dtype=dtype)
    region = bounds.NORMS[norm](x, radius, 0.0, 1.0)
    found = region.minimum(coef).double()
    slope, centre = coef.double().flatten(2), x.double().flatten(1)[:, None]
    room = torch.where(slope > 0, centre, 1 - centre)
    if norm == "l1":
        order = slope.abs().argsort(-1, descending=True)
        sorted_room = room.gather(-1, order)
        spent = sorted_room.cumsum(-1) - sorted_room
        step = torch.minimum(sorted_room, (radius - spent).clamp(min=0))
        away = torch.zeros_like(room).scatter(-1, order, step)
    else:
        low, high = torch.zeros(1, 20, 1).double(), torch.full((1, 20, 1), 1e6).double()
        for _ in range(200):
            middle = (low + high) / 2
            fits = torch.minimum(slope.abs() * middle, room).norm(dim=-1, keepdim=True) <= radius
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        away = torch.minimum(slope.abs() * low, room)
    exact = (slope * (centre - away * slope.sign())).sum(-1)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    assert (found <= exact + tolerance * exact.abs()).all()
    torch.testing.assert_close(found, exact, rtol=10 * tolerance, atol=0)


@pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)], ids=["no box", "box"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_radius_of_zero_is_the_point_itself(norm: str, box: tuple) -> None:
    x, coef = image(), forms()
    found = bounds.NORMS[norm](x, 0.0, *box).minimum(coef)
    torch.testing.assert_close(found, (coef * x[:, None]).flatten(2).sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_some_radii_of_zero_leave_those_pixels_alone(norm: str) -> None:
    x, coef = image(), forms()
    eps = torch.full_like(x, 0.3)
    eps[:, 0] = 0.0
    whole = bounds.NORMS[norm](x, eps, 0.0, 1.0).minimum(coef)
    rest = bounds.NORMS[norm](x[:, 1:], 0.3, 0.0, 1.0).minimum(coef[:, :, 1:])
    torch.testing.assert_close(whole, rest + (coef * x[:, None])[:, :, 0].flatten(2).sum(-1))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_huge_radius_leaves_the_box_only(norm: str) -> None:
    x, coef = image(), forms()
    found = bounds.NORMS[norm](x, 1e6, 0.0, 1.0).minimum(coef)
    torch.testing.assert_close(found, coef.clamp(max=0).flatten(2).sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_box_of_a_region_is_its_shadow_on_each_axis(norm: str) -> None:
    x = image()
    region = bounds.NORMS[norm](x, 0.4, 0.0, 1.0)
    eye = torch.eye(12).double().reshape(1, 12, *SHAPE)
    torch.testing.assert_close(region.box().lower.flatten(1), region.minimum(eye))
    torch.testing.assert_close(region.box().upper.flatten(1), -region.minimum(-eye))


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_minimum_has_its_derivatives(norm: str, boxed: bool) -> None:
    """In the form, the centre and the radius, away from ties and from the faces of the box."""
    x = (0.15 + 0.7 * torch.rand(2, 6).double()).requires_grad_()
    coef = torch.randn(2, 3, 6).double().requires_grad_()
    box = (0.0, 1.0) if boxed else (None, None)
    for eps in (0.6, torch.tensor([0.3, 0.9]), 0.2 + torch.rand(2, 6)):
        radius = torch.as_tensor(eps).double().requires_grad_()

        def minimum(coef: Tensor, x: Tensor, radius: Tensor) -> Tensor:
            return bounds.NORMS[norm](x, radius, *box).minimum(coef)

        assert torch.autograd.gradcheck(minimum, (coef, x, radius))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_form_for_all_images_and_some_of_the_images(norm: str) -> None:
    x, coef = image(), forms()[:1]
    eps = RADII["per element"]
    region = bounds.NORMS[norm](x, eps, 0.0, 1.0)
    every = region.minimum(coef)
    torch.testing.assert_close(every, region.minimum(coef.expand(2, *coef.shape[1:])))
    torch.testing.assert_close(region.at(slice(1, 2)).minimum(coef), every[1:])


def test_minimum_in_single_precision_is_near_and_of_that_dtype() -> None:
    region = bounds.L2(image(), torch.tensor([0.1, 0.5]), 0.0, torch.ones(2, 1, 1).double())
    coef = forms()[:, :4]
    found = region.to(torch.float32).minimum(coef.float())
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), region.minimum(coef), rtol=1e-5, atol=1e-5)


NAN = torch.tensor([[0.1, float("nan")]])
WRONG = {
    "negative": (lambda: Linf(torch.zeros(1, 2), -0.1), "eps must be finite and ≥ 0, got -0.1"),
    "infinite": (lambda: Linf(torch.zeros(1, 2), float("inf")), "eps must be finite"),
    "nan radius": (lambda: Linf(torch.zeros(1, 2), torch.tensor([float("nan")])), "eps must be finite"),
    "nan image": (lambda: Linf(NAN, 0.1), "the image has NaN or infinite values"),
    "radii for other images": (
        lambda: Linf(torch.zeros(3, 2), torch.zeros(2)),
        "eps has 2 values for 3 images",
    ),
    "radii of another shape": (
        lambda: Linf(torch.zeros(3, 2), torch.zeros(3, 4)),
        r"per-element eps has shape \[3, 4\], the images \[3, 2\]",
    ),
    "below the box": (
        lambda: Linf(torch.full((1, 2), -0.5), 0.1, 0.0, 1.0),
        r"leaves the valid box: lower bound 0\.0",
    ),
    "above the box": (
        lambda: Linf(torch.full((1, 2), 1.5), 0.1, 0.0, 1.0),
        r"leaves the valid box: upper bound 1\.0",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_region_that_makes_no_sense_is_refused_in_one_line(make, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
