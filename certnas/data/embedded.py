"""Data that comes with an installed package: nothing to fetch."""

from certnas.data.dataset import Dataset, Request


def digits(request: Request) -> Dataset:
    """scikit-learn's 8×8 digits, [N, 1, 8, 8]: the held-out third, or what is before it with `train`."""
    from certnas.data.digits import load_digits_split

    x, y = load_digits_split(request.train)
    rows = request.chosen(len(y))
    return Dataset(request.name, x[rows], y[rows], rows, 10)
