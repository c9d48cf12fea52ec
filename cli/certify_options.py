"""The options of `certnas certify`."""

from pathlib import Path

import click

from .complete import COMPLETE
from .engine import ENGINE
from .names import CERTIFIER_METHOD, DATA_LAYOUT, MODEL, NORM, SLOPE, TARGETS
from .opening import OPENING
from .options import DATA, DATA_ROOT, DEVICE, DOWNLOAD, THREADS
from .values import Bytes, Number, NumberList

NETWORK = (
    click.argument("source", metavar="[MODEL]", type=MODEL, required=False),
    click.option(
        "--model",
        "named",
        metavar="MODEL",
        type=MODEL,
        help="The network, where the argument does not name it.  [default: digits-cnn]",
    ),
    *OPENING,
    DEVICE,
)
IMAGES = (
    DATA,
    click.option(
        "--data-layout", type=DATA_LAYOUT, help=f"Layout of the images in an .npz file: {DATA_LAYOUT.text}."
    ),
    DATA_ROOT,
    DOWNLOAD,
    click.option(
        "--images", type=int, default=20, show_default=True, help="Number of images, drawn by the seed."
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the images drawn, of random targets, and of the attacks.",
    ),
)
PROOF = (
    click.option("--norm", type=NORM, default="linf", show_default=True, help=f"Norm of the radii: {NORM.text}."),
    click.option("--method", type=CERTIFIER_METHOD, default="crown", show_default=True,
                 help=f"Bound method: {CERTIFIER_METHOD.text}."),
    click.option("--slope", type=SLOPE, help=f"Lower slope of ReLU: {SLOPE.text}."),
    click.option("--iterations", type=int, help="Number of iterations that alpha-crown optimises its slopes for."),
    click.option("--step", type=float, help="Step size of alpha-crown's optimisation."),
    click.option("--shared", is_flag=True, default=None,
                 help="With alpha-crown, all units of a tensor share their slopes; this is faster and looser."),
    click.option("--errors", type=int, help="Number of error generators that a zonotope keeps; all by default."),
    click.option("--time-per-image", type=float,
                 help="Seconds for an image, by which method auto chooses its methods.  [default: 10]"),
    click.option("--targets", type=TARGETS, default="all", show_default=True,
                 help=f"Classes to prove the label against: {TARGETS.text}."),
    click.option("--eps-max", type=Number(), help="Largest radius to search: 0.1 or 8/255."),
    click.option("--tol", type=float, default=1e-3, show_default=True, help="Relative tolerance of the radii."),
    click.option("--clip/--no-clip", default=True, show_default=True,
                 help="Certify only against images whose pixels are in [0, 1]."),
    click.option("--attack/--no-attack", default=True, show_default=True,
                 help="Attack each image, which bounds its radius from above."),
)  # fmt: skip
RUN = (
    click.option(
        "--batch-size",
        type=int,
        default=16,
        show_default=True,
        help="Number of images that are certified together.",
    ),
    click.option(
        "--memory",
        type=Bytes(),
        help="Memory budget of one pass of bounds, such as 4G; depends on free memory by default.",
    ),
    THREADS,
    click.option(
        "--at", type=NumberList(), help="Radii at which the certified accuracy is reported: 2/255,8/255."
    ),
    click.option(
        "--out", type=click.Path(path_type=Path), help="Folder for results.csv, results.json and plots."
    ),
    click.option("--resume", is_flag=True, help="Continue the run that --out holds."),
    click.option(
        "--certificates",
        type=click.Path(path_type=Path),
        help="Folder for certificates that `certnas check` proves again.",
    ),
    *COMPLETE,
    *ENGINE,
)
OPTIONS = (*NETWORK, *IMAGES, *PROOF, *RUN)
"""All of them, in the order of the help text."""
