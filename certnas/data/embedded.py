"""Readers of data in installed packages; these need no download."""

from certnas.data.dataset import Dataset, Request


def digits(request: Request) -> Dataset:
    """scikit-learn's 8×8 digits, [N, 1, 8, 8]: the held-out third, or with `train` the others."""
    from certnas.data.digits import load_digits_split

    x, y = load_digits_split(request.train)
    rows = request.chosen(len(y))
    return Dataset(request.name, x[rows], y[rows], rows, 10)
