"""Robustness metrics for architecture search.

A metric is a function of (network, batch) and does not depend on the search algorithm.

    metric = build_metric("cb", {"reading": "radius", "images": 16})
    session = metric.session()
    robustness = session(supernet, x, y)          # larger is more robust; a search minimises loss - gamma * robustness
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from certnas.errors import UserError
from certnas.nas.metrics.adversarial import FGSM, PGD, AdversarialLoss
from certnas.nas.metrics.curvature import Curvature
from certnas.nas.metrics.gain import CellGain
from certnas.nas.metrics.jacobian import JacobianNorm
from certnas.nas.metrics.margin import CertifiedLower, CertifiedMargin
from certnas.nas.metrics.metric import Metric, Session, State
from certnas.nas.metrics.none import NoMetric
from certnas.nas.metrics.radius import CertifiedRadius
from certnas.nas.metrics.scale import GammaScale, gradient_norm

READINGS: dict[str, type[Metric]] = {
    "radius": CertifiedRadius,
    "margin": CertifiedMargin,
    "lower": CertifiedLower,
    "gain": CellGain,
}
"""The readings of `cb`: reading name -> metric class. DSRNA (Wang et al. 2021, section 3.1.1) does not
define its "global lower bound"; each reading is one definition.
"""


def certified_bound(reading: str = "radius", **settings: Any) -> Metric:
    """Build the metric `cb` for one reading.

    `reading` is a key of READINGS. `settings` are the fields of that reading's class. Raises UserError for
    an unknown reading, an unknown setting, or a value of the wrong type.
    """
    if reading not in READINGS:
        raise UserError(f"metric cb: unknown reading {reading!r}; accepted: {', '.join(READINGS)}")
    return _built(READINGS[reading], f"metric cb, reading {reading}", settings)


METRICS: dict[str, Callable[..., Metric]] = {
    "none": NoMetric,
    "cb": certified_bound,
    "jacobian": JacobianNorm,
    "curvature": Curvature,
    "fgsm": FGSM,
    "pgd": PGD,
}
"""Metric name -> constructor. Each constructor takes the metric's settings as keywords."""


def build_metric(name: str, settings: Mapping[str, Any]) -> Metric:
    """Build the metric with this name.

    `settings` holds numbers and strings; settings that are absent keep their defaults. Raises UserError for
    an unknown name, an unknown setting, or a value of the wrong type.

    >>> build_metric("fgsm", {"eps": 0.01}).eps
    0.01
    """
    if name not in METRICS:
        raise UserError(f"metric: unknown name {name!r}; accepted: {', '.join(METRICS)}")
    make = METRICS[name]
    return _built(make, f"metric {name}", settings) if isinstance(make, type) else make(**settings)


def _built(kind: type[Metric], where: str, settings: Mapping[str, Any]) -> Metric:
    accepted = {field.name: type(field.default) for field in fields(kind)}
    for key, value in settings.items():
        if key not in accepted:
            raise UserError(
                f"{where}: unknown setting {key!r}; accepted: {', '.join(accepted) or 'none, it has no settings'}"
            )
        wanted = accepted[key]
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"{where}: {key} is {value!r}; give a value like {wanted.__name__}")
    return kind(**settings)


__all__ = [
    "FGSM",
    "METRICS",
    "PGD",
    "READINGS",
    "AdversarialLoss",
    "CellGain",
    "CertifiedLower",
    "CertifiedMargin",
    "CertifiedRadius",
    "Curvature",
    "GammaScale",
    "JacobianNorm",
    "Metric",
    "NoMetric",
    "Session",
    "State",
    "build_metric",
    "certified_bound",
    "gradient_norm",
]  # fmt: skip
