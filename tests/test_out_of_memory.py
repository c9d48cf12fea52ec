"""Memory that runs out: smaller blocks, fewer images, one warning, one line; the same results."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import bounds
import certnas
from bounds.chunking import budget, free_memory
from bounds.passes.crown import lower_bound
from certnas.data import load
from certnas.models import open_model
from cli.main import main


def no_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def no_cpu_memory() -> None:
    """More than any address space holds: what the allocator really raises."""
    torch.empty(2**50, dtype=torch.uint8)


class Room:
    """A backward pass that has room for so many rows at once; `sizes`: the rows of each that was tried."""

    def __init__(self, rows: int, fail: Callable[[], None]) -> None:
        self.rows, self.fail = rows, fail
        self.sizes: list[int] = []

    def __call__(self, *arguments: Any) -> Tensor:
        found = lower_bound(*arguments)
        self.sizes.append(found.numel())
        if found.numel() > self.rows:
            self.fail()
        return found


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Room]]:
    def put(rows: int, fail: Callable[[], None] = no_gpu_memory) -> Room:
        made = Room(rows, fail)
        monkeypatch.setattr("bounds.rows.lower_bound", made)
        return made

    yield put


def setting() -> tuple[bounds.Network, bounds.Region, Tensor]:
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    ).double()
    x = torch.rand(3, 1, 6, 6).double()
    model(x)
    region = bounds.Linf(x, torch.tensor([0.02, 0.05, 0.1]), 0.0, 1.0)
    return (
        bounds.trace(model, x).bind(),
        region,
        bounds.margins(torch.tensor([0, 3, 4]), 5, dtype=torch.float64),
    )


METHODS = {
    "crown-ibp": bounds.CrownIBP(),
    "zonotope+crown": bounds.ZonotopeCrown(),
    "crown": bounds.Crown(),
    "alpha-crown": bounds.AlphaCrown(iterations=2),
}


@pytest.mark.parametrize("fail", [no_gpu_memory, no_cpu_memory])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_smaller_blocks_give_the_same_bounds_and_it_is_said_once(
    method: bounds.Method, fail: Callable[[], None], room: Callable[..., Room]
) -> None:
    network, region, rows = setting()
    expected = bounds.lower_bounds(network, region, rows, method)
    tried = room(3, fail)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = bounds.lower_bounds(network, region, rows, method)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert [w.category for w in said] == [bounds.MemoryWarning]
    assert max(tried.sizes) > 3 >= tried.sizes[-1]


def test_a_block_is_halved_from_its_own_size_and_later_ones_start_there(room: Callable[..., Room]) -> None:
    """CROWN-IBP: one pass of 3 × 4 rows.  12, then of the 6 that may fit an image with its 4, then 2 at a time."""
    network, region, rows = setting()
    tried = room(3)
    with pytest.warns(bounds.MemoryWarning):
        bounds.lower_bounds(network, region, rows, bounds.CrownIBP())
    assert tried.sizes == [12, 4, 2, 2, 2, 2, 2, 2]


def test_gradients_are_those_of_enough_memory(room: Callable[..., Room]) -> None:
    network, region, rows = setting()
    found = []
    for enough in (10**6, 3):
        room(enough)
        eps = torch.tensor([0.02, 0.05, 0.1]).double().requires_grad_()
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            lower = bounds.lower_bounds(network, bounds.Linf(region.x, eps), rows, bounds.Crown())
        found.append(torch.autograd.grad(lower.sum(), eps)[0])
    assert found[0].abs().min() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


def test_a_row_without_room_is_one_clear_line(room: Callable[..., Room]) -> None:
    network, region, rows = setting()
    room(0)
    with (
        pytest.warns(bounds.MemoryWarning),
        pytest.raises(bounds.OutOfMemory, match="one row needs") as caught,
    ):
        bounds.lower_bounds(network, region, rows, bounds.Crown())
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_mistaken_for_memory(room: Callable[..., Room]) -> None:
    def wrong() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    network, region, rows = setting()
    tried = room(3, wrong)
    with pytest.raises(RuntimeError, match="mat1") as caught:
        bounds.lower_bounds(network, region, rows, bounds.CrownIBP())
    assert not isinstance(caught.value, bounds.BoundsError) and len(tried.sizes) == 1


def test_a_budget_of_one_call_does_not_shrink_another(room: Callable[..., Room]) -> None:
    network, region, rows = setting()
    before = budget(10**6, network.dtype, network.device)
    room(3)
    with pytest.warns(bounds.MemoryWarning):
        bounds.lower_bounds(network, region, rows, bounds.CrownIBP(), memory=10**6)
    assert budget(10**6, network.dtype, network.device) == before


def test_what_torch_holds_of_a_gpu_and_does_not_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("mem_get_info", (100, 900)), ("memory_reserved", 50), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 130


def no_room_for(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Forward affine forms have room for so many images at once; the images of each attempt."""
    from bounds.passes.zonotope import ZonotopePass

    run, tried = ZonotopePass.run, list[int]()

    def short(self: ZonotopePass) -> Any:
        tried.append(len(self.state.region.x))
        if tried[-1] > images:
            no_gpu_memory()
        return run(self)

    monkeypatch.setattr(ZonotopePass, "run", short)
    return tried


def test_a_batch_without_room_is_cut_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward forms know no blocks: fewer images are all that helps."""
    digits, model = load("digits", count=5), open_model("digits-cnn").module
    settings: dict[str, Any] = {"method": bounds.Zonotope(errors=4), "attack": False, "tol": 0.01}
    expected = certnas.certify(model, digits.x, digits.y, **settings)
    tried = no_room_for(2, monkeypatch)
    found = certnas.certify(model, digits.x, digits.y, **settings)
    assert max(tried) > 2 and found.index.tolist() == expected.index.tolist()
    assert found.status == expected.status and (expected.radius_lower > 0).any()
    assert found.radius_lower.tolist() == pytest.approx(expected.radius_lower.tolist(), rel=0.01)


def test_an_image_without_room_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    no_room_for(0, monkeypatch)
    asked = ["certify", "--images", "2", "--method", "zonotope", "--no-attack"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if "memory" in line] == [
        "certnas: error: out of memory: the bounds of 1 images do not fit on cpu; "
        "give fewer images at a time, or take a cheaper method"
    ]


def test_the_command_says_once_that_memory_ran_out(room: Callable[..., Room]) -> None:
    room(3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = CliRunner().invoke(
            main, ["certify", "--images", "2", "--method", "crown-ibp", "--no-attack"]
        )
    assert result.exit_code == 0
    said = [line for line in result.stderr.splitlines() if "memory" in line]
    assert said == [
        "certnas: out of memory: going on with smaller blocks of rows, which give the same bounds in more time"
    ]
