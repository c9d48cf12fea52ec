"""Networks of DARTS cells with a published genotype."""

from __future__ import annotations

from certnas.models.architectures.architecture import Architecture


def darts(
    *,
    genotype: str = "DARTS_V2",
    channels: int = 36,
    layers: int = 20,
    classes: int = 10,
    in_channels: int = 3,
    size: int = 32,
    auxiliary: int = 0,
) -> Architecture:
    """A network of `layers` cells with CIFAR-10's normalisation; auxiliary=1 adds the auxiliary head.

    genotype is a published name, a file or a text, as in `certnas.nas.space.open_genotype`. Raises
    UserError for an unknown genotype, and for numbers that give no network. Liu et al. 2019, section 3.2.
    """
    from certnas.nas.space import DiscreteNetwork, open_genotype  # here because it imports this package

    module = DiscreteNetwork(
        open_genotype(genotype),
        channels,
        layers,
        classes,
        in_channels=in_channels,
        auxiliary=bool(auxiliary),
    )
    if in_channels != 3:
        return Architecture(module, (in_channels, size, size))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Architecture(module, (in_channels, size, size), mean=mean, std=std)
