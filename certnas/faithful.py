"""Tests whether a traced graph computes the same function as its model, which every bound assumes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from certnas import bounds
from certnas.errors import UserError

SHARES = (1.0, 0.125, 1 / 64)
"""The distances of the tested points from the images, as shares of the largest radius."""
DOUBLE, OWN = 1e-9, 1e3
"""The accepted difference: 10⁻⁹ of the largest output in float64, or 10³ roundings in the model's own type."""
LEAST = 1e-3
"""The smallest output size to which a difference is compared."""


@runtime_checkable
class FromFile(Protocol):
    """A module that was read from a file which another program can run as well."""

    def compare(self, x: Tensor, y: Tensor) -> None:
        """Raises UserError, which names the node, if the file itself does not give y at x [N, *shape]."""


class Faithful:
    """Compares a model and its traced graph at points.

    It compares in float64 if a copy of the model computes in float64, otherwise in the model's own type.
    """

    def __init__(self, model: nn.Module, graph: bounds.Graph, device: torch.device | None = None) -> None:
        self.graph, self.own, self.device = graph, model, device
        self.dtype = dtype_of(model, torch.float32)
        self._double: nn.Module | bool | None = True
        self._beside: nn.Module | None = None

    def check(self, points: Tensor) -> None:
        """Compares model and graph at points [M, *shape] of the model's domain: single points with gradients, and the
        batch without.

        Every part of the model that was read from a file is also compared with the file's own runtime, at the inputs
        that the part receives for these points, in the model's own type. NaN on both sides counts as equal.
        Raises UserError if they differ, which names the first node that differs, and if bounds at a point do not
        contain the outputs there.
        """
        points = points.to(self.dtype)  # rounded to the model's own type, so that later casts are exact
        rounded = points
        model, dtype = self._model(points)
        network = self.graph.bind(dtype=dtype, device=self.device)
        points = points.to(dtype)
        tolerance = DOUBLE if dtype == torch.float64 else OWN * torch.finfo(dtype).eps
        try:
            with torch.no_grad():
                expected, got = model(points.clone()), network(points)
            alone = [_alone(model, point) for point in points.split(1)]
        except bounds.BoundsError:
            raise
        except Exception as error:  # a user's module may raise anything
            raise not_evaluated(points, error) from error
        expected, single = first_output(expected), [first_output(value).detach() for value in alone]
        for own, what in (
            (expected, "the traced network"),
            (_joined(single), "the model on one image alone"),
        ):
            if own is None or own.shape != got.shape:
                shape = None if own is None else list(own.shape)
                raise UserError(
                    f"{what} and the model differ in shape: {list(got.shape)} for {len(points)} images, not {shape}; "
                    "a network must give each image one row of scores, also a batch of one (squeeze() drops it)"
                )
            found = difference(own, got)
            if found > tolerance:
                if own is not expected:
                    _refuse_by_mode(model, points, expected, tolerance)
                where = self._where(model, network, points, tolerance) if own is expected else ""
                raise UserError(
                    f"{what} differs from the model by {found:.1e} of the largest output; accepted: {tolerance:.0e}, "
                    f"so nothing is certified{where}"
                )
        self._bounded(network, points, expected, tolerance)
        self._check_files(rounded)

    def _bounded(self, network: bounds.Network, points: Tensor, expected: Tensor, tolerance: float) -> None:
        """Checks that bounds at the points themselves contain one linear form of the model's outputs at each point.

        Bounds hold for real arithmetic; where large numbers cancel, the model's rounding may leave them.
        """
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        row = (row / row.flatten(1).abs().sum(1).reshape(-1, *[1] * (row.dim() - 1))).to(expected)
        rows, own = torch.stack([row, -row], 1), (row * expected).flatten(1).sum(1)
        with torch.no_grad():
            lower = bounds.lower_bounds(network, bounds.Linf(points, 0.0), rows, bounds.CrownIBP())
        missed = torch.maximum(lower[:, 0] - own, lower[:, 1] + own)
        missed = torch.where(own.isfinite(), missed, -torch.inf)
        found = float(missed.max()) / max(largest(expected), LEAST) if len(missed) else 0.0
        if found > tolerance:
            raise UserError(
                f"at the images themselves the bounds miss the model's outputs by {found:.1e} of the largest; "
                f"accepted: {tolerance:.0e}: the model adds and subtracts numbers so large that "
                "rounding dominates, so nothing is certified"
            )

    def _check_files(self, points: Tensor) -> None:
        """Compares the parts of the model that were read from files with the files."""
        if not any(isinstance(part, FromFile) for part in self.own.modules()):
            return
        if (
            self._beside is None
        ):  # on the CPU, where other programs run the file, and where float32 is float32
            same = points.device.type == "cpu"
            self._beside = self.own if same else copy.deepcopy(self.own).cpu()
        given: dict[nn.Module, Tensor] = {}
        results: list[tuple[FromFile, Tensor, Tensor]] = []

        def before(part: nn.Module, inputs: Any) -> None:
            given[part] = inputs[0].clone()

        def after(part: Any, _: Any, output: Tensor) -> None:
            results.append((part, given[part], output.clone()))

        parts = [part for part in self._beside.modules() if isinstance(part, FromFile)]
        hooks = [part.register_forward_pre_hook(before) for part in parts]
        hooks += [part.register_forward_hook(after) for part in parts]
        try:
            with torch.no_grad():
                self._beside(points.cpu().clone())
        finally:
            for hook in hooks:
                hook.remove()
        for part, x, y in results:
            part.compare(x, y)

    def _model(self, points: Tensor) -> tuple[nn.Module, torch.dtype]:
        """The model in float64; the model itself if it does not compute in float64."""
        if self._double is True:
            self._double = None
            if self.dtype == torch.float64:
                self._double = self.own
            else:
                try:
                    double = copy.deepcopy(self.own).double()
                    with torch.no_grad():
                        if first_output(double(points[:1].double())).dtype == torch.float64:
                            self._double = double
                except (
                    Exception
                ):  # a copy of a user's module may raise anything; the model's own type is used
                    self._double = None
        return (
            (self.own, self.dtype)
            if not isinstance(self._double, nn.Module)
            else (self._double, torch.float64)
        )

    @torch.no_grad()
    def _where(self, model: nn.Module, network: bounds.Network, points: Tensor, tolerance: float) -> str:
        """A description of the first node whose value differs from the exported program's."""
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about its own program
                program = bounds.program_of(model, points[:2])
                seen = _Values(program.graph_module)
                seen.run(*_inputs(program, points))
            for node in network.graph.nodes.values():
                own, got = seen.values.get(node.name), None
                for name, value in network.run(points):
                    if name == node.name:
                        got = value
                        break
                if own is None or got is None or own.shape != got.shape:
                    continue
                if difference(own, got) > tolerance:
                    return f"; it first differs at {node.where()}"
        except Exception:  # where the program cannot be run node by node
            return "; the node cannot be named: the model cannot be run node by node"
        return "; the node cannot be named: torch.export itself reads the model otherwise"


class _Values(fx.Interpreter):
    """Runs a program and stores the value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value


def _inputs(program: torch.export.ExportedProgram, points: Tensor) -> Iterator[Tensor]:
    """The values of the program's placeholders, in order."""
    for spec in program.graph_signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            yield points
        elif spec.target in program.state_dict:
            yield program.state_dict[spec.target]
        else:
            yield program.constants[str(spec.target)]


def not_evaluated(x: Tensor, error: Exception) -> UserError:
    """The error for a model that fails on images x [N, *shape]."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UserError(f"the model cannot be evaluated on images of shape {list(x.shape[1:])}: {reason}")


def dtype_of(model: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """The floating-point type of the model's parameters and buffers; `otherwise` if there is none."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), otherwise)


def first_output(value: object) -> Tensor:
    """The output of the network; the first one if the model returns several."""
    while isinstance(value, (tuple, list)):
        value = value[0]
    if isinstance(value, dict):
        value = next(iter(value.values()))
    if isinstance(value, FakeTensor):
        raise UserError(
            "the model keeps a tensor from call to call outside of its parameters and buffers; accepted: models that "
            "are a function of their input"
        )
    if not isinstance(value, Tensor):
        raise UserError(f"the model returns {type(value).__name__}; accepted: a tensor of scores")
    return value


def _alone(model: nn.Module, point: Tensor) -> object:
    """The model's output for one image [1, *shape] as attacks and training compute it: with gradients recorded, and
    from another memory layout. A model that refuses these runs without them.
    """
    for laid_out in (_moved, torch.clone):
        try:
            with torch.enable_grad():
                return model(laid_out(point.clone().requires_grad_()))
        except Exception:  # some models write to a view, which is an error while gradients are recorded
            continue
    return _plainly(model, point)


def _moved(point: Tensor) -> Tensor:
    """The same numbers in another memory order, with an offset in memory."""
    axes = range(point.dim() - 1, -1, -1)
    turned = point.permute(*axes)
    return torch.stack([torch.zeros_like(turned), turned])[1].permute(*axes)


def _plainly(model: nn.Module, point: Tensor) -> object:
    with torch.no_grad():
        return model(point.clone())


def _refuse_by_mode(model: nn.Module, points: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raises UserError if single points give other outputs, but the expected ones without gradients."""
    plain = _joined([first_output(_plainly(model, point)) for point in points.split(1)])
    if plain is not None and plain.shape == expected.shape and difference(plain, expected) <= tolerance:
        raise UserError(
            "the model computes otherwise where gradients are recorded (torch.is_grad_enabled, requires_grad, grad_fn) "
            "or where an image lies otherwise in memory (strides, storage_offset) than under torch.no_grad; accepted: "
            "a model that computes one function"
        )


def _joined(alone: list[Tensor]) -> Tensor | None:
    return torch.cat(alone) if all(value.dim() and len(value) == 1 for value in alone) else None


def gap(own: Tensor, got: Tensor) -> float:
    """max |own − got|; infinite where only one side is NaN or infinite."""
    same = (own == got) | (own.isnan() & got.isnan())
    apart = torch.where(same, torch.zeros_like(own), own - got).abs()
    return float(torch.nan_to_num(apart, nan=torch.inf, posinf=torch.inf).max()) if own.numel() else 0.0


def largest(values: Tensor) -> float:
    """The largest absolute value among the finite values; 0 if there is none."""
    finite = values[values.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def difference(own: Tensor, got: Tensor) -> float:
    """max |own − got| / max(|own|, 10⁻³): the minimum size ignores the rounding of values that cancel to nearly 0."""
    return gap(own, got) / max(largest(own), LEAST)


def points_about(
    x: Tensor, order: float, end: Tensor, box: tuple[float, float] | None, seed: int = 0
) -> Tensor:
    """The images x [N, *shape], and one corner and one random point of a ball around each, clamped to the box.  [3N,
    *shape]

    order: the p of the norm. end: the largest radius that may be certified, [N]; one of `SHARES` of it is used.
    """
    generator = torch.Generator().manual_seed(seed)
    flat = x.detach().cpu().double().flatten(1)
    shares = torch.tensor([SHARES[i % len(SHARES)] for i in range(len(flat))]).double()
    radius = (torch.nan_to_num(end.detach().cpu().double(), posinf=1.0) * shares)[:, None]
    signs = (torch.rand(flat.shape, generator=generator) < 0.5).double() * 2 - 1
    if order == 1:
        place = torch.randint(flat.shape[1], (len(flat), 1), generator=generator)
        signs = torch.zeros_like(flat).scatter(1, place, signs.gather(1, place))
    drawn = torch.rand(flat.shape, generator=generator).double() * 2 - 1
    moved = [flat]
    for direction in (signs, drawn):
        length = torch.linalg.vector_norm(direction, order, dim=1, keepdim=True)
        moved.append(flat + radius * direction / length)
    points = torch.cat(moved)
    points = points if box is None else points.clamp(*box)
    return points.reshape(-1, *x.shape[1:]).to(x.device)


def points_within(lower: Tensor, upper: Tensor, count: int = 4, seed: int = 0) -> Tensor:
    """Random points, corners and the middle of a box.  lower, upper [*shape] -> [2·count + 1, *shape]"""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand((2 * count, *lower.shape), generator=generator).double()
    share[:count] = (share[:count] < 0.5).double()
    share = torch.cat([share, torch.full((1, *lower.shape), 0.5).double()])
    return lower + share.to(lower) * (upper - lower)
