"""A network that is ready to certify, and the checks that it passed to be one."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.normalize import Normalize


@dataclass(frozen=True)
class OpenedModel:
    """A classifier of [0, 1] pixels: module maps x [N, C, H, W] to logits [N, K].

    module is float32, on the CPU, in evaluation mode, its normalisation (if any) its first layer, its
    parameters not requiring gradients.  input_shape is (C, H, W), classes is K, sha256 the digest of the
    names, shapes, types and values of all parameters and buffers, origin a line that says where it came from.
    """

    module: nn.Module
    name: str
    input_shape: tuple[int, int, int]
    classes: int
    origin: str
    sha256: str


def finish(architecture: Architecture, *, name: str, origin: str) -> OpenedModel:
    """The architecture's module, its normalisation put first, made ready to certify.

    Raises UserError where a parameter or buffer is not finite, the normalisation does not fit, or the module
    does not map [2, C, H, W] to finite logits [2, K] with K at least 2.
    """
    module = _normalised(architecture, name).to("cpu", torch.float32).eval().requires_grad_(False)
    for key, value in [*module.named_parameters(), *module.named_buffers()]:
        bad = int((~value.isfinite()).sum())
        if bad:
            raise UserError(
                f"{bad} of {value.numel()} values of {key} in {name} are NaN or infinite; every weight must "
                "be finite in float32: open another checkpoint"
            )
    classes = _classes(module, architecture.input_shape, name)
    return OpenedModel(module, name, architecture.input_shape, classes, origin, _digest(module))


def _normalised(architecture: Architecture, name: str) -> nn.Module:
    mean, std = architecture.mean, architecture.std
    if mean is None and std is None:
        return architecture.module
    channels = architecture.input_shape[0]
    if mean is None or std is None or not len(mean) == len(std) == channels:
        raise UserError(
            f"{name} takes mean and std together, {channels} long each: one number per channel "
            f"(got mean {_listed(mean)}, std {_listed(std)})"
        )
    try:
        layer = Normalize(mean, std)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    return nn.Sequential(OrderedDict(normalize=layer, network=architecture.module))


def _listed(values: Sequence[float] | None) -> str:
    return "none" if values is None else str(list(values))


def _classes(module: nn.Module, shape: tuple[int, int, int], name: str) -> int:
    """K, found by evaluating two mid-grey images."""
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
    """The type and first line of an exception's text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _digest(module: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, by name: the same network has the same digest everywhere."""
    digest = hashlib.sha256()
    for key, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(f"{key} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
