"""The DARTS search space: operators, genotypes, networks of cells, supernets."""

from certnas.space.files import (
    PUBLISHED,
    SOURCES,
    GenotypeChosen,
    genotype_name,
    open_genotype,
    parse_architecture,
    read_genotype,
    write_genotype,
)
from certnas.space.frame import FRAMES, IMAGENET, SMALL, Frame
from certnas.space.genotypes import GENOTYPES, Genotype, parse_genotype, published_genotype
from certnas.space.network import DiscreteNetwork, parameter_count
from certnas.space.ops import OPS
from certnas.space.random_cells import matched_genotype, random_genotype
from certnas.space.robnets import ROBNETS, RobNet
from certnas.space.spaces import DARTS, SPACES, SearchSpace
from certnas.space.supernet import Supernet

__all__ = [
    "DARTS",
    "FRAMES",
    "GENOTYPES",
    "IMAGENET",
    "OPS",
    "PUBLISHED",
    "ROBNETS",
    "SMALL",
    "SOURCES",
    "SPACES",
    "DiscreteNetwork",
    "Frame",
    "Genotype",
    "GenotypeChosen",
    "RobNet",
    "SearchSpace",
    "Supernet",
    "genotype_name",
    "matched_genotype",
    "open_genotype",
    "parameter_count",
    "parse_architecture",
    "parse_genotype",
    "published_genotype",
    "random_genotype",
    "read_genotype",
    "write_genotype",
]
