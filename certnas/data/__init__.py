"""Image data: data sets by name, folders of images, and .npz files."""

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
"""Name -> reader. Any other name is a path: a folder of class folders, or an .npz file."""

OPTIONS: dict[Callable[[Request], Dataset], tuple[str, ...]] = {
    digits: ("train",),
    vision: ("root", "train", "download"),
    folder: (),
    archive: ("layout",),
}
"""Reader -> the options of `load` that it accepts."""


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
    """Load a data set.

    Args:
        name: a key of DATASETS, a folder with FOLDER/CLASS/IMAGE files, or an .npz file with arrays x and y.
        root: the folder of a torchvision data set.
        train: load the training part instead of the test part.
        indices: positions of the images to load, in this order.
        count: number of images to load; not together with `indices`.
        seed: None loads the first `count` images, a number draws `count` images without replacement.
        download: download a torchvision data set into `root`.
        layout: "nchw" or "nhwc", for an .npz file.  It is required if the shape fits both.

    Returns:
        Images x float32 [N, C, H, W] in [0, 1], or rows [N, K], with labels [N].

    Raises:
        UserError: an unknown name, missing or damaged files, images or labels of the wrong form, or an option that this
            data set does not accept.

    >>> from certnas.data import load
    >>> load("digits", count=4).x.shape
    torch.Size([4, 1, 8, 8])
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
            raise UserError(f"data {name}: does not accept the option {option!r}")
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"data {name}: unknown layout {layout!r}; accepted: {', '.join(LAYOUTS)}")
    if indices is not None and (count is not None or seed is not None):
        raise UserError(f"data {name}: got both indices and a count or seed; give one of them")
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
