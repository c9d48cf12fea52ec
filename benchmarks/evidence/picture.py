"""The picture of a run: certified radii of every network by arm, and beside clean accuracy."""

from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.evidence.figures import Arm, estimate
from benchmarks.evidence.presets import NORMS

TITLES = {"linf": "certified l∞ radius", "l2": "certified l2 radius"}


def picture(by_recipe: dict[str, dict[str, Arm]]) -> bytes:
    """A row per recipe: radii of each arm's networks with mean ± 2 standard errors; accuracy and l∞ radius.  PNG."""
    names = list(next(iter(by_recipe.values())))
    colours = {name: f"C{at}" for at, name in enumerate(names)}
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(
            figsize=(13, 0.9 + len(by_recipe) * (1 + 0.34 * len(names))), dpi=130, layout="constrained"
        )
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(by_recipe), len(NORMS) + 1, squeeze=False)
        for row, (recipe, arms) in zip(grid, by_recipe.items(), strict=True):
            for axes, norm in zip(row, NORMS, strict=False):
                _strips(axes, arms, norm, colours)
                axes.set(title=recipe, xlabel=f"{TITLES[norm]}, mean over images")
            row[1].set_yticklabels([])
            for name, arm in arms.items():
                x = [100 * value for value in arm.accuracy.values()]
                row[-1].plot(x, list(arm.radius["linf"].values()), "o", ms=4, color=colours[name], label=name)
            row[-1].set(title=recipe, xlabel="clean accuracy (%)", ylabel=TITLES["linf"])
        grid[0][-1].legend(frameon=False, fontsize=7)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "certnas"})
    return buffer.getvalue()


def _strips(axes: Axes, arms: dict[str, Arm], norm: str, colours: dict[str, str]) -> None:
    for at, (name, arm) in enumerate(arms.items()):
        values = list(arm.radius[norm].values())
        axes.plot(values, [at + 0.15] * len(values), "o", ms=3, alpha=0.5, color=colours[name])
        middle = estimate(values)
        if values:
            axes.errorbar(
                middle.mean, at - 0.15, xerr=2 * middle.error, fmt="D", ms=4, capsize=3, color=colours[name]
            )
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_xlim(left=0)
    axes.invert_yaxis()
