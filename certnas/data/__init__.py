"""Images to certify: data sets by name, folders, and .npz files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from certnas.data.archive import LAYOUTS, archive
from certnas.data.dataset import Dataset, Request, select
from certnas.data.embedded import digits
from certnas.data.folder import folder
from certnas.data.vision import vision
from certnas.errors import UserError

__all__ = ["DATASETS", "Dataset", "load", "select"]

DATASETS: dict[str, Callable[[Request], Dataset]] = {
    "digits": digits,
    "mnist": vision,
    "fashion-mnist": vision,
    "cifar10": vision,
    "cifar100": vision,
    "svhn": vision,
}
"""Name -> reader.  What is no name is a path: a folder of class folders, or an .npz file."""

OPTIONS: dict[Callable[[Request], Dataset], tuple[str, ...]] = {
    digits: ("train",),
    vision: ("root", "train", "download"),
    folder: (),
    archive: ("layout",),
}


def load(
    name: str,
    *,
    root: str | Path | None = None,
    train: bool = False,
    indices: Sequence[int] | None = None,
    count: int | None = None,
    seed: int | None = None,
    download: bool = False,
    layout: str | None = None,
) -> Dataset:
    """The images of a data set, float32 [N, C, H, W] in [0, 1], or its rows [N, K], with their labels [N].

    name: one of DATASETS, a folder FOLDER/CLASS/IMAGE, or an .npz file with x and y.  root: the folder of a
    torchvision data set; download: fetch it there.  train: its training part.  layout: "nchw" or "nhwc" for an .npz
    file whose channels could be either, or are neither 1 nor 3 and last.  indices: these images, in this order; or
    count: the first so many, or with a seed a sample without replacement.
    Raises UserError: unknown name, missing or damaged files, images or labels that do not fit, an option
    the data set has no use for.
    """
    reader = DATASETS.get(name)
    if reader is None:
        path = Path(name)
        if path.is_dir():
            reader = folder
        elif path.suffix == ".npz":
            if not path.is_file():
                raise UserError(f"data {name}: no such file")
            reader = archive
        else:
            raise UserError(
                f"data {name}: unknown; accepted: {', '.join(DATASETS)}, "
                "a folder of class folders, or an .npz file"
            )
    given = {"root": root is not None, "train": train, "download": download, "layout": layout is not None}
    for option, present in given.items():
        if present and option not in OPTIONS[reader]:
            raise UserError(f"data {name}: takes no option {option!r}")
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"data {name}: unknown layout {layout!r}; accepted: {', '.join(LAYOUTS)}")
    if indices is not None and (count is not None or seed is not None):
        raise UserError(f"data {name}: images are either listed or counted, not both")
    return reader(
        Request(
            name=name,
            root=None if root is None else Path(root),
            train=train,
            download=download,
            layout=layout,
            indices=None if indices is None else tuple(indices),
            count=count,
            seed=seed,
        )
    )
