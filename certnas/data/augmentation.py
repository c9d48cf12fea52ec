"""Random augmentation of training images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from certnas.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Random crop, horizontal flip and cutout. Raises UserError for a negative size."""

    crop: int = 0
    """Width of the black padding before the random crop, in pixels (0: no crop)."""
    flip: bool = False
    """True: flip half of the images horizontally."""
    cutout: int = 0
    """Side of the cutout square, in pixels (0: none). It lies anywhere, clipped at the border (DeVries &
    Taylor 2017).
    """

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: got {getattr(self, name)}; give a number of pixels, 0 for none")

    def __call__(self, x: Tensor, fill: Tensor, random: np.random.Generator) -> Tensor:
        """The augmented images [N,C,H,W] of images x [N,C,H,W]; fill [C] is the colour of the cutout."""
        count, _, height, width = x.shape
        if self.crop:
            top, left = (torch.from_numpy(random.integers(2 * self.crop + 1, size=count)) for _ in range(2))
            rows = (top[:, None] + torch.arange(height)).to(x.device)
            columns = (left[:, None] + torch.arange(width)).to(x.device)
            padded = functional.pad(x, (self.crop,) * 4).permute(0, 2, 3, 1)
            image = torch.arange(count, device=x.device)[:, None, None]
            x = padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
        if self.flip:
            flipped = torch.from_numpy(random.random(count) < 0.5).to(x.device)
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        if self.cutout:
            inside = self._band(random.integers(height, size=count), height, x.device)[:, None, :, None]
            inside = (
                inside & self._band(random.integers(width, size=count), width, x.device)[:, None, None, :]
            )
            x = torch.where(inside, fill.to(x)[:, None, None], x)
        return x

    def _band(self, centre: np.ndarray, size: int, device: torch.device) -> Tensor:
        """True for each pixel along one side of length `size` that the cutout of each centre covers. [N,size]"""
        first = torch.from_numpy(centre - self.cutout // 2).to(device)[:, None]
        at = torch.arange(size, device=device)
        return (at >= first) & (at < first + self.cutout)


AUGMENTATIONS: dict[str, Augmentation] = {
    "cifar10": Augmentation(crop=4, flip=True),
    "cifar100": Augmentation(crop=4, flip=True),
    "svhn": Augmentation(crop=4),
}
"""Data set -> default augmentation; other data sets have none."""
