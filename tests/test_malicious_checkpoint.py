"""Code in a checkpoint is named, and never run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from certnas.errors import UserError
from certnas.models import open_model


class Malice:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_checkpoint_does_not_run(form: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "net.pth", tmp_path / "marker"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Malice(marker), protocol=2))
    else:
        contents = {"fc1.weight": torch.ones(2), "a": Malice(marker)}
        torch.save(contents, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"running code that it names .*mkdir"):
        open_model(str(path), arch="mnist-fc-3layer")
    assert not marker.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists()  # so the file above is malicious indeed
