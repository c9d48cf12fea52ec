"""Runs third-party code without changing the state of the caller's process."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the generators, enables gradients, disables autocast, sets float32 as default type, and silences
    warnings.

    Afterwards, all of these and the random states of torch (CPU and `device`), numpy and Python are restored.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    default = torch.get_default_dtype()
    on_cuda = device.type == "cuda"
    try:
        with (
            torch.random.fork_rng(devices=[device] if on_cuda else []),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.set_default_dtype(torch.float32)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(
                seed
            )  # not torch.manual_seed: that also seeds every other device
            if on_cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(default)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
