"""What other projects' tests use: the assertions, the points behind them, and the pytest fixture as documented."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lirpa_networks import CASES, ready
from torch import Tensor, nn

import bounds
from certnas.testing import assert_bounds_sound, assert_matches_auto_lirpa, reached

ROOT = Path(__file__).parents[1]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


class Shifted(bounds.Method):
    """Interval bounds, too high by a share of their width."""

    def lower(self, state, coef: Tensor) -> Tensor:
        low, high = state.lower_bounds_by_intervals(coef), -state.lower_bounds_by_intervals(-coef)
        return low + 0.4 * (high - low)


@pytest.mark.parametrize("norm", sorted(bounds.NORMS))
@pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)])
def test_points_lie_in_the_region_and_reach_its_extremes(norm: str, box: tuple[float, float]) -> None:
    """The extremes of a linear function are reached exactly, and never passed."""
    x = torch.rand(2, 5, generator=torch.Generator().manual_seed(0)).double()
    region = bounds.NORMS[norm](x, 0.3, *box)
    rows = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1)).double()
    found = reached(lambda points: points, region, rows, samples=50)
    assert torch.allclose(found.lower, region.minimum(rows), atol=1e-9)
    assert torch.allclose(found.upper, -region.minimum(-rows), atol=1e-9)
    assert (found.lower >= region.minimum(rows) - 1e-9).all()


@pytest.mark.parametrize("norm", sorted(bounds.NORMS))
def test_sound_bounds_pass_and_unsound_ones_are_named(norm: str) -> None:
    x = torch.rand(3, 6)
    region = bounds.NORMS[norm](x.double(), 0.2, 0.0, 1.0)
    assert_bounds_sound(mlp(), x, region)
    with pytest.raises(
        AssertionError, match=r"shifted: a point of image \d's region takes output \d .* bound"
    ):
        assert_bounds_sound(mlp(), x, region, methods={"shifted": Shifted()})


def test_a_model_that_is_not_the_traced_one_fails() -> None:
    class Counting(nn.Module):
        """Its values change from call to call."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * float(self.calls)

    x = torch.rand(2, 3).double()
    with pytest.raises(AssertionError, match="away from the model"):
        assert_bounds_sound(Counting(), x, bounds.Linf(x, 0.1))


def test_the_model_is_left_alone() -> None:
    model = ready(CASES["batch norm"].build).float().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    assert_bounds_sound(model, x, bounds.Linf(x, 0.01), samples=10)
    assert_matches_auto_lirpa(model, x, 0.01, methods=["ibp"])
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


def test_matching_fails_in_one_line_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from certnas.crosscheck import comparison

    x = torch.rand(2, 6)
    assert_matches_auto_lirpa(mlp(), x, 0.05, norm="l2")
    monkeypatch.setitem(comparison.METHODS, "crown", (bounds.IBP(), "CROWN"))
    with pytest.raises(AssertionError, match=r"crown, linf 0\.05: certnas is looser by"):
        assert_matches_auto_lirpa(mlp(), x, 0.05)


def test_the_documented_example_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/testing.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "test_example.py").write_text(blocks[0])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "certnas.testing.plugin",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_is_registered_and_light() -> None:
    assert '"certnas.testing.plugin" = "certnas.testing.plugin"' in (ROOT / "pyproject.toml").read_text()
    code = "import sys, certnas.testing.plugin; assert 'bounds' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
