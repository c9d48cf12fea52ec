"""A check that every data set must pass."""

import torch

from certnas.data import Dataset


def well_formed(data: Dataset) -> None:
    assert data.x.dtype == torch.float32 and data.x.ndim == 4 and data.x.is_contiguous()
    assert data.y.dtype == data.index.dtype == torch.int64
    assert len(data.x) == len(data.y) == len(data.index)
    assert data.x.min() >= 0 and data.x.max() <= 1
    assert data.y.min() >= 0 and data.y.max() < data.classes
