"""Factories that cannot be used: the whole line a user reads."""

from pathlib import Path
from typing import Any

import pytest

from certnas.errors import UserError
from certnas.models import open_model

FACTORIES = """
import torch

def plain(width=3, *, depth=1):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, depth), torch.nn.Linear(depth, width))

def seventeen():
    return 17

def failing():
    raise RuntimeError("no such luck\\nat all")

def stolid():
    return torch.nn.Flatten(0)

class Log(torch.nn.Module):
    def forward(self, x):
        return (-x.flatten(1) - 1).log()

class Picky(torch.nn.Module):
    def forward(self, x):
        raise ValueError("not these\\nor those")

constant = 3
"""

REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "arch of a factory": (
        "factories:plain",
        {"arch": "mnist-fc-3layer"},
        "'factories:plain' is the architecture: it takes no arch; leave it out",
    ),
    "no such module": (
        "absent.module:net",
        {},
        "cannot import 'absent.module' for 'absent.module:net': ModuleNotFoundError: No module "
        "named 'absent'",
    ),
    "no such function": (
        "factories:net",
        {},
        "module 'factories' has no 'net', which 'factories:net' asks for",
    ),
    "not a function": (
        "factories:constant",
        {},
        "'factories:constant' is an object of type int; give a function that returns a network",
    ),
    "not a network": (
        "factories:seventeen",
        {},
        "'factories:seventeen' returned an object of type int; accepted: a torch.nn.Module or a "
        "certnas.models.Architecture",
    ),
    "a factory that fails": (
        "factories:failing",
        {},
        "'factories:failing' with options {} failed: RuntimeError: no such luck",
    ),
    "a factory without a shape": (
        "factories:plain",
        {},
        "'factories:plain' does not define its input shape; give input_shape=(C, H, W)",
    ),
    "a network that fails": (
        "factories:Picky",
        {"input_shape": (3, 4, 4)},
        "factories:Picky cannot be evaluated on images of shape [3, 4, 4]: ValueError: not these",
    ),
    "one class": (
        "factories:plain",
        {"input_shape": (3, 2, 2), "arch_options": {"width": 1}},
        "factories:plain maps images [2, 3, 2, 2] to [2, 1]; accepted: logits [2, K], K ≥ 2",
    ),
    "no batch": (
        "factories:stolid",
        {"input_shape": (3, 2, 2)},
        "factories:stolid maps images [2, 3, 2, 2] to [24]; accepted: logits [2, K], K ≥ 2",
    ),
    "NaN logits": (
        "factories:Log",
        {"input_shape": (3, 2, 2)},
        "factories:Log maps a mid-grey image to NaN or infinite logits; its outputs must be finite",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_exact_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, options, line = REFUSALS[case]
    module = f"factories_{tmp_path.name}"  # a module is imported once in a process: its name must be new
    (tmp_path / f"{module}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        open_model(source.replace("factories", module), **options)
    assert str(refusal.value).replace(module, "factories") == line
