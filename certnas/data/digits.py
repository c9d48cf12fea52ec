"""scikit-learn's 8×8 handwritten digits, and their split."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor


def load_digits_split(train: bool) -> tuple[Tensor, Tensor]:
    """The training or the held-out digits; the last third by index is held out (1198 and 599 images).

    x float32 [N,1,8,8] in [0, 1], y int64 [N].
    """
    digits = load_digits()
    x = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1) / 16
    y = torch.from_numpy(digits.target).to(torch.int64)
    held_out_from = len(y) - len(y) // 3
    part = slice(None, held_out_from) if train else slice(held_out_from, None)
    return x[part], y[part]
