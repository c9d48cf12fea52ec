"""Augmentations against what each may and may not do to an image."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from certnas.data.augmentation import Augmentation
from certnas.errors import UserError

X = torch.arange(1.0, 1 + 200 * 2 * 5 * 6).reshape(200, 2, 5, 6)  # every pixel differs, none is black
FILL = torch.tensor([-1.0, -2.0])


def test_a_crop_is_a_window_of_the_padded_image_and_each_window_occurs() -> None:
    out = Augmentation(crop=2)(X, FILL, np.random.default_rng(0))
    seen = set()
    for image, padded in zip(out, functional.pad(X, (2, 2, 2, 2)), strict=True):
        at = [
            (i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 5, j : j + 6], image)
        ]
        assert len(at) == 1
        seen.add(at[0])
    assert len(seen) == 25


def test_a_flip_is_a_mirror_of_about_half_the_images() -> None:
    out = Augmentation(flip=True)(X, FILL, np.random.default_rng(0))
    mirrored = [torch.equal(image, x.flip(2)) for image, x in zip(out, X, strict=True)]
    assert all(m or torch.equal(i, x) for m, i, x in zip(mirrored, out, X, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_cutout_is_one_filled_square_met_with_the_image(side: int) -> None:
    out = Augmentation(cutout=side)(X, FILL, np.random.default_rng(0))
    cut = (out == FILL[:, None, None]).all(1)
    assert torch.equal(torch.where(cut[:, None], X, out), X)
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    assert torch.equal(cut.sum((1, 2)), heights * widths)
    assert heights.max() == widths.max() == side
    assert cut.any(0).all()


def test_nothing_asked_nothing_done_and_the_same_draw_the_same_images() -> None:
    assert torch.equal(Augmentation()(X, FILL, np.random.default_rng(0)), X)
    every = Augmentation(crop=1, flip=True, cutout=2)
    one, two, other = (every(X, FILL, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_negative_sizes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: got -1; give a number of pixels"):
        Augmentation(**{name: -1})
