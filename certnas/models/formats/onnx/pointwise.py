"""Importers of ONNX's elementwise operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from certnas.models.formats.onnx.site import Site, Step, integral, plain, scalar

FLOATS = (1, 10, 11)  # TensorProto.FLOAT, FLOAT16, DOUBLE: the network is evaluated in one type throughout
INTEGERS = {2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool}


def _divided(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="trunc") if integral(x, y) else x / y


def _setting(function: Callable[..., Tensor], **defaults: float) -> Callable[[Site], Step]:
    """The importer of an operator with one input whose float attributes are the function's arguments, in this order."""

    def importer(site: Site) -> Step:
        values = [float(site.attributes.get(name, default)) for name, default in defaults.items()]
        return Step(lambda x: function(x, *values))

    return importer


def _hard_sigmoid(x: Tensor, slope: float, offset: float) -> Tensor:
    return torch.clamp(x * slope + offset, 0.0, 1.0)


def _softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|), as 1/(1 + relu(−x)) − 1/(1 + relu(x)). Each part is monotone, so its intervals are exact."""
    return torch.reciprocal(1 + F.relu(-x)) - torch.reciprocal(1 + F.relu(x))


def _elu(site: Site) -> Step:
    return Step(partial(F.elu, alpha=float(site.attributes.get("alpha", 1.0))))


def _selu(site: Site) -> Step:
    alpha = site.attributes.get("alpha", 1.6732632423543772)
    gamma = site.attributes.get("gamma", 1.0507009873554805)
    if abs(alpha - 1.6732632) > 1e-5 or abs(gamma - 1.0507009) > 1e-5:
        raise site.refuse(f"alpha {alpha}, gamma {gamma}; accepted: the usual ones")
    return Step(F.selu)


def _gelu(site: Site) -> Step:
    approximate = site.attributes.get("approximate", b"none").decode()
    return Step(lambda x: F.gelu(x, approximate=approximate))


def _prelu(site: Site) -> Step:
    slope, x = list(site.constant(1).shape), site.shape()
    channels = x[1] if len(x) > 1 else 1
    aligned = [1] * (len(x) - len(slope)) + slope  # numpy's broadcasting
    if site.constant(1).numel() != 1 and aligned != [1, channels] + [1] * (len(x) - 2):
        raise site.refuse(f"slope {slope}; accepted: one number, or one per channel ({channels})")
    return Step(lambda x, slope: F.prelu(x, slope.reshape(-1)), (0, 1))


def _clip(site: Site) -> Step:
    limits = []
    for i, name in ((1, "min"), (2, "max")):
        value = site.given(name, i)
        limits.append(None if value is None else float(value))
    low, high = limits
    if low is None and high is None:
        return Step(lambda x: x)
    return Step(lambda x: torch.clamp(x, low, high))


def _extreme(
    function: Callable[[Tensor, Tensor], Tensor], clamp: Callable[[Tensor, float], Tensor]
) -> Callable[[Site], Step]:
    """Max or Min. With one scalar input it becomes a clamp, which has tight bounds."""

    def importer(site: Site) -> Step:
        count = len(site.present(len(site.inputs)))
        if count == 2 and site.computed(0) != site.computed(1):
            moving = 0 if site.computed(0) else 1
            limit = scalar(site.tensor(1 - moving))
            if limit is not None:
                return Step(lambda x: clamp(x, limit), (moving,))
        return Step(lambda *x: reduce(function, x), tuple(range(count)))

    return importer


def _total(site: Site) -> Step:
    return Step(lambda *x: reduce(torch.add, x), site.present(len(site.inputs)))


def _average(site: Site) -> Step:
    count = len(site.inputs)
    return Step(lambda *x: reduce(torch.add, x) / count, site.present(count))


def _power(site: Site) -> Step:
    exponent = scalar(site.tensor(1))
    if exponent is None:
        return Step(torch.pow, (0, 1))
    if exponent == 0.5:
        return Step(torch.sqrt)
    whole = int(exponent) if exponent == int(exponent) else exponent
    return Step(lambda x: torch.pow(x, whole))


def _cast(site: Site) -> Step:
    to = site.attributes.get("to")
    if to in FLOATS:
        return Step(lambda x: x if x.is_floating_point() else x.to(torch.float32))
    if to not in INTEGERS:
        raise site.refuse(f"to type {to}; accepted: floats and integers")
    if site.computed():
        raise site.refuse("turns what depends on the image into whole numbers")
    return Step(lambda x: x.to(INTEGERS[to]))


def _dropout(site: Site) -> Step:
    if site.has(2) and bool(site.constant(2)):
        raise site.refuse("is in training mode; export the network in evaluation mode")
    return Step(lambda x: x)


def _softmax(function: Callable[..., Tensor]) -> Callable[[Site], Step]:
    def importer(site: Site) -> Step:
        rank = len(site.shape())
        axis = site.axis(site.attributes.get("axis", -1 if site.opset >= 13 else 1))
        if site.opset < 13 and axis != rank - 1:
            raise site.refuse(f"axis {axis} of {rank} in opset {site.opset}; accepted: the last")
        return Step(lambda x: function(x, axis))

    return importer


POINTWISE: dict[str, Callable[[Site], Step]] = {
    "Abs": plain(torch.abs),
    "Add": plain(torch.add, 2),
    "Atan": plain(torch.atan),
    "Cast": _cast,
    "Ceil": plain(torch.ceil),
    "Clip": _clip,
    "Cos": plain(torch.cos),
    "Div": plain(_divided, 2),
    "Dropout": _dropout,
    "Elu": _elu,
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": _gelu,
    "HardSigmoid": _setting(_hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": plain(F.hardswish),
    "Identity": plain(lambda x: x),
    "LeakyRelu": _setting(F.leaky_relu, alpha=0.01),
    "Log": plain(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _extreme(torch.maximum, torch.clamp_min),
    "Mean": _average,
    "Min": _extreme(torch.minimum, torch.clamp_max),
    "Mish": plain(F.mish),
    "Mul": plain(torch.mul, 2),
    "Neg": plain(torch.neg),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(F.relu),
    "Selu": _selu,
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Softmax": _softmax(torch.softmax),
    "Softplus": plain(F.softplus),
    "Softsign": plain(_softsign),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub, 2),
    "Sum": _total,
    "Tanh": plain(torch.tanh),
}
