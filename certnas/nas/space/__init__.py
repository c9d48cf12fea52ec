"""The DARTS search space: candidate operators, genotypes, networks of cells, supernets."""

from certnas.nas.space.files import (
    PUBLISHED,
    SOURCES,
    GenotypeChosen,
    genotype_name,
    open_genotype,
    parse_architecture,
    read_genotype,
    write_genotype,
)
from certnas.nas.space.frame import FRAMES, IMAGENET, SMALL, Frame
from certnas.nas.space.genotypes import GENOTYPES, Genotype, parse_genotype, published_genotype
from certnas.nas.space.network import DiscreteNetwork, parameter_count
from certnas.nas.space.ops import OPS
from certnas.nas.space.random_cells import matched_genotype, random_genotype
from certnas.nas.space.robnets import ROBNETS, RobNet
from certnas.nas.space.spaces import DARTS, SPACES, SearchSpace
from certnas.nas.space.supernet import Supernet

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
