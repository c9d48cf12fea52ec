"""What every test stands on: one thread per worker, explicit seeds, reproducible hypothesis runs."""

import os
import random
from pathlib import Path

import hypothesis
import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)
hypothesis.settings.register_profile("certnas", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("certnas")


def shared_dir() -> Path:
    """The folder of third-party data beside the repository; without it a test skips, except where CI=true."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        reason = f"no folder of third-party data at {folder.name}/ beside the repository"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI=true does not skip")
        pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, alone or in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
