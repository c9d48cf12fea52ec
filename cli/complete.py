"""The options of `certnas certify --complete`, which raises radii by branch and bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from certnas.jobs.certify import Tightening

SECONDS = 60.0
COMPLETE = (
    click.option(
        "--complete", is_flag=True, help="Raise the radii towards the attacked ones, by branch and bound."
    ),
    click.option(
        "--timeout",
        type=float,
        help=f"Seconds that --complete may take for an image.  [default: {SECONDS:g}]",
    ),
)


def chosen_tightening(options: Mapping[str, Any]) -> Tightening | None:
    """How radii are raised; None without --complete.  Raises UserError for a --timeout that has no use."""
    from certnas.errors import UserError
    from certnas.jobs.certify import Tightening

    given = options["timeout"]
    if given is not None and not (options["complete"] and given > 0):
        raise UserError(f"--timeout {given:g} needs --complete, and more than 0 seconds")
    if not options["complete"]:
        return None
    kept = {name: options[name] for name in ("targets", "eps_max", "seed", "memory")}
    return Tightening(seconds=given or SECONDS, at=options["at"] or (), **kept)
