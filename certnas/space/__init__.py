"""The DARTS search space: operators, genotypes, discrete networks of cells and supernets."""

from certnas.space.genotypes import GENOTYPES, Genotype, parse_genotype, published_genotype
from certnas.space.network import DiscreteNetwork
from certnas.space.ops import OPS
from certnas.space.spaces import DARTS, SPACES, SearchSpace
from certnas.space.supernet import Supernet

__all__ = [
    "DARTS",
    "GENOTYPES",
    "OPS",
    "SPACES",
    "DiscreteNetwork",
    "Genotype",
    "SearchSpace",
    "Supernet",
    "parse_genotype",
    "published_genotype",
]
