"""The options of `certnas certify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .complete import COMPLETE
from .engine import ENGINE
from .opening import OPENING
from .values import Bytes, NormName, Number, Numbers

F = TypeVar("F", bound=Callable[..., Any])
METHODS = "ibp, crown-ibp, zonotope, zonotope+crown, crown, alpha-crown, or auto"

MODEL = (
    click.argument("source", metavar="[MODEL]", required=False),
    click.option(
        "--model", "named", metavar="MODEL", help="The same as the argument.  [default: digits-cnn]"
    ),
    *OPENING,
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
)
DATA = (
    click.option(
        "--data", default="digits", show_default=True, help="A data set's name, an image folder or .npz."
    ),
    click.option(
        "--data-layout", type=click.Choice(["nchw", "nhwc"]), help="Where an .npz has its channels."
    ),
    click.option("--data-root", type=click.Path(path_type=Path), help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there."),
    click.option("--images", type=int, default=20, show_default=True, help="How many, drawn by the seed."),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of the draw, the targets, the attacks."
    ),
)
PROOF = (
    click.option("--norm", type=NormName(), default="linf", show_default=True, help="linf, l2 or l1."),
    click.option("--method", default="crown", show_default=True, help=f"{METHODS}."),
    click.option("--slope", help="Lower slope of ReLU: adaptive, parallel, zero or one."),
    click.option("--iterations", type=int, help="Of alpha-crown's optimisation."),
    click.option("--step", type=float, help="Of alpha-crown's optimisation."),
    click.option("--shared", is_flag=True, default=None,
                 help="Of alpha-crown: all units of a tensor share their slopes; faster and looser."),
    click.option("--errors", type=int, help="Error generators that a zonotope keeps; all by default."),
    click.option("--time-per-image", type=float, help="Seconds by which auto chooses.  [default: 10]"),
    click.option("--targets", type=click.Choice(["all", "random", "least", "runner-up"]), default="all",
                 show_default=True, help="Classes to prove the label against."),
    click.option("--eps-max", type=Number(), help="Search no radius beyond: 0.1 or 8/255."),
    click.option("--tol", type=float, default=1e-3, show_default=True, help="Relative, of the radii."),
    click.option("--clip/--no-clip", default=True, show_default=True, help="Only images in [0, 1] count."),
    click.option("--attack/--no-attack", default=True, show_default=True, help="Bound the radii from above."),
)  # fmt: skip
RUN = (
    click.option(
        "--batch-size", type=int, default=16, show_default=True, help="Images that are proved together."
    ),
    click.option(
        "--memory", type=Bytes(), help="MemoryBudget of one pass of bounds: 4G; from free memory by default."
    ),
    click.option(
        "--threads", type=click.IntRange(1), help="Of the CPU; fewer than cores where others use them too."
    ),
    click.option("--at", type=Numbers(), help="Radii to report accuracy at: 2/255,8/255."),
    click.option(
        "--out", type=click.Path(path_type=Path), help="Folder for results.csv, results.json and plots."
    ),
    click.option("--resume", is_flag=True, help="Continue a run that --out holds."),
    click.option(
        "--certificates",
        type=click.Path(path_type=Path),
        help="Folder for proofs that `certnas check` checks.",
    ),
    *COMPLETE,
    *ENGINE,
)


def with_options(function: F) -> F:
    """The command with all of its options, in the order of the help text."""
    for option in reversed(MODEL + DATA + PROOF + RUN):
        function = option(function)
    return function
