"""The DARTS search space: operators, genotypes and networks of cells."""

from certnas.space.genotypes import GENOTYPES, Genotype, parse_genotype, published_genotype
from certnas.space.network import DiscreteNetwork
from certnas.space.ops import OPS

__all__ = ["GENOTYPES", "OPS", "DiscreteNetwork", "Genotype", "parse_genotype", "published_genotype"]
