"""The benchmark of the machine's peak: operations counted by hand, convolutions found and repeated, shares of time."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import peak
from benchmarks.record import Record


def test_operations_are_counted_as_by_hand() -> None:
    """Strided: 6·7·7 outputs of 2·3·3 products each; depthwise: 4·5·5 of 9; transposed: every input, 2·9 times."""
    with peak.Convolutions() as seen:
        F.conv2d(torch.rand(1, 2, 15, 15), torch.rand(6, 2, 3, 3), stride=2)
        for _ in range(2):
            F.conv2d(torch.rand(3, 4, 7, 7), torch.rand(4, 1, 3, 3), groups=4)
        F.conv_transpose2d(torch.rand(1, 4, 5, 5), torch.rand(4, 2, 3, 3))
    found = {convolution.weight: (count, convolution.flops) for convolution, count in seen.counts.items()}
    assert found == {
        (6, 2, 3, 3): (1, 2 * 6 * 7 * 7 * 2 * 9),
        (4, 1, 3, 3): (2, 2 * 3 * 4 * 5 * 5 * 9),
        (4, 2, 3, 3): (1, 2 * 4 * 5 * 5 * 2 * 9),
    }


def test_a_convolution_by_itself_is_the_one_that_was_seen() -> None:
    with peak.Convolutions() as seen:
        F.conv2d(torch.rand(2, 4, 9, 8), torch.rand(6, 2, 3, 3), stride=2, padding=(1, 0), groups=2)
    (convolution,) = seen.counts
    for layout in peak.LAYOUTS.values():
        with peak.Convolutions() as again:
            out = convolution.plain(layout, "cpu")()
        assert again.counts == seen.counts and tuple(out.shape) == convolution.out


def test_an_entry_of_a_small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()
    monkeypatch.setitem(peak.NETWORKS, "small", lambda: (model, (1, 6, 6)))
    monkeypatch.setattr(peak, "SIDE", 64)
    monkeypatch.setattr(peak, "LEAST", 0.0)
    record = Record.open(tmp_path, "peak", {})
    entry = record.once("small", lambda: peak.measure("small", "cpu", 2))
    assert 0 < entry["flops"]["convolutions"] < entry["flops"]["all"]
    assert 0 < entry["plain_seconds"] < entry["seconds"] and entry["calls"] >= entry["distinct"] > 0
    assert 0 < peak.in_convolutions(entry) < 1 and sum(entry["shares"].values()) == pytest.approx(1, abs=0.1)
    assert peak.table(record).row_count == 1
    assert peak.picture(record).startswith(b"\x89PNG")
