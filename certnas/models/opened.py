"""A network that is ready for certification, and the checks on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.preprocessing import Preprocessing, preprocessed


@dataclass(frozen=True)
class OpenedModel:
    """A classifier x [N, C, H, W] in [0, 1] pixels -> logits [N, K], ready for certification."""

    module: nn.Module
    """The network, with its preprocessing as first layers: float32, on the CPU, in evaluation mode, without
    gradients.
    """
    name: str
    """Name of the network for messages and results."""
    input_shape: tuple[int, ...]
    """Shape of an image (C, H, W), or of another input."""
    classes: int
    """The number K of logits."""
    origin: str
    """A line about the source of the network."""
    sha256: str
    """Digest of the names, shapes, types and values of all parameters and buffers."""


def finish(
    architecture: Architecture,
    asked: Preprocessing,
    *,
    images: tuple[int, ...] | None,
    name: str,
    origin: str,
) -> OpenedModel:
    """The architecture's module with its preprocessing, ready to certify images of shape `images`.

    Raises UserError if a parameter or buffer is not finite, if the preprocessing does not fit, or if the
    module does not map [2, C, H, W] to finite logits [2, K] with K at least 2.
    """
    whole, shape = preprocessed(architecture, asked, images, name)
    module = whole.to("cpu", torch.float32).eval().requires_grad_(False)
    for key, value in [*module.named_parameters(), *module.named_buffers()]:
        bad = int((~value.isfinite()).sum())
        if bad:
            raise UserError(
                f"{bad} of {value.numel()} values of {key} in {name} are NaN or infinite; every weight must "
                "be finite in float32: open another checkpoint"
            )
    classes = _classes(module, shape, name)
    return OpenedModel(module, name, shape, classes, origin, _digest(module))


def _classes(module: nn.Module, shape: tuple[int, ...], name: str) -> int:
    """The number K of logits, from an evaluation of two mid-grey images."""
    try:
        with torch.no_grad():
            logits = module(torch.full((2, *shape), 0.5))
    except Exception as error:
        raise UserError(
            f"{name} cannot be evaluated on images of shape {list(shape)}: {first_line(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        got = (
            list(logits.shape) if isinstance(logits, Tensor) else f"an object of type {type(logits).__name__}"
        )
        raise UserError(
            f"{name} maps images [2, {', '.join(map(str, shape))}] to {got}; accepted: logits [2, K], K ≥ 2"
        )
    if not logits.isfinite().all():
        raise UserError(f"{name} maps a mid-grey image to NaN or infinite logits; its outputs must be finite")
    return logits.shape[1]


def first_line(error: Exception) -> str:
    """The type of an exception and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers in the order of their names.

    Equal networks have equal digests on every machine.
    """
    digest = hashlib.sha256()
    for key, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(f"{key} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
