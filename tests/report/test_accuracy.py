"""Pictures of scores over tokens."""

import pytest

pytest.importorskip("matplotlib")

from vidcomp.errors import ConfigError, StoreError
from vidcomp.report.accuracy import Level, Score, ScoreCurve, _draw, draw_accuracy

CURVES = [
    ScoreCurve(
        name=name,
        scores=tuple(
            Score(tokens=tokens, mean=0.5 + shift + tokens / 2000, low=0.45, high=0.7)
            for tokens in (200, 100, 400, 401)
        ),
    )
    for name, shift in (("tome", 0.0), ("evs", 0.02), ("uniform_frames", -0.05))
]
LEVELS = [
    Level(name="all tokens", mean=0.7, low=0.66, high=0.74),
    Level(name="no video", mean=0.4),
    Level(name="guessing", mean=0.25),
]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_written(tmp_path, suffix):
    path = draw_accuracy(CURVES, LEVELS, tmp_path / "new" / f"a.{suffix}", title="t", facts="f")
    assert path.stat().st_size > 4000
    with pytest.raises(StoreError, match="cannot be written"):
        draw_accuracy(CURVES, [], path / f"b.{suffix}", title="t")


def test_what_the_picture_shows():
    figure = _draw(CURVES, LEVELS, "Title", "facts", "accuracy")
    (axes,) = figure.axes
    names = {text.get_text() for text in axes.texts}
    assert names == {"tome", "evs", "uniform_frames", "all tokens", "no video", "guessing"}
    drawn = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    assert [len(line.get_xdata()) for line in drawn] == [4, 4, 4]
    assert list(drawn[0].get_xdata()) == [100, 200, 400, 401], "by rising tokens"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "200", "400"]
    across = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert {0.7, 0.4, 0.25} <= set(across)


@pytest.mark.parametrize(("curves", "name"), [([], "a.png"), (CURVES, "a.txt")])
def test_what_cannot_be_drawn(tmp_path, curves, name):
    with pytest.raises(ConfigError, match="needs methods and a name"):
        draw_accuracy(curves, LEVELS, tmp_path / name, title="t")
