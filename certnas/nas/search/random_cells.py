"""Random cells: what a search must beat."""

from dataclasses import dataclass

import torch

from certnas.errors import UserError
from certnas.nas.search.task import Found, Task
from certnas.nas.space import Genotype, matched_genotype, parameter_count, random_genotype


@dataclass(frozen=True)
class RandomCells:
    """A genotype drawn uniformly by the seed; it reads no image and no metric.

    parameters: draw until the network of the supernet's channels, layers and reductions, made of these cells, has
    this many, within the share `tolerance`; any number unless given.
    """

    parameters: int | None = None
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 1:
            raise UserError(f"algorithm random: parameters is {self.parameters}; give 1 or more")
        if not 0 <= self.tolerance < 1:
            raise UserError(
                f"algorithm random: tolerance is {self.tolerance}; give a share from 0 to below 1"
            )

    def run(self, task: Task) -> Found:
        """Draws.  Raises UserError where no drawn network has the number of parameters asked for."""
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
