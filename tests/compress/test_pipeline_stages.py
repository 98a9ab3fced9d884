"""Stages one after another."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dense_videos, make_video

from vidcomp.compress.base import QueryAware
from vidcomp.compress.pipeline import Pipeline
from vidcomp.config import CompressSettings, Stage
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures

make = COMPRESSORS.make


def two(first, retention, second):
    return Pipeline((Stage(make(first), retention=retention), Stage(make(second))))


@given(video=dense_videos(), amount=st.floats(0, 1), retention=st.floats(0.01, 1))
@settings(deadline=None, max_examples=40)
def test_an_inner_stage_leaves_its_retention_but_never_less_than_the_budget(
    video, amount, retention
):
    budget = 1 + round(amount * max(0, len(video) - 2))
    if budget >= len(video):
        return
    inner = max(budget, int(Fraction(repr(retention)) * len(video)), 1)  # as it is written
    out = two("norm_topk", retention, "uniform")(video, budget)
    first = make("norm_topk")(video, inner)
    again = make("uniform")(first, budget)
    assert torch.equal(out.positions, again.positions)
    assert torch.equal(out.tokens, again.tokens)


def test_plans_of_exact_stages_need_no_run(monkeypatch):
    video = make_video(Grid(4, 6, 6))
    pipeline = two("tome", 0.5, "uniform")

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(type(make("tome")), "reduce", never)
    assert pipeline.exact
    assert pipeline.plan(video, 30) == 30


@pytest.mark.parametrize(
    "stages",
    [
        [("tome", 0.5), ("avg_pool", None)],
        [("avg_pool", 0.6), ("stride", None)],
        [("norm_topk", 0.7), ("avg_pool", 0.5), ("tome", None)],
        [("stride", 0.7), ("static_average", 0.5), ("avg_pool", None)],
        [("max_pool", 0.9), ("static_average", None)],
    ],
)
def test_plans_are_right_where_stages_must_be_run(stages):
    pipeline = Pipeline(tuple(Stage(make(n), retention=r) for n, r in stages))
    video = make_video(Grid(4, 6, 6), dim=8)
    for budget in (36, 41, 50, 77, 143):
        try:
            planned = pipeline.plan(video, budget)
        except BudgetError:
            with pytest.raises(BudgetError):
                pipeline(video, budget)
        else:
            assert planned == len(pipeline(video, budget))


def test_one_stage_alone_is_that_stage():
    video = make_video(Grid(4, 6, 6))
    query = QueryFeatures(embedding=torch.ones(1, video.tokens.shape[1]))
    for name in COMPRESSORS.names():
        stage = make(name)
        stage = stage.bind(query) if isinstance(stage, QueryAware) else stage
        a, b = Pipeline((Stage(make(name)),)).bind(query)(video, 70), stage(video, 70)
        assert torch.equal(a.tokens, b.tokens)
        assert Pipeline((make(name),)) == Pipeline(stages=(Stage(name),))


def test_settings_of_a_recipe_make_a_pipeline():
    recipe = CompressSettings(
        budget={"tokens": 30},
        stages=[{"name": "stride", "retention": 0.5, "axes": "space"}, "tome"],
    )
    pipeline = Pipeline(stages=recipe.stages)
    assert len(pipeline(make_video(Grid(4, 6, 6)), 30)) == 30
    assert pipeline.stages[0].compressor == make("stride", axes="space")


def test_settings_that_make_no_pipeline():
    for stages, words in (
        ((Stage("tome"), Stage("uniform")), r"stage 1 of 2 \('tome'\) has no retention"),
        ((Stage("tome", retention=0.5),), "got retention=0.5: leave it out"),
        ((), "at least 1 item"),
    ):
        with pytest.raises(ConfigError, match=words):
            Pipeline(stages)
    with pytest.raises(ConfigError, match="needs the setting 'stages'"):
        Pipeline()


def test_provenance_goes_through_all_stages():
    video = make_video(Grid(4, 6, 6), dim=8)
    out = two("norm_topk", 0.5, "tome")(video, 20)
    assert int((out.assign >= 0).sum()) == 72
    out = two("bilinear_pool", 0.5, "tome")(video, 20)
    assert out.assign is None
    torch.testing.assert_close(
        out.weights.to_dense() @ video.positions, out.positions, atol=1e-5, rtol=0
    )


def test_a_question_reaches_the_stages_that_need_it():
    video = make_video(Grid(4, 6, 6))
    query = QueryFeatures(embedding=torch.ones(1, video.tokens.shape[1]))
    inner = Pipeline((make("cdpruner"),))
    pipeline = Pipeline((Stage(make("norm_topk"), retention=0.8), Stage(inner)))
    assert pipeline.lacks_query
    with pytest.raises(ConfigError, match="was given none: bind it"):
        pipeline(video, 20)
    with pytest.raises(ConfigError, match="belongs to no video: use"):
        pipeline.check_query()
    bound = pipeline.bind(query)
    bound.check_query()
    left = make("norm_topk")(video, int(0.8 * len(video)))
    assert torch.equal(bound(video, 20).tokens, make("cdpruner").bind(query)(left, 20).tokens)
    assert pipeline.lacks_query  # a value: the one that was bound is another
    Pipeline((make("partition"),)).check_query()  # weighs by a question only if told so
