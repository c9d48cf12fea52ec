"""What the adapter counts on in auto_LiRPA 0.3 and in 0.7, by a stand-in for each; which version Python finds."""

import sys
from pathlib import Path

import lirpa_stand_in as stand_in
import pytest
import torch
from torch import Tensor, nn

from certnas.crosscheck import Ascent, Converted, auto_lirpa_bounds, lirpa_version
from certnas.errors import UserError


@pytest.fixture(params=stand_in.VERSIONS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in for a version is what an import of auto_LiRPA finds."""
    for name, module in stand_in.modules(request.param).items():
        monkeypatch.setitem(sys.modules, name, module)
    return request.param


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).double().eval()


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def test_crown_is_the_same_before_and_after_a_search(version: str) -> None:
    x, model = images(), network()
    converted = Converted(model, x, "linf")
    first = converted.bounds(x, 0.1, method="CROWN")
    assert first.version == version
    torch.testing.assert_close(first.upper - first.lower, torch.full((2, 4), 2.0).double())
    searched = converted.bounds(x, 0.1, method="CROWN-Optimized")
    again = converted.bounds(x, 0.1, method="CROWN")
    assert torch.equal(first.lower, again.lower) and torch.equal(first.upper, again.upper)
    torch.testing.assert_close(searched.upper - searched.lower, torch.full((2, 4), 1.8).double())


def test_either_side_of_a_search_is_the_same_without_the_other(version: str) -> None:
    x, converted = images(), Converted(network(), images(), "linf")
    both = converted.bounds(x, 0.1, method="CROWN-Optimized")
    lower = converted.bounds(x, 0.1, method="CROWN-Optimized", upper=False)
    assert torch.equal(both.lower, lower.lower) and lower.upper.isposinf().all()


def test_slopes_leave_zero_and_the_search_is_as_asked(version: str) -> None:
    """The first of n evaluations is CROWN's; slopes start at 0, where torch's clamp has no gradient."""
    x, model = images(), network()
    widths = [
        auto_lirpa_bounds(
            model, x, 0.1, "linf", method="CROWN-Optimized", ascent=Ascent(iterations=n, step=0.25)
        )
        for n in (1, 2, 4)
    ]
    reach = [float((found.upper - found.lower).mean()) / 2 for found in widths]
    assert reach == pytest.approx([1.0, 1.0 - 0.025, 1.0 - 0.075], rel=1e-6)
    for relu in (stand_in.OldRelu, stand_in.BoundTwoPieceLinear):
        assert relu._relu_mask_alpha is stand_in._clamped
    assert "_relu_mask_alpha" not in vars(stand_in.NewRelu)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_each_image_has_its_own_radius_before_a_convolution(version: str, norm: str) -> None:
    x, model = images(3), network()
    eps = torch.tensor([0.1, 0.5, 0.2], dtype=torch.float64)
    found = auto_lirpa_bounds(model, x, eps, norm, method="IBP")
    length = model[0].weight.flatten(1).norm(dim=1).max()
    torch.testing.assert_close((found.upper - found.lower) / 2, (eps * length)[:, None].expand(-1, 4))
    for n in range(3):
        alone = auto_lirpa_bounds(model, x[n : n + 1], float(eps[n]), norm, method="IBP")
        torch.testing.assert_close(found.lower[n : n + 1], alone.lower, rtol=1e-12, atol=1e-12)


# -- the version --------------------------------------------------------------------------------------------


@pytest.fixture
def found_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, from which auto_LiRPA was not imported yet."""
    for name in [name for name in sys.modules if name.split(".")[0] == "auto_LiRPA"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def package(folder: Path, text: str) -> None:
    (folder / "auto_LiRPA").mkdir()
    (folder / "auto_LiRPA" / "__init__.py").write_text(text)


def test_the_version_is_that_of_what_an_import_finds(found_at: Path) -> None:
    """Not an installed copy's, which a checkout first on the path hides."""
    package(found_at, "from .more import nothing\n\n__version__ = '0.7.9'\n")
    assert lirpa_version() == "0.7.9"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("__version__ = '0.6.1'", "0.6.1 is what"),
        ('__version__ = "1.3"', "1.3 is what"),
        ("__version__ = '0.70'", "0.70 is what"),
        ("", "one without a version is what"),
    ],
)
def test_a_version_that_was_not_tried_is_refused_in_one_line(found_at: Path, text: str, named: str) -> None:
    package(found_at, text)
    with pytest.raises(UserError, match=f"works with auto_LiRPA 0.3 and 0.7, and {named}") as caught:
        auto_lirpa_bounds(network(), images(), 0.1, "linf", method="CROWN")
    assert "\n" not in str(caught.value) and "PYTHONPATH" in str(caught.value)


def test_what_it_needs_and_is_not_there_is_named_in_one_line(found_at: Path) -> None:
    package(found_at, "__version__ = '0.7.1'\nimport no_such_package\n")
    with pytest.raises(UserError, match=r"0.7.1 cannot be imported .*no_such_package.*graphviz") as caught:
        auto_lirpa_bounds(network(), images(), 0.1, "linf", method="CROWN")
    assert "\n" not in str(caught.value)
