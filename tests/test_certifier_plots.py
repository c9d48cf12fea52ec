"""The two pictures of certificates: every line, bar and label in them."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_certificates import CERTIFICATES

from certnas.certifier import Certificates, plots


def drawn(
    plot: Callable[[Certificates, str], bytes], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Figure:
    """What is drawn, before it becomes a picture, which takes time."""
    kept: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(plots, "_png", lambda figure: kept.append(figure) or b"picture")  # type: ignore[func-returns-value]
        assert plot(certificates, "net") == b"picture"
    return kept[0]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_accuracies_are_steps_and_the_truth_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(plots.accuracy_plot, CERTIFICATES, monkeypatch)
    (axes,) = figure.axes
    end = 0.99 * 1.05  # 98 % of the attack distances 1 and 1/2
    certified, attacked, clean = axes.get_lines()
    assert certified.get_drawstyle() == "steps-pre" and attacked.get_drawstyle() == "steps-post"
    assert certified.get_xdata() == pytest.approx([0, 0.25, 0.5, 1, end])
    assert certified.get_ydata().tolist() == [75, 50, 25, 0, 0]
    assert attacked.get_xdata() == pytest.approx([0, 0.25, 0.5, 1, end])
    assert attacked.get_ydata().tolist() == [75, 75, 50, 25, 25]
    assert clean.get_ydata() == [75, 75] and clean.get_linestyle() == ":"
    colours = [to_hex(line.get_color()) for line in (certified, attacked, clean)]
    assert colours == ["#1f5fa8", "#c4501b", "#8a8a8a"]
    assert labels(figure) == [
        "certified (proved robust)",
        "attacked (not broken)",
        "undecided",
        "clean accuracy 75.0 %",
    ]
    (between,) = axes.collections
    points = between.get_paths()[0].vertices
    assert points[:, 0].max() == pytest.approx(end) and points[:, 0].min() == 0
    assert len(points) == pytest.approx(4000, abs=10)
    near = points[np.abs(points[:, 0] - 0.3) < 0.0005]
    assert sorted(set(near[:, 1].tolist())) == [25, 75]
    assert axes.get_xlim() == pytest.approx((0, end)) and axes.get_ylim() == (0, 103)
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("images (%)", "l2 radius ε (pixels in [0, 1])")
    assert axes.get_title() == "net · l2 · crown, then ibp · 4 images"


@pytest.mark.parametrize("upper", [np.full(4, np.inf), np.array([np.inf, 0.0, np.inf, np.inf])])
def test_without_attacks_only_what_is_proved_is_drawn(
    upper: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(CERTIFICATES, radius_upper=upper, norm="linf")
    figure = drawn(plots.accuracy_plot, plain, monkeypatch)
    assert labels(figure)[:1] == ["certified (proved robust)"]
    assert ("undecided" in labels(figure)) == bool(np.isfinite(upper).any())
    assert figure.axes[0].get_xlim()[1] == pytest.approx(0.525)
    assert figure.axes[0].get_xlabel().startswith("l∞ radius ε")


def test_radii_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(plots.radii_plot, CERTIFICATES, monkeypatch)
    (axes,) = figure.axes
    end = 0.99 * 1.05
    bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
    heights = [bar.get_height() for bar in bars]
    assert len(bars) == 25 and sum(heights) == 3
    assert [int(x / (end / 25)) for x in (0, 0.25, 0.5)] == [at for at, h in enumerate(heights) if h]
    assert bars[0].get_x() == 0 and bars[-1].get_x() + bars[-1].get_width() == pytest.approx(end)
    (outline,) = [patch for patch in axes.patches if not hasattr(patch, "get_height")]
    assert outline.get_xy()[:, 1].max() == 1 and to_hex(outline.get_edgecolor()) == "#c4501b"
    (middle,) = axes.get_lines()
    assert middle.get_xdata() == [0.25, 0.25]
    assert set(labels(figure)) == {"certified radius", "attack distance", "median certified 0.25"}
    assert axes.get_ylabel() == "images, correctly classified" and axes.get_xlim() == pytest.approx((0, end))
    assert axes.get_xlabel() == "l2 radius (pixels in [0, 1])"
    assert all(float(tick) == int(tick) for tick in axes.get_yticks())
    assert imread(BytesIO(plots._png(figure))).shape[:2] == (572, 910)
    second = axes.child_axes[0]
    assert second.get_xlabel() == "the same in 1/255"
    assert second.get_xlim() == pytest.approx((0, 255 * end))
    assert (plots._to_255(0.5), plots._from_255(127.5)) == (127.5, 0.5)


def test_no_image_that_is_right_has_empty_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(CERTIFICATES, label=np.full(4, 9), norm="other")
    figure = drawn(plots.radii_plot, wrong, monkeypatch)
    assert labels(figure) == ["certified radius"] and not figure.axes[0].get_lines()
    assert figure.axes[0].get_xlim() == (0, 1) and figure.axes[0].get_xlabel().startswith("other radius")
    figure = drawn(plots.accuracy_plot, wrong, monkeypatch)
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [0, 0]


def test_the_axis_ends_a_little_beyond_the_greatest_radius() -> None:
    many = replace(CERTIFICATES, radius_lower=np.array([4.0, 9, 2, 1]))
    assert plots._end(many) == pytest.approx(4.2)
    lower, upper = plots._radii(many)
    assert lower.tolist() == [4, 2, 1] and upper.tolist() == [1, 0.5]


def test_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = drawn(plots.accuracy_plot, CERTIFICATES, monkeypatch).axes
    assert [line.get_linewidth() for line in axes.get_lines()] == [2, 2, 1.2]
    assert [line.get_zorder() for line in axes.get_lines()][:2] == [3, 3]
    (between,) = axes.collections
    assert (between.get_alpha(), between.get_linewidth().tolist()) == (0.18, [0])
    assert to_hex(between.get_facecolor()[0]) == "#8a8a8a" and not axes.get_legend().get_frame_on()
    assert (axes.title.get_fontsize(), axes.title.get_fontweight()) == (11, "bold")
    assert axes.xaxis.label.get_fontsize() == 10 and not axes.spines["right"].get_visible()
    assert axes.get_axisbelow() is True and axes.get_xgridlines()[0].get_alpha() == 0.25
    assert axes.get_xgridlines()[0].get_visible()
    (second,) = axes.child_axes
    assert second.xaxis.label.get_fontsize() == 9 and second.xaxis.get_ticklabels()[0].get_fontsize() == 8.5
    (axes,) = drawn(plots.radii_plot, CERTIFICATES, monkeypatch).axes
    assert axes.patches[0].get_alpha() == 0.75 and axes.patches[-1].get_linewidth() == 2
    (middle,) = axes.get_lines()
    assert (middle.get_linewidth(), middle.get_linestyle()) == (1.4, "--")
    assert not axes.get_legend().get_frame_on() and to_hex(axes.patches[0].get_facecolor()) == "#1f5fa8"
