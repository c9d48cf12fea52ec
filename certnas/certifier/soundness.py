"""The contradiction of a certified radius and an adversarial example within it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """One image whose proof and attack contradict each other, in the model's input units and float64."""

    index: int
    """The index of the image."""
    label: int
    """The label of the image."""
    norm: str
    """The name of the norm."""
    method: str
    """The method that proved the radius."""
    image: np.ndarray
    """The image, [*shape]."""
    example: np.ndarray
    """The adversarial example, [*shape]."""
    radius: float
    """The certified radius."""
    distance: float
    """The distance of the adversarial example from the image."""
    margin_proved: float
    """The lower bound of the least margin over the ball."""
    margin_found: float
    """The least margin at the adversarial example."""

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
