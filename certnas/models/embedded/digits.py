"""The architectures of the embedded networks: x [N,1,8,8] in [0, 1] pixels -> logits [N,10]."""

from collections.abc import Callable

from torch import nn

from certnas.nas.space.genotypes import Genotype
from certnas.nas.space.network import DiscreteNetwork

CELL = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1)),
    normal_concat=(2, 3),
    reduce=(("max_pool_3x3", 0), ("sep_conv_3x3", 1), ("skip_connect", 0), ("avg_pool_3x3", 1)),
    reduce_concat=(2, 3),
)


def digits_cnn() -> nn.Module:
    """Three 3×3 convolutions with ReLU, from 8×8 to 2×2, and a linear classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def digits_cell() -> nn.Module:
    """A normal and a reduction cell of two nodes each, from 8×8 to 4×4: pooling, skip, separable and dilated edges."""
    return DiscreteNetwork(CELL, 6, 2, 10, in_channels=1, reductions=(1,))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"digits-cnn": digits_cnn, "digits-cell": digits_cell}
"""Name -> factory of the untrained network; it draws from torch's random state."""
