"""Plots of certificates."""

from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from certnas import bounds
from certnas.certifier.certificates import Certificates

CERTIFIED, ATTACKED, GREY = "#1f5fa8", "#c4501b", "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}


def accuracy_plot(certificates: Certificates, model: str) -> bytes:
    """Plots certified and attacked accuracy against ε, as a PNG; the true robust accuracy lies between the curves.

    certificates: the results; model: the name for the title. Both curves are shares of all images.
    Returns the bytes of the PNG.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        end = _end(certificates)
        eps = np.unique(np.concatenate([[0.0, end], *(r[r <= end] for r in _radii(certificates))]))
        certified = [100 * certificates.certified_accuracy(e) for e in eps]
        # certified accuracy includes the radius itself, so the step is at the radius
        axes.step(
            eps, certified, where="pre", color=CERTIFIED, lw=2, label="certified (proved robust)", zorder=3
        )
        if np.isfinite(certificates.radius_upper).any() and (certificates.radius_upper > 0).any():
            attacked = [100 * certificates.attacked_accuracy(e) for e in eps]
            axes.step(
                eps, attacked, where="post", color=ATTACKED, lw=2, label="attacked (not broken)", zorder=3
            )
            fine = np.linspace(0, end, 2000)
            low = [100 * certificates.certified_accuracy(e) for e in fine]
            high = [100 * certificates.attacked_accuracy(e) for e in fine]
            axes.fill_between(fine, low, high, color=GREY, alpha=0.18, lw=0, label="undecided")
        clean = 100 * certificates.certified_accuracy(0.0)
        axes.axhline(clean, color=GREY, ls=":", lw=1.2, label=f"clean accuracy {clean:.1f} %")
        axes.set(xlim=(0, end), ylim=(0, 103), ylabel="images (%)")
        axes.legend(frameon=False, loc="best")
        _dress(axes, certificates, model, "radius ε")
        return _png(figure)


def radii_plot(certificates: Certificates, model: str) -> bytes:
    """Plots a histogram of certified radii and attack distances over correctly classified images, as a PNG."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        lower, upper = _radii(certificates)
        end = _end(certificates)
        bins = np.linspace(0, end, 26).tolist()
        axes.hist(lower, bins, color=CERTIFIED, alpha=0.75, label="certified radius")
        if len(upper):
            axes.hist(upper, bins, histtype="step", color=ATTACKED, lw=2, label="attack distance")
        if len(lower):
            middle = float(np.median(lower))
            axes.axvline(middle, color=CERTIFIED, ls="--", lw=1.4, label=f"median certified {middle:.4g}")
        axes.set(xlim=(0, end), ylabel="images, correctly classified")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, loc="best")
        _dress(axes, certificates, model, "radius")
        return _png(figure)


def _radii(certificates: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """The certified radii of the correct images, and their finite attack distances."""
    right = certificates.correct
    upper = certificates.radius_upper[right]
    return certificates.radius_lower[right], upper[np.isfinite(upper)]


def _end(certificates: Certificates) -> float:
    """Where the ε axis ends: slightly beyond all values except the far tail of the attack distances."""
    lower, upper = _radii(certificates)
    ends = [lower.max() if len(lower) else 0.0, np.quantile(upper, 0.98) if len(upper) else 0.0]
    return float(max(ends)) * 1.05 or 1.0


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _dress(axes: Axes, certificates: Certificates, model: str, what: str) -> None:
    norm = bounds.NORMS.get(certificates.norm)
    symbol = certificates.norm if norm is None else norm.symbol
    axes.set_xlabel(f"{symbol} {what} (pixels in [0, 1])")
    second = axes.secondary_xaxis("top", functions=(_to_255, _from_255))
    second.set_xlabel("the same in 1/255", fontsize=9, color="#555555")
    second.tick_params(labelsize=8.5, colors="#555555")
    axes.set_title(
        f"{model} · {symbol} · {certificates.method} · {len(certificates)} images",
        fontsize=11,
        fontweight="bold",
    )


def _to_255(eps: Any) -> Any:
    return eps * 255


def _from_255(eps: Any) -> Any:
    return eps / 255


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "certnas"})
    return buffer.getvalue()
