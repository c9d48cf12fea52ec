"""Reader of image folders with one subfolder per class."""

import io
from pathlib import Path

import numpy as np
import torch

from certnas.data.dataset import Dataset, Request, from_bytes
from certnas.errors import UserError

GRAY, COLOUR = ("1", "L"), ("RGB", "P")


def folder(request: Request) -> Dataset:
    """Read FOLDER/class/image.png; classes are in alphabetical order.

    [N, 1, H, W] if all images are grey, else [N, 3, H, W]

    Raises UserError for a folder without class folders or images, a file that is not an 8-bit grey or RGB
    image, and images of different sizes.
    """
    from PIL import Image
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(request.name)
    except FileNotFoundError as error:
        raise UserError(
            f"data {request.name}: no images found; expected {Path(request.name) / 'CLASS' / 'IMAGE.png'}, "
            "at least one image in every class folder"
        ) from error
    rows = request.chosen(len(found.samples))
    images = []
    for row in rows.tolist():
        path = found.samples[row][0]
        try:
            content = io.BytesIO(Path(path).read_bytes())  # of which no reader takes more than there is
            with Image.open(content) as file:
                if file.mode not in GRAY + COLOUR:
                    raise UserError(f"data {path}: image mode {file.mode}, accepted: 8-bit grey or RGB")
                images.append(file.convert("L" if file.mode in GRAY else "RGB"))
        except UserError:
            raise
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:  # of single formats' readers
            raise UserError(f"data {path}: not a readable image") from error
    size = images[0].size
    for row, image in zip(rows.tolist(), images, strict=True):
        if image.size != size:
            raise UserError(
                f"data {found.samples[row][0]}: {image.width}×{image.height} pixels, "
                f"the first image has {size[0]}×{size[1]}; all images must have one size"
            )
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    pixels = torch.from_numpy(np.stack([np.array(image.convert(mode)) for image in images]))
    x = pixels.unsqueeze(1) if mode == "L" else pixels.permute(0, 3, 1, 2)
    y = torch.tensor([found.samples[row][1] for row in rows.tolist()], dtype=torch.int64)
    return Dataset(request.name, from_bytes(x).contiguous(), y, rows, len(found.classes))
