"""The fast convolution is torch's, in every layout and kind, and so are its derivatives."""

import pytest
import torch
import torch.nn.functional as F

from bounds.operators import kernels
from bounds.operators.kernels import convolve

KINDS = {  # channels, filters, groups
    "dense": (6, 5, 1),
    "few channels": (3, 4, 1),
    "depthwise": (6, 6, 6),
    "several filters a channel": (4, 12, 4),
    "grouped": (6, 4, 2),
    "one channel": (1, 3, 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kernel, padding, dilation", [((3, 3), 1, 1), ((1, 1), 0, 1), ((3, 2), 2, 2), ((5, 1), 0, 1)]
)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("image", [(5, 6), (11, 12)], ids=["small image", "large image"])
def test_equals_torch(kind, dtype, kernel, padding, dilation, last, image):
    channels, filters, groups = KINDS[kind]
    random = torch.Generator().manual_seed(0)
    x = torch.randn(7, channels, *image, generator=random, dtype=dtype)
    weight = torch.randn(filters, channels // groups, *kernel, generator=random, dtype=dtype)
    wanted = F.conv2d(x, weight, None, 1, padding, dilation, groups)
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    found = convolve(given, weight, [padding] * 2, [dilation] * 2, groups)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "size, kernel, padding, dilation", [(1, 3, 1, 1), (1, 3, 2, 1), (2, 2, 1, 1), (3, 2, 2, 2)]
)
def test_very_small_images(kind, dtype, size, kernel, padding, dilation):
    channels, filters, groups = KINDS[kind]
    random = torch.Generator().manual_seed(0)
    x = torch.randn(120, channels, size, size, generator=random, dtype=dtype)
    weight = torch.randn(filters, channels // groups, kernel, kernel, generator=random, dtype=dtype)
    wanted = F.conv2d(x, weight, None, 1, padding, dilation, groups)
    torch.testing.assert_close(convolve(x, weight, [padding] * 2, [dilation] * 2, groups), wanted)


def test_derivatives_of_very_small_images():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(16, 2, 2, 2, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, generator=random, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: convolve(*given, [1, 1], [1, 1], 1), (x, weight))


@pytest.mark.parametrize("kind", ["dense", "depthwise", "several filters a channel"])
@pytest.mark.parametrize("small", [0, 100])
def test_blocks_and_derivatives(kind, small, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 100)
    monkeypatch.setattr(kernels, "SMALL", small)
    channels, filters, groups = KINDS[kind]
    random = torch.Generator().manual_seed(1)
    x = torch.randn(3, channels, 4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(
        filters, channels // groups, 3, 3, generator=random, dtype=torch.float64, requires_grad=True
    )
    torch.testing.assert_close(
        convolve(x, weight, [1, 1], [1, 1], groups), F.conv2d(x, weight, None, 1, 1, 1, groups)
    )
    assert torch.autograd.gradcheck(lambda *given: convolve(*given, [1, 1], [1, 1], groups), (x, weight))


def test_no_images():
    assert convolve(
        torch.zeros(0, 6, 4, 4).double(), torch.ones(6, 1, 3, 3).double(), [1, 1], [1, 1], 6
    ).shape == (0, 6, 4, 4)
