"""Random cells, the baseline of a search."""

from dataclasses import dataclass

import torch

from certnas.errors import UserError
from certnas.nas.search.task import Found, Task
from certnas.nas.space import Genotype, matched_genotype, parameter_count, random_genotype


@dataclass(frozen=True)
class RandomCells:
    """A uniformly random genotype, drawn by the seed without any image or metric."""

    parameters: int | None = None
    """Number of parameters of the network with these cells and the supernet's channels, layers and
    reductions (None: any number). Genotypes are drawn until one matches.
    """
    tolerance: float = 0.05
    """Accepted relative deviation from `parameters`."""

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 1:
            raise UserError(f"algorithm random: parameters is {self.parameters}; give 1 or more")
        if not 0 <= self.tolerance < 1:
            raise UserError(
                f"algorithm random: tolerance is {self.tolerance}; give a share from 0 to below 1"
            )

    def run(self, task: Task) -> Found:
        """Draw the genotype. Raises UserError if no drawn network has the requested number of parameters."""
        sizes = task.config.supernet
        generator = torch.Generator().manual_seed(task.config.seed)
        if self.parameters is None:
            genotype = random_genotype(task.space, generator, nodes=sizes.nodes)
        else:

            def count(genotype: Genotype) -> int:
                return parameter_count(
                    genotype,
                    sizes.channels,
                    sizes.layers,
                    task.classes,
                    in_channels=task.train.x.shape[1],
                    reductions=sizes.reductions,
                )

            genotype = matched_genotype(
                task.space,
                generator,
                count,
                target=self.parameters,
                tolerance=self.tolerance,
                nodes=sizes.nodes,
            )
        if task.folder is not None:
            task.folder.save(0, {})
        return Found(genotype)
