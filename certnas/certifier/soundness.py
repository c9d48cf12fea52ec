"""The one result that must never be: a radius proved beyond an adversarial example."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """One image whose proof and attack contradict each other, in the model's input units and float64."""

    index: int
    label: int
    norm: str
    method: str
    image: np.ndarray
    example: np.ndarray
    radius: float
    distance: float
    margin_proved: float
    margin_found: float

    def arrays(self) -> dict[str, np.ndarray]:
        """Every field as an array, ready for `numpy.savez`."""
        return {name: np.asarray(value) for name, value in vars(self).items()}


class SoundnessError(RuntimeError):
    """A certified radius exceeds the distance of a verified adversarial example; `.evidence` holds both."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        super().__init__(
            f"image {evidence.index}: the {evidence.norm} radius {evidence.radius:.9g} certified by "
            f"{evidence.method} "
            f"exceeds an adversarial example at distance {evidence.distance:.9g}; this is a bug in certnas, "
            "please report it with the evidence"
        )

    def __reduce__(self) -> tuple[type["SoundnessError"], tuple[Evidence]]:
        return type(self), (self.evidence,)
