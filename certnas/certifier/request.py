"""Checks the arguments of the certifier before any work is done."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from certnas import bounds
from certnas.errors import UserError

T = TypeVar("T")
Box = tuple[float, float]
LEAST_TOL, MOST_TOL = 1e-5, 0.5
"""The accepted range of the relative tolerance."""


def random_class(logits: Tensor, y: Tensor, index: Sequence[int], seed: int) -> Tensor:
    """A uniformly random class other than y [N]; it depends only on the seed and the image's index."""
    classes = logits.shape[1]
    drawn = [int(np.random.default_rng([seed, i]).integers(classes - 1)) for i in index]
    target = torch.tensor(drawn, dtype=y.dtype, device=y.device)
    return target + (target >= y)


def least_likely(logits: Tensor, y: Tensor, index: Sequence[int], seed: int) -> Tensor:
    """The class other than y [N] with the smallest logit."""
    return logits.scatter(1, y[:, None], torch.inf).argmin(1)


def runner_up(logits: Tensor, y: Tensor, index: Sequence[int], seed: int) -> Tensor:
    """The class other than y [N] with the largest logit."""
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1)


Target = Callable[[Tensor, Tensor, Sequence[int], int], Tensor]
"""Maps logits [N, K], labels [N], image indices and a seed to target classes [N]."""
TARGETS: dict[str, Target | None] = {
    "all": None,
    "random": random_class,
    "least": least_likely,
    "runner-up": runner_up,
}


def chosen(what: str, name: str, options: dict[str, T]) -> T:
    """Returns options[name]; raises a UserError that lists the accepted names if there is none."""
    if name not in options:
        raise UserError(f"{what} {name!r} is unknown; accepted: {', '.join(options)}")
    return options[name]


def resolve_method(
    method: bounds.Method | str,
    *,
    slope: str | None = None,
    iterations: int | None = None,
    step: float | None = None,
    shared: bool | None = None,
    errors: int | None = None,
) -> bounds.Method:
    """Resolves a method or its name, and applies the given settings.

    Raises UserError for an unknown method or slope, or a setting that the method does not have.
    """
    value = chosen("method", method, bounds.METHODS) if isinstance(method, str) else method
    settings = {
        "slope": None if slope is None else chosen("slope", slope, bounds.SLOPES),
        "iterations": iterations,
        "step": step,
        "shared": shared,
        "errors": errors,
    }
    given = {name: setting for name, setting in settings.items() if setting is not None}
    if errors is not None and errors < 0:
        raise UserError(f"errors is {errors}; accepted: at least 0 error generators")
    owned = set(vars(value))
    for name in given:
        if name not in owned:
            owners = [n for n, m in bounds.METHODS.items() if name in vars(m)]
            raise UserError(
                f"{name} is not a setting of method {describe(value)}; it belongs to: {', '.join(owners)}"
            )
    return type(value)(**{**vars(value), **given})


def describe(method: bounds.Method) -> str:
    """The name of a method at the command line, with the settings that differ from the default."""
    for name, known in bounds.METHODS.items():
        if type(known) is type(method):
            changed = [
                f"{setting}={getattr(value, 'value', value)}"
                for setting, value in vars(method).items()
                if value != vars(known)[setting]
            ]
            return f"{name}({' '.join(changed)})" if changed else name
    return type(method).__name__


def check_numbers(tol: float, eps_max: float | None, batch_size: int, memory: int | None) -> None:
    """Raises UserError for an invalid tolerance, largest radius, batch size or memory budget."""
    if not LEAST_TOL <= tol <= MOST_TOL:
        raise UserError(f"tol is {tol:g}; accepted: a relative tolerance from {LEAST_TOL:g} to {MOST_TOL:g}")
    if eps_max is not None and not (eps_max > 0 and np.isfinite(eps_max)):
        raise UserError(
            f"eps-max is {eps_max:g}; accepted: a finite radius above 0, in input units ([0, 1] pixels)"
        )
    if batch_size < 1:
        raise UserError(f"batch-size is {batch_size}; accepted: at least 1 image")
    if memory is not None and memory < 1:
        raise UserError(f"memory is {memory}; accepted: a budget in bytes above 0")


def check_box(clip: Box | None, attack: bool) -> None:
    """Raises UserError for an empty box, or for a box that does not contain the attacks' [0, 1]."""
    if clip is not None and not clip[0] < clip[1]:
        raise UserError(f"clip is {clip}; accepted: (lower, upper) with lower < upper, or None")
    if clip is not None and attack and not (clip[0] <= 0 and clip[1] >= 1):
        raise UserError(f"clip is {clip}, but attacks search [0, 1]; widen the box or switch the attack off")


def check_images(x: Tensor, y: Tensor, clip: Box | None) -> None:
    """Raises UserError unless x [N, *shape] is floating point, finite and inside the box, and y [N] is integer."""
    if not x.is_floating_point() or x.dim() < 2:
        raise UserError(
            f"images are {x.dtype} of shape {list(x.shape)}; accepted: floats [N, *shape] in [0, 1]"
        )
    if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise UserError(f"labels are {y.dtype} of shape {list(y.shape)}; accepted: integers [{len(x)}]")
    if not len(x):
        raise UserError("there are no images; give at least one")
    if not bool(torch.isfinite(x).all()):
        raise UserError("images hold NaN or infinite values; accepted: floats in [0, 1]")
    if clip is not None and (float(x.min()) < clip[0] or float(x.max()) > clip[1]):
        raise UserError(
            f"images go from {float(x.min()):g} to {float(x.max()):g}; accepted: {clip[0]:g} to {clip[1]:g}"
            " (divide by 255; a normalisation belongs inside the model: mean and std), or no clipping"
        )


def check_model(model: nn.Module) -> torch.device:
    """The device of the model's parameters.

    Raises UserError unless the model is in evaluation mode, and its parameters are dense, finite float32 or float64.
    """
    if any(module.training for module in model.modules()):
        raise UserError(
            "the model is in training mode; a certificate needs fixed statistics: call model.eval()"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UserError(
                f"the model's {name} is not initialised; run the model on an image once, so that its size is known"
            )
        if tensor.layout is not torch.strided:
            raise UserError(
                f"the model's {name} is {tensor.layout}; accepted: dense tensors, call to_dense()"
            )
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"the model computes in {tensor.dtype}; accepted: float32 or float64, call model.float()"
            )
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in named:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"the model's {name} {list(tensor.shape)} holds NaN or infinite values; load another one"
            )
    return tensors[0].device if tensors else torch.device("cpu")


def check_logits(logits: Tensor, y: Tensor, index: Sequence[int]) -> None:
    """Raises UserError unless the scores are [N, K ≥ 2] and finite, and every label is one of the K classes."""
    if logits.dim() != 2 or logits.shape[0] != len(y) or logits.shape[1] < 2:
        raise UserError(
            f"the model gives {list(logits.shape)} for {len(y)} images; accepted: scores [N, classes]"
        )
    broken = ~torch.isfinite(logits).all(1)
    if bool(broken.any()):
        at = int(broken.nonzero()[0])
        raise UserError(
            f"the model maps image {index[at]} to NaN or infinity; nothing can be certified for it"
        )
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise UserError(
            f"labels range from {int(y.min())} to {int(y.max())}; "
            f"the model has classes 0 to {logits.shape[1] - 1}"
        )


def open_device(name: str) -> torch.device:
    """The device of that name; raises UserError if this machine has none."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device {name!r} cannot be used here ({reason}); accepted: cpu, cuda, cuda:N"
        ) from error
    return device
