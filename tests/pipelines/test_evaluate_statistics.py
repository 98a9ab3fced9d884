"""Intervals and tests that know which questions share a video."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.pipelines.evaluation.statistics import mcnemar, mean_over_videos, paired


def spread(found):
    return found.high - found.low


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans()), min_size=1),
    st.integers(0, 9),
)
def test_a_mean_is_the_mean(rows, seed):
    videos, groups, right = zip(*rows, strict=True)
    values = [float(x) for x in right]
    plain = mean_over_videos(values, videos, seed=seed)
    assert plain.mean == pytest.approx(sum(values) / len(values))
    of_group = {g: [v for v, h in zip(values, groups, strict=True) if h == g] for g in groups}
    means = [sum(own) / len(own) for own in of_group.values()]
    over = mean_over_videos(values, videos, groups, seed=seed)
    assert over.mean == pytest.approx(sum(means) / len(means))
    if len(set(videos)) > 1:
        assert 0 <= plain.low <= plain.high <= 1
        assert plain == mean_over_videos(values, videos, seed=seed)
    else:
        assert plain.low is None


def test_answers_that_go_with_the_video_are_less_sure():
    """100 questions on 10 videos: the same answers tell less if a video's are all alike."""
    alike = mean_over_videos(
        [float(i // 10 % 2) for i in range(100)], [i // 10 for i in range(100)]
    )
    apart = mean_over_videos([float(i // 10 % 2) for i in range(100)], range(100))
    assert alike.mean == apart.mean == 0.5
    assert spread(alike) > 2.5 * spread(apart)
    assert spread(apart) == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(100), rel=0.15)
    assert spread(alike) == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(10), rel=0.15)


def test_pairs_find_what_two_means_hide():
    """Runs that differ in a few questions only, of which all go one way."""
    videos = [i // 3 for i in range(300)]
    second = [float(i * 7919 % 10 < 6) for i in range(300)]
    first = [0.0 if i % 20 == 0 else x for i, x in enumerate(second)]
    a, b = mean_over_videos(first, videos), mean_over_videos(second, videos)
    assert a.high > b.low, "the intervals meet"
    found = paired(first, second, videos)
    assert found.difference.high < 0
    assert found.p < 0.01
    same = paired(second, second, videos)
    assert (same.difference, same.p) == ((0.0, 0.0, 0.0), 1.0)
    assert paired(first[:3], second[:3], videos[:3]).p is None


def test_a_group_that_a_resample_lacks_does_not_count_there():
    found = mean_over_videos([1.0, 1.0, 0.0], ["a", "a", "b"], ["x", "x", "y"])
    assert found == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (1, 1, 1.0), (0, 5, 0.0625), (10, 2, 0.03857421875), (0, 1100, 0.0)],
)
def test_mcnemar_is_exact(gained, lost, p):
    first = [True] * gained + [False] * lost + [True, False] * 5
    second = [False] * gained + [True] * lost + [True, False] * 5
    found = mcnemar(first, second)
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(p, abs=1e-12)
    assert mcnemar(second, first).p == found.p
