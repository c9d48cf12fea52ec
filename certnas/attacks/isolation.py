"""Running other people's code without a trace in the caller's process state."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Inside: generators seeded, gradients on, autocast off, default dtype float32, warnings silent.

    After: the states of torch (CPU and `device`), numpy and Python, and everything else above, as before.
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
