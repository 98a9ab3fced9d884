"""The picture has every method, names without collisions, the front that it claims."""

import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import ConfigError, MissingExtraError, StoreError
from vidcomp.report.curves import Curve, Point, check_drawing, draw_curves, pareto
from vidcomp.report.labels import Label, apart, name_points

KINDS = ("prune", "merge", "resample", "mixed")
BUDGETS = (("2%", 0.02), ("10%", 0.1), ("25%", 0.25))
numbers = st.floats(0.001, 10)


def curve(i, budgets=BUDGETS, **changes):
    points = tuple(
        Point(
            **{
                "budget": name,
                "retention": share,
                "distortion": (0.3 + 0.02 * i) * share**-0.3,
                "coverage": 1 - 0.02 * i - 0.1 * (0.25 - share),
                "seconds": 0.01 * (1 + i * 7 % 5),
                **changes,
            }
        )
        for name, share in budgets
    )
    return Curve(name=f"method_{i}", kind=KINDS[i % 4], points=points)


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    saved, real = [], figure.savefig

    def record(self, *args, **kwargs):
        saved.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(figure, "savefig", record)
    return saved


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_each_kind_has_a_panel_that_shows_all_and_names_its_best(tmp_path, figures):
    path = draw_curves([curve(i) for i in range(36)], tmp_path / "new" / "a.png", title="Title")
    assert path.stat().st_size > 10_000
    *panels, coverage, scatter = figures[0].axes
    titles = [axes.get_title(loc="left").split(":")[0].lower() for axes in panels]
    assert titles == ["prune", "merge", "resample"]
    # The first six of each kind, in the order of the curves; mixed ones are beside merging ones.
    own = (range(0, 24, 4), [1, 3, 5, 7, 9, 11], range(2, 26, 4))
    for axes, named in zip(panels, own, strict=True):
        grounds = [line for line in axes.lines if line.get_marker() == "None"]
        assert len(grounds) == 36
        assert sorted(words(axes)) == sorted(f"method_{i}" for i in named)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2%", "10%", "25%"]
    assert sorted(words(coverage)) == [f"method_{i}" for i in range(6)]
    assert "at 10%" in scatter.get_title(loc="left")


def test_kinds_that_do_not_occur_have_no_panel(tmp_path, figures):
    draw_curves([curve(0), curve(4)], tmp_path / "a.svg", title="")
    assert len(figures[0].axes) == 3


def test_one_budget_names_every_method_with_its_interval(tmp_path, figures):
    curves = [curve(i, BUDGETS[1:2], low=0.1, high=0.9) for i in range(36)]
    draw_curves(curves, tmp_path / "a.png", title="")
    rows, scatter = figures[0].axes
    assert [tick.get_text() for tick in rows.get_yticklabels()] == [c.name for c in curves]
    intervals = [line for line in rows.lines if list(line.get_xdata()) == [0.1, 0.9]]
    assert len(intervals) == 36
    assert "at 10%" in scatter.get_title(loc="left")


def test_methods_without_loss_and_with_gaps_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    curves = [curve(0, distortion=0.0), curve(1, BUDGETS[2:]), curve(2)]
    assert draw_curves(curves, tmp_path / "a.png", title="").exists()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    seconds, losses = zip(*points, strict=True)
    front = pareto(seconds, losses)
    for i, (s, d) in enumerate(points):
        beaten = any(a <= s and b <= d and (a, b) != (s, d) for a, b in points)
        assert beaten or (s, d) in [points[j] for j in front]
        assert i not in front or not beaten
    assert [seconds[i] for i in front] == sorted(seconds[i] for i in front)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from([0.01, 0.05]))
def test_names_are_moved_apart_and_no_further(heights, step):
    placed = apart(heights, step)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    gaps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
    assert all(gap >= step - 1e-9 for gap in gaps)
    assert all(height <= 1 + 1e-9 for height in placed)
    free = [b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)]
    if all(gap >= step for gap in free):
        assert placed == pytest.approx(heights)


def test_names_of_points_do_not_cover_each_other():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    labels = [Label(f"name_{i}", i % 5, i // 5 * 0.1, "k", bold=not i) for i in range(25)]
    axes.plot([one.x for one in labels], [one.y for one in labels], "o")
    name_points(axes, labels)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 10
    assert words(axes)[0] == "name_0"
    shared = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(shared)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"vidcomp\[report\]"):
        check_drawing()


def test_what_cannot_be_drawn_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="0 curves"):
        draw_curves([], tmp_path / "a.png", title="")
    with pytest.raises(ConfigError, match=r"a\.txt"):
        draw_curves([curve(0)], tmp_path / "a.txt", title="")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        draw_curves([curve(0)], tmp_path / "file" / "a.png", title="")
