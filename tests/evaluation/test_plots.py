import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recsim_env import plots

NAMES = ["popularity", "uniform", "ease", "a label with $dollars$ that is far too long for any legend"]


def days(names=NAMES, n=20):
    rng = np.random.default_rng(0)
    value = rng.random((len(names), n)).cumsum(axis=1)
    frame = pd.DataFrame({"recommender": np.repeat(names, n), "day": np.tile(np.arange(n), len(names))})
    return frame.assign(value=value.ravel(), low=value.ravel() - 0.2, high=value.ravel() + 0.2)


def table(n=4):
    value = np.linspace(0.1, 0.8, n)
    columns = {}
    for name in ("ndcg", "retention", "coverage"):
        columns |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
    return pd.DataFrame(columns, index=(NAMES * 3)[:n])


PANELS = {"a": ("Members at night", "Opinions per member"), "b": ("Who came", "Mean cosine (−1 to 1)"), "c": ("C", "c")}


def wide(names=NAMES):
    series = days(names)
    return series[["recommender", "day"]].assign(
        **{
            panel + end: series[of]
            for panel in PANELS
            for end, of in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    )


SHARES = pd.DataFrame({"data": [0.2, 0.8], **{n: [0.5, 0.5] for n in NAMES}}, index=[1.0, 2.0])
DRAWN = {
    "engagement": lambda: plots.engagement_by_day(days()),
    "retention": lambda: plots.retention_curve(days()),
    "genre entropy": lambda: plots.genre_entropy_by_day(days()),
    "mindset": lambda: plots.mindset_by_day(days(), days()),
    "scatter": lambda: plots.ndcg_against_retention(table(), 10),
    "coverage": lambda: plots.coverage_bars(table()),
    "lorenz": lambda: plots.lorenz_curves({n: np.arange(9) ** i for i, n in enumerate(NAMES)}),
    "stars": lambda: plots.star_histogram(SHARES),
    "bands": lambda: plots.bands_by_day(wide(), PANELS, NAMES),
}


@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_named_and_text_stays_inside(name):
    figure = DRAWN[name]()
    figure.canvas.draw()
    assert any(ax.get_xlabel() for ax in figure.axes)
    frame = figure.bbox
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        assert ax.get_ylabel() or name == "coverage"
        for text in filter(lambda t: t.get_text(), [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]):
            box = text.get_window_extent(renderer)
            assert box.x0 >= frame.x0 - 1, text
            assert box.x1 <= frame.x1 + 1, text
            assert frame.y0 - 1 <= box.y0 <= box.y1 <= frame.y1 + 1, text
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x0 >= -1
        assert box.x1 <= frame.x1 + 1
        for ax in figure.axes:
            assert not box.overlaps(ax.get_window_extent(renderer)), "the legend covers data"


def test_lines_differ_in_more_than_colour():
    lines = plots.engagement_by_day(days()).axes[0].get_lines()
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(styles) == len(lines) == 4
    assert len({line.get_color() for line in lines}) == 4


def test_a_recommender_without_rows_leaves_its_colour_free():
    figure = plots.bands_by_day(wide(NAMES[1:]), PANELS, NAMES)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Members at night", "Who came", "C"]
    for ax in figure.axes:
        assert [line.get_color() for line in ax.get_lines()] == list(plots.PALETTE[1:4])
        assert len(ax.collections) == 3  # bands


def test_labels_of_points_do_not_meet():
    figure = plots.ndcg_against_retention(table(8), 10)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_saved_png_is_about_800_pixels_wide(tmp_path):
    path = plots.save(plots.retention_curve(days()), tmp_path / "new" / "retention.png")
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert 780 <= int.from_bytes(header[16:20], "big") <= 900


def test_draws_on_a_given_figure():
    figure = plots.coverage_bars(table())
    figure.clear()
    assert plots.retention_curve(days(), figure) is figure
    assert len(figure.axes) == 1


def test_unknown_values_are_left_out():
    frame = table()
    frame.loc["ease", ["ndcg", "ndcg_low"]] = np.nan
    frame.loc["uniform", ["retention_low", "retention_high"]] = np.nan
    assert len(plots.ndcg_against_retention(frame, 5).axes[0].texts) == 3


def test_import_loads_no_matplotlib():
    code = "import sys, recsim_env.plots, recsim_env.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pyplot_stays_out():
    code = "import sys; from recsim_env import plots; plots._figure(); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
