"""Construction of an `Architecture` from the name of an architecture or of a Python factory."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from certnas.errors import UserError
from certnas.models.architectures import ARCHITECTURES, Architecture
from certnas.models.opened import first_line


def is_factory(name: str) -> bool:
    """True if `name` has the form package.module:function."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *function.split(".")])


def build(name: str, options: Mapping[str, object], *, input_shape: tuple[int, ...] | None) -> Architecture:
    """Build the architecture with this name, or call the factory package.module:function.

    The factory gets `options` as keywords. It returns an Architecture, or an nn.Module for images of
    `input_shape` (C, H, W). Torch's random state is restored. Raises UserError for an unknown name, option
    or return type, and if the factory fails.
    """
    with _importing_from_here(), torch.random.fork_rng(devices=[]):
        factory = _factory(name)
        _check_options(name, factory, options)
        try:
            built = factory(**options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name!r} with options {dict(options)} failed: {first_line(error)}") from error
    if isinstance(built, nn.Module):
        if input_shape is None:
            raise UserError(f"{name!r} does not define its input shape; give input_shape=(C, H, W)")
        return Architecture(built, input_shape)
    if not isinstance(built, Architecture):
        raise UserError(
            f"{name!r} returned an object of type {type(built).__name__}; accepted: a torch.nn.Module or a "
            "certnas.models.Architecture"
        )
    return built


def _factory(name: str) -> Callable[..., Any]:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if not is_factory(name):
        raise UserError(
            f"unknown architecture {name!r}; accepted: {', '.join(ARCHITECTURES)}, "
            "or a factory package.module:function"
        )
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(f"cannot import {module_name!r} for {name!r}: {first_line(error)}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise UserError(f"module {module_name!r} has no {path!r}, which {name!r} asks for")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(
            f"{name!r} is an object of type {type(found).__name__}; give a function that returns a network"
        )
    return found


def _check_options(name: str, factory: Callable[..., Any], options: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a built-in without a signature refuses unknown options itself
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        plain = [str(p.replace(annotation=p.empty)) for p in signature.parameters.values()]
        accepted = ", ".join(plain) or "none"
        raise UserError(f"architecture {name!r}: {error}; its options: {accepted}") from error


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """Context manager that makes modules of the working folder importable, after all installed ones."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
