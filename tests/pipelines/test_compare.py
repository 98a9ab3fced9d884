"""Methods side by side: what is parsed, what is tried, what is reported and what is left out."""

from dataclasses import replace

import pytest
import torch
from clips import moving_square, write_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import make_video

from vidcomp.budget import Budget
from vidcomp.compress.base import Prune, QueryAware
from vidcomp.config import load_recipe
from vidcomp.errors import BudgetError, ConfigError, DecodeError
from vidcomp.functional.quality import quality
from vidcomp.pipelines import comparison
from vidcomp.pipelines.compare import compare
from vidcomp.pipelines.compare_output import curves_of, format_comparison
from vidcomp.pipelines.comparison import (
    Interval,
    Method,
    Trial,
    best_first,
    fit_to,
    interval,
    parse_methods,
    short_budget,
    summarise,
    timed,
    try_method,
)
from vidcomp.pipelines.inputs import expand
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures

VIDEO = make_video(Grid(3, 4, 4), extras=False)
HALF = Budget(retention=0.5)


class Ranked(Prune):
    """A method that would like to know what the encoder looked at."""

    importance: str = "saliency"
    power: int = 1

    def keep(self, video, budget):
        if self.importance == "saliency":
            score = video.extras["saliency"]
        else:
            score = video.tokens.norm(dim=1)
        return score.argsort(descending=True)[:budget].sort().values


@pytest.fixture
def ranked(monkeypatch):
    """The class under a name of its own, for one test."""
    names = COMPRESSORS.names()
    monkeypatch.setattr(COMPRESSORS, "_classes", {n: COMPRESSORS[n] for n in names})
    return COMPRESSORS.add("ranked_by_test")(Ranked)


def recipe(*overrides):
    small = ("sample.num_frames=4", "encode.size=56", *overrides)
    return load_recipe("embedded", small)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for i in range(2):
        write_clip(folder / f"clip{i}.mp4", moving_square(8, 64, 96, seed=i))
    return folder


def test_all_is_every_registered_method():
    assert [m.label for m in parse_methods(["all"])] == COMPRESSORS.names()
    assert [m.label for m in parse_methods(["tome, all,tome"])][:2] == ["tome", "adaptive_pool"]


def test_settings_follow_colons_and_are_yaml():
    one, two = parse_methods(["tome:scope=frame:rounds=3", "random"])
    assert (one.label, one.stage.scope, one.stage.rounds) == (
        "tome:scope=frame:rounds=3",
        "frame",
        3,
    )
    assert two.stage == COMPRESSORS.make("random")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("tomee", "did you mean 'tome'"),
        ("tome:scop=frame", "no setting 'scop'"),
        ("tome:frame", "name:key=value"),
        ("tome:rounds={", "not YAML"),
        (" ,", "got none"),
    ],
)
def test_wrong_methods_are_said(text, match):
    with pytest.raises(ConfigError, match=match):
        parse_methods([text])


def test_a_method_without_saliency_ranks_by_norm_and_says_so(ranked):
    (method,) = parse_methods(["ranked_by_test:power=3"])
    fitting = fit_to(method, VIDEO)
    assert fitting.note == "importance=norm"
    assert fitting.label == method.label
    assert (fitting.stage.importance, fitting.stage.power) == ("norm", 3)
    salient = replace(VIDEO, extras={"saliency": torch.rand(48)})
    assert fit_to(method, salient) is method
    (chosen,) = parse_methods(["ranked_by_test:importance=saliency"])
    assert fit_to(chosen, VIDEO) is chosen
    (plain,) = parse_methods(["tome"])
    assert fit_to(plain, VIDEO) is plain


def test_a_trial_is_the_call_judged(ranked):
    (method,) = parse_methods(["norm_topk"])
    trial = try_method(method, VIDEO, HALF, clip="a", runs=2)
    out = method.stage(VIDEO, 24)
    assert (trial.method, trial.budget, trial.clip) == ("norm_topk", "50%", "a")
    assert (trial.patches, trial.tokens, trial.reason) == (48, 24, "")
    assert trial.quality == quality(VIDEO, out)
    assert trial.seconds > 0


def test_budgets_are_resolved_with_frames_and_seconds():
    (method,) = parse_methods(["uniform"])
    tokens = [
        try_method(method, VIDEO, Budget(per_frame=2), num_frames=5).tokens,
        try_method(method, VIDEO, Budget(per_frame=2)).tokens,
        try_method(method, VIDEO, Budget(per_second=3), num_seconds=4.0).tokens,
    ]
    assert tokens == [10, 6, 12]


def test_what_cannot_run_is_a_reason(monkeypatch, ranked):
    (method,) = parse_methods(["static_average"])
    trial = try_method(method, VIDEO, Budget(tokens=3))
    assert trial.quality is None
    assert "merges over time only" in trial.reason

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(Ranked, "keep", full)
    trial = try_method(Method(label="x", stage=ranked()), VIDEO, HALF)
    assert "memory" in trial.reason

    def bug(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Ranked, "keep", bug)
    with pytest.raises(ZeroDivisionError):
        try_method(Method(label="x", stage=ranked()), VIDEO, HALF)


def test_a_method_that_wants_a_question_is_left_out_until_it_has_one():
    class Asked(QueryAware):
        kind = "prune"

        def reduce(self, video, budget):
            return video.select(torch.arange(budget))

    trial = try_method(Method(label="x", stage=Asked()), VIDEO, HALF)
    assert trial.reason == "it chooses tokens by a question, and there is none"
    bound = Asked().bind(QueryFeatures(embedding=torch.ones(1, 6)))
    assert try_method(Method(label="x", stage=bound), VIDEO, HALF).tokens == 24


def test_long_calls_are_not_repeated(monkeypatch):
    calls, clock = [], iter([0.0, 3.0, 10.0, 10.5, 20.0, 21.5, 30.0, 30.1])
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(clock))
    _, seconds = timed(lambda: calls.append(1), torch.device("cpu"), 3)
    assert (len(calls), seconds) == (1, 3.0)
    _, seconds = timed(lambda: calls.append(1), torch.device("cpu"), 3)
    assert (len(calls), seconds) == (4, 0.5)


def trial(method, budget, clip, distortion, tokens=10):
    judged = quality(VIDEO, VIDEO)._replace(distortion=distortion)
    return Trial(
        method=method,
        budget=budget,
        clip=clip,
        patches=100,
        tokens=tokens,
        seconds=1.0,
        quality=judged,
    )


def test_results_are_means_over_the_clips_that_ran():
    trials = [
        trial("a", "5%", "x", 0.2),
        trial("a", "5%", "y", 0.4, tokens=20),
        Trial(method="a", budget="9%", clip="x", patches=100, reason="no"),
        trial("b", "5%", "x", 0.1),
    ]
    first, second = summarise(trials)
    assert (first.method, first.budget, first.clips, first.tokens) == ("a", "5%", 2, 15)
    assert first.retention == pytest.approx(0.15)
    assert first.quality["distortion"].mean == pytest.approx(0.3)
    assert (second.clips, second.quality["distortion"]) == (1, Interval(0.1))
    assert first.to_json()["quality"]["coverage"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_the_best_comes_first_and_gaps_last():
    trials = [trial("gap", "5%", "x", 0.01)]
    trials += [trial(m, b, "x", d) for m, d in (("bad", 0.9), ("good", 0.1)) for b in ("5%", "9%")]
    assert best_first(summarise(trials), ["5%", "9%"]) == ["good", "bad", "gap"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_intervals_hold_the_mean_and_lie_within_the_values(values):
    mean, low, high = interval(values)
    assert mean == pytest.approx(sum(values) / len(values))
    if len(values) == 1:
        assert (low, high) == (None, None)
        return
    assert min(values) - 1e-9 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= max(values) + 1e-9
    assert interval(values) == (mean, low, high)
    assert interval([2 * v for v in values])[1] == pytest.approx(2 * low)


def test_intervals_are_as_wide_as_the_spread_says():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=draw).tolist()
    _, low, high = interval(values)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


@pytest.mark.parametrize(
    ("budget", "text"),
    [(Budget(tokens=9), "9"), (HALF, "50%"), (Budget(per_frame=2), "2 tokens per frame")],
)
def test_budgets_are_written_shortly(budget, text):
    assert short_budget(budget) == text


def test_videos_are_compared(clips, ranked):
    methods = parse_methods(["tome,norm_topk,static_average,ranked_by_test"])
    lines = []
    done = compare(
        expand([str(clips)]),
        recipe(),
        budgets=[Budget(tokens=5), HALF],
        methods=methods,
        runs=1,
        progress=lines.append,
    )
    assert [clip.key for clip in done.clips] == ["clip0.mp4", "clip1.mp4"]
    assert [clip.patches for clip in done.clips] == [64, 64]
    assert len(done.trials) == len(lines) == 2 * 4 * 2
    assert done.exit_code == 0
    results = {(r.method, r.budget): r for r in done.results}
    assert results["tome", "50%"].tokens == 32
    assert ("static_average", "5") not in results
    assert done.notes == {"ranked_by_test": "importance=norm"}
    assert done.results[0].method == "tome"
    plain = done.to_json()
    assert {line["method"] for line in plain["left_out"]} == {"static_average"}
    assert len(plain["trials"]) == 14
    text = format_comparison(done, methods)
    assert "ranked_by_test*" in text
    assert "* importance=norm: the encoder gives no saliency" in text
    assert "left out: static_average at 5: 'static_average' merges" in text
    curves = curves_of(done, methods)
    assert [curve.name for curve in curves] == list(dict.fromkeys(r.method for r in done.results))
    assert [p.budget for p in curves[0].points] == ["5", "50%"]


def test_one_budget_shows_all_that_is_measured(clips):
    methods = parse_methods(["tome,uniform"])
    done = compare(expand([str(clips)]), recipe(), budgets=[HALF], methods=methods, runs=1)
    header, _, first, *_ = format_comparison(done, methods).splitlines()
    for word in ("distortion", "95 %", "nearest", "L2-NQE", "frames", "place entropy"):
        assert word in header
    assert first.startswith("tome")
    low, high = next(word for word in first.split() if "-" in word).split("-")
    assert float(low) <= float(high)


def test_a_bad_video_does_not_end_the_comparison(clips, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    methods = parse_methods(["uniform"])
    given = expand([str(bad), str(clips / "clip0.mp4")])
    done = compare(given, recipe(), budgets=[HALF], methods=methods, runs=1)
    assert done.exit_code == 3
    assert [failure["key"] for failure in done.failures] == ["bad.mp4"]
    assert "failed: bad.mp4: " in format_comparison(done, methods)
    with pytest.raises(DecodeError):
        compare(given[:1], recipe(), budgets=[HALF], methods=methods)


def test_a_comparison_of_nothing_is_an_error(clips):
    methods = parse_methods(["static_average"])
    with pytest.raises(BudgetError, match="none of 1 methods can run"):
        compare(expand([str(clips)]), recipe(), budgets=[Budget(tokens=1)], methods=methods)


def test_the_recipe_gives_the_tokens_and_not_the_method(clips):
    """Neither its compressors nor its projector matter."""
    methods = parse_methods(["uniform"])
    given = expand([str(clips / "clip0.mp4")])
    options = {"budgets": [HALF], "methods": methods, "runs": 1}
    plain = compare(given, recipe("compress=null"), **options)
    other = compare(given, recipe("compress.stages=[max_pool]"), **options)
    assert plain.results[0].quality == other.results[0].quality
