"""auto_LiRPA as an oracle: an independent implementation of the same bounds.

It refuses cases with known wrong results.

The adapter supports 0.3 and 0.7.1.  Both have these errors and limits:

* Average pooling that overlaps, or excludes its padding from the count, gives bounds that points of the ball violate.
* Patches mode does so behind grouped or dilated convolutions, and fails on CROWN for some residual networks.
* l2 and l1 balls do so if a layer that is not linear reads the input.
* A max pool has no CROWN bounds unless its stride equals its kernel.
* A normalisation needs constants with a batch axis.
* CROWN-Optimized leaves slopes behind that change later bounds; in 0.7 even those of the other side.
* An l2 or l1 ball before a convolution must have a single radius; for several, 0.3 adds an axis and 0.7 fails.

0.7 also relaxes sigmoid and tanh by other planes.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.crosscheck.lirpa_library import auto_lirpa, bounded_module, one_line
from certnas.errors import UserError
from certnas.models.normalize import Normalize

Method = Literal["IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized"]
"""auto_LiRPA's names of bound methods."""
ConvMode = Literal["matrix", "patches"]
"""auto_LiRPA's representations of a convolution in the backward pass."""

_METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")
_SIDES = ("lower", "upper")
_CLEAN_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class OracleUnusable(ValueError):
    """auto_LiRPA's result for this case is no evidence; `why` gives the reason."""

    def __init__(self, why: str) -> None:
        super().__init__(f"auto_LiRPA is no oracle here: {why}")
        self.why = why


@dataclass(frozen=True)
class Ascent:
    """Settings of CROWN-Optimized's search for slopes; the defaults are auto_LiRPA's.

    Raises UserError for a value out of range.
    """

    iterations: int = 20
    """Number of bound evaluations. The first is CROWN's; one Adam step lies between two evaluations."""
    step: float = 0.5
    """Initial step size of Adam."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.step <= 0:
            raise UserError(
                f"Ascent takes iterations ≥ 1 and step > 0, got {self.iterations} and {self.step:g}"
            )


DEFAULT = Ascent()


@dataclass(frozen=True)
class LirpaBounds:
    """auto_LiRPA's bounds of specification rows: it claims lower ≤ rows·f(x') ≤ upper."""

    lower: Tensor
    """Lower bounds. [N, S]"""
    upper: Tensor
    """Upper bounds; +∞ if the call requested lower bounds only. [N, S]"""
    clean: Tensor
    """auto_LiRPA's evaluation of the network at the centre. [N, K]"""
    version: str
    """Version of auto_LiRPA."""
    seconds: float
    """Wall-clock seconds of the bound computation, without the conversion of the model."""
    cpu_seconds: float
    """CPU seconds of this process for the bound computation."""


def auto_lirpa_bounds(
    model: nn.Module,
    x: Tensor,
    eps: float | Tensor,
    norm: str,
    *,
    method: Method,
    rows: Tensor | None = None,
    upper: bool = True,
    ascent: Ascent = DEFAULT,
    conv_mode: ConvMode = "matrix",
    allow_unsound: bool = False,
) -> LirpaBounds:
    """auto_LiRPA's bounds of rows·f over the ball of radius eps around x.

    Args:
        model: maps [N, *shape] to [N, K].  It is copied and never changed.
        x: centres of the balls [N, *shape], float32 or float64, the dtype of the computation.  The balls are not
            intersected with a box.
        eps: radius in input units of the model, a number or one per image [N].
        norm: a key of `bounds.NORMS`.
        method: auto_LiRPA's name of the method.  CROWN-Optimized is α-CROWN.
        rows: specification [N, S, K] (None: all logits).
        upper: also compute upper bounds.
        ascent: settings of CROWN-Optimized.
        conv_mode: auto_LiRPA's representation of convolutions.
        allow_unsound: return bounds even if they are known to be wrong.

    Raises:
        OracleUnusable: auto_LiRPA fails; or, unless allow_unsound, its clean output differs from the model's, or it is
            known to return wrong bounds for the case.
        UserError: auto_LiRPA is not installed, or an argument is not accepted.

    Under CROWN, a unit that intervals prove stable for every image keeps its interval, and any other unit
    gets backward bounds.  The bounds of an image therefore depend on the other images of the batch.

    Xu et al. 2020, "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond".
    """
    _check_method(method)
    converted = Converted(model, x, norm, conv_mode=conv_mode, allow_unsound=allow_unsound)
    return converted.bounds(x, eps, method=method, rows=rows, upper=upper, ascent=ascent)


class Converted:
    """A model in auto_LiRPA's form. It is converted once for batches like x, and can be bounded any number of times."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        norm: str,
        *,
        conv_mode: ConvMode = "matrix",
        allow_unsound: bool = False,
    ) -> None:
        """Convert the model; only shape, dtype and device of x [N, *shape] matter.

        Raises as `auto_lirpa_bounds` does.
        """
        if norm not in bounds.NORMS:
            raise UserError(f"norm {norm!r} of auto_lirpa_bounds is not one of {', '.join(bounds.NORMS)}")
        if x.dtype not in _CLEAN_TOLERANCE:
            raise UserError(f"auto_lirpa_bounds takes x in float32 or float64, got {x.dtype}")
        self.norm, self.conv_mode, self.allow_unsound = norm, conv_mode, allow_unsound
        self.model = _with_batch_axis(copy.deepcopy(model).eval().to(x)).requires_grad_(False)
        with torch.no_grad():
            self.model(x.detach())
        with auto_lirpa(x.dtype) as (library, _):
            self.bounded = self._convert(library, x.detach())
        why = _known_wrong(self.bounded, norm, conv_mode)
        if why and not allow_unsound:
            raise OracleUnusable(why)

    def _convert(self, library: Any, x: Tensor) -> Any:
        try:
            bounded = bounded_module(library)(self.model, x, bound_opts={"conv_mode": self.conv_mode})
        except Exception as error:
            raise OracleUnusable(f"conversion failed: {type(error).__name__}: {one_line(error)}") from error
        for node in bounded.children():
            if type(node).__name__ == "BoundConv":
                node.interval_propagate = partial(_by_image, node.interval_propagate)
        return bounded

    def bounds(
        self,
        x: Tensor,
        eps: float | Tensor,
        *,
        method: Method,
        rows: Tensor | None = None,
        upper: bool = True,
        ascent: Ascent = DEFAULT,
    ) -> LirpaBounds:
        """The bounds of the converted model; arguments and result are those of `auto_lirpa_bounds`."""
        _check_method(method)
        x = x.detach()
        with auto_lirpa(x.dtype) as (library, version), torch.no_grad():
            expected = self.model(x)
            if rows is None:
                rows = torch.eye(expected.shape[1]).to(expected).expand(x.shape[0], -1, -1)
            try:
                clean = self.bounded(x).clone()
            except Exception as error:
                raise OracleUnusable(
                    f"evaluation failed: {type(error).__name__}: {one_line(error)}"
                ) from error
            why = _clean_differs(clean, expected)
            if why and not self.allow_unsound:
                raise OracleUnusable(why)
            if isinstance(eps, Tensor):
                # l∞ broadcasts eps against the image; other norms multiply it with a dual norm [N, rows]
                eps = eps.to(x).reshape(-1, *[1] * (x.dim() - 1 if self.norm == "linf" else 1))
            ball = library.perturbations.PerturbationLpNorm(norm=bounds.NORMS[self.norm].p, eps=eps)
            asked, specification = (library.BoundedTensor(x, ball),), rows.to(x).detach()
            sides: dict[str, Tensor] = {"upper": torch.full(rows.shape[:2], math.inf).to(x)}
            seconds = cpu_seconds = 0.0
            for bounded, asked_for in self._runs(library, x, method, upper, ascent):
                start, cpu = time.perf_counter(), time.process_time()
                try:
                    with torch.set_grad_enabled(method == "CROWN-Optimized"):
                        found = bounded.compute_bounds(
                            x=asked,
                            C=specification,
                            method=method,
                            **{f"bound_{side}": side in asked_for for side in _SIDES},
                        )
                except Exception as error:
                    raise OracleUnusable(
                        f"{method} failed: {type(error).__name__}: {one_line(error)}"
                    ) from error
                seconds += time.perf_counter() - start
                cpu_seconds += time.process_time() - cpu
                both = dict(zip(_SIDES, found, strict=True))
                sides |= {side: both[side].detach() for side in asked_for}
        return LirpaBounds(sides["lower"], sides["upper"], clean, version, seconds, cpu_seconds)

    def _runs(
        self, library: Any, x: Tensor, method: Method, upper: bool, ascent: Ascent
    ) -> Iterator[tuple[Any, Sequence[str]]]:
        """The converted models to run, each with the sides to compute.

        CROWN-Optimized leaves slopes behind that decide which units get bounds later, so each side has its
        own conversion.
        """
        asked_for = _SIDES[: 1 + upper]
        if method != "CROWN-Optimized":
            yield self.bounded, asked_for
            return
        for side in asked_for:
            bounded = self._convert(library, x)
            search = {"iteration": ascent.iterations, "lr_alpha": ascent.step}
            bounded.bound_opts["optimize_bound_args"].update(search)
            yield bounded, [side]


def _check_method(method: str) -> None:
    if method not in _METHODS:
        raise UserError(f"method {method!r} of auto_lirpa_bounds is not one of {', '.join(_METHODS)}")


def _by_image(interval_propagate: Any, *operands: Any, C: Any = None) -> tuple[Tensor, ...]:
    """Interval bounds [N, C, H, W] of a convolution over an l2 or l1 ball with one radius per image [N, 1].

    auto_LiRPA accepts a single radius here. The intervals are computed for radius 1, and their radii are
    scaled by eps.
    """
    ball = getattr(operands[0], "ptb", None)
    if ball is None or math.isinf(ball.norm) or not isinstance(ball.eps, Tensor):
        return tuple(interval_propagate(*operands, C=C))
    unit = copy.copy(ball)
    unit.eps = 1.0
    lower, upper = interval_propagate(type(operands[0])(*operands[0], ptb=unit), *operands[1:], C=C)
    centre, reach = (lower + upper) / 2, (upper - lower) / 2 * ball.eps.reshape(-1, 1, 1, 1)
    return centre - reach, centre + reach


def _with_batch_axis(model: nn.Module) -> nn.Module:
    """The same map with constants [1, C, 1, 1] in its normalisation, because auto_LiRPA fails on [C, 1, 1]."""
    for module in model.modules():
        if isinstance(module, Normalize):
            module.mean, module.std = module.mean.unsqueeze(0), module.std.unsqueeze(0)
    return model


def _known_wrong(bounded: nn.Module, norm: str, conv_mode: ConvMode) -> str | None:
    """The reason why the converted graph has bounds that are known to be wrong, or None."""
    nodes = dict(bounded.named_children())
    for name, node in nodes.items():
        kind, attributes = type(node).__name__, getattr(node, "attr", None) or {}
        if kind == "BoundAveragePool":
            kernel, stride = list(attributes["kernel_shape"]), list(attributes["strides"])
            if any(attributes.get("pads", [0])) and not attributes.get("count_include_pad", 0):
                return f"average pool {name} has count_include_pad=False, which it ignores"
            if stride != kernel or any(attributes.get("pads", [0])):
                return f"average pool {name} overlaps or is padded, which its backward pass ignores"
        if kind == "BoundConv" and conv_mode == "patches":
            if attributes["group"] > 1:
                return f"patches mode ignores the groups of convolution {name}; use conv_mode='matrix'"
            if any(d > 1 for d in attributes["dilations"]):
                return f"patches mode ignores the dilation of convolution {name}; use conv_mode='matrix'"
    if norm != "linf":
        reader = _reads_ball_as_box(bounded, nodes)
        if reader:
            return f"{reader} reads the input, where the {norm} ball gets width 0; feed normalised inputs"
    return None


def _reads_ball_as_box(bounded: Any, nodes: dict[str, nn.Module]) -> str | None:
    """The first node that reads the perturbed input and does not support an l2 or l1 ball."""
    pending = [name for name, node in nodes.items() if type(node).__name__ == "BoundInput"]
    while pending:
        for name in _readers(nodes, pending.pop()):
            kind = type(nodes[name]).__name__
            if kind in ("BoundReshape", "BoundFlatten"):
                pending.append(name)
            elif kind not in ("BoundConv", "BoundLinear"):
                return f"{kind.removeprefix('Bound')} {name}"
    return None


def _readers(nodes: dict[str, Any], name: str) -> list[str]:
    return [reader for reader, node in nodes.items() if any(i is nodes[name] for i in node.inputs)]


def _clean_differs(clean: Tensor, expected: Tensor) -> str | None:
    if clean.shape != expected.shape:
        return f"its clean output has shape {list(clean.shape)}, the model's {list(expected.shape)}"
    scale = expected.abs().amax().clamp(min=1.0).item()
    difference = (clean - expected).abs().amax().item()
    if not difference <= _CLEAN_TOLERANCE[expected.dtype] * scale:
        return f"its clean output differs from the model's by {difference:.3g}"
    return None
