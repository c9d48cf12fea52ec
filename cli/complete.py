"""`certnas certify --complete`: radii raised towards the attacked ones by branch and bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import Tensor, nn

    from certnas.bounds import Network
    from certnas.certifier import Certificates
    from certnas.verifier.proof import Proof

SECONDS = 60.0
COMPLETE = (
    click.option("--complete", is_flag=True, help="Raise the radii towards the attacked ones, by branching."),
    click.option(
        "--timeout",
        type=float,
        help=f"Seconds that --complete may take for an image.  [default: {SECONDS:g}]",
    ),
)


class Completion:
    """What is done to each batch after it was certified; `seconds` for each image, None for nothing."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        from certnas.errors import UserError

        self.options = options
        given = options["timeout"]
        if given is not None and not (options["complete"] and given > 0):
            raise UserError(f"--timeout {given:g} needs --complete, and more than 0 seconds")
        self.seconds: float | None = (given or SECONDS) if options["complete"] else None
        self.network: Network | None = None

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        batch: Certificates,
        clip: tuple[float, float] | None,
        proved: Callable[[int, Proof], None] | None = None,
    ) -> Certificates:
        """The certificates of images x, y, raised where that was asked for; `proved` is told the proof of each."""
        from certnas.verifier import network_of, tighten

        if self.seconds is None:
            return batch
        if self.network is None:
            self.network = network_of(model, tuple(x.shape[1:]))
        kept = {name: self.options[name] for name in ("targets", "eps_max", "seed", "memory")}
        kept["at"] = self.options["at"] or ()
        return tighten(self.network, x, y, batch, timeout=self.seconds, clip=clip, proved=proved, **kept)
