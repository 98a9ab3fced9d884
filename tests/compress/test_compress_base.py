"""What a new method gets from its base class."""

from typing import get_args

import pytest
import torch
from strategies import make_video

from vidcomp.compress.base import Compressor, Kind, Merge, Prune, QueryAware, row_extra
from vidcomp.compress.pipeline import Pipeline
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures, VideoTokens


class FirstRows(Prune):
    """A new method, as a user would write one."""

    def keep(self, video, budget):
        return torch.arange(budget)


class Halves(Merge):
    """The rows before and after the middle."""

    def groups(self, video, budget):
        return (torch.arange(len(video)) >= len(video) // 2).long()

    def count(self, video, budget):
        return 2


def test_a_new_method_is_a_few_lines():
    video = make_video(Grid(2, 2, 3))
    assert FirstRows()(video, 5).extras["row"].tolist() == [0, 1, 2, 3, 4]
    assert FirstRows.kind == "prune"
    out = Halves()(video, 5)
    assert Halves().plan(video, 5) == len(out) == 2
    assert out.positions.tolist() == [[0, 0.5, 1], [1, 0.5, 1]]
    assert Halves.kind == "merge"


def test_a_method_that_breaks_its_promise_is_a_bug_of_ours():
    class TooMany(Prune):
        def keep(self, video, budget):
            return torch.arange(budget + 1)

    with pytest.raises(AssertionError, match="TooMany"):
        TooMany()(make_video(Grid(2, 2, 3)), 5)


def test_pruning_restores_raster_order():
    video = make_video(Grid(2, 2, 3))
    shuffled = video.select(torch.arange(11, -1, -1))
    assert FirstRows()(shuffled, 3).extras["row"].tolist() == [9, 10, 11]


def test_a_missing_extra_is_named():
    video = make_video(Grid(2, 2, 3))
    assert row_extra(video, "keys", "tome") is video.extras["keys"]
    with pytest.raises(ShapeError, match=r"'tome' needs extras\['depth'\], got \['keys', 'row'"):
        row_extra(video, "depth", "tome")
    with pytest.raises(ShapeError, match="got no extras"):
        row_extra(make_video(extras=False), "keys", "tome")


def test_stages_are_values():
    for name in COMPRESSORS.names():
        stage = COMPRESSORS.make(name)
        assert isinstance(stage, Compressor)
        assert COMPRESSORS.parse(stage.dump()) == stage
        assert stage.kind in get_args(Kind)
        with pytest.raises(ConfigError, match="has no setting 'depth'"):
            COMPRESSORS.make(name, depth=3)
        assert len(type(stage).__doc__) > 20
        for field in type(stage).model_fields.values():
            assert field.description, (name, field)


def test_the_baselines_are_there():
    """Every method has to beat them."""
    assert {
        "avg_pool",
        "random",
        "stride",
        "uniform",
        "uniform_frames",
    } <= set(COMPRESSORS.names())


@pytest.mark.parametrize("name", COMPRESSORS.names())
def test_ids_are_chosen_by_place_or_refused(name: str):
    grid = Grid(4, 4, 6)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 8192, (grid.num_patches,), generator=generator)
    starts = torch.arange(4.0)
    video = VideoTokens.from_grid(ids, grid, torch.stack([starts, starts + 1], dim=1))
    stage = COMPRESSORS.make(name)
    if isinstance(stage, QueryAware):
        stage = stage.bind(QueryFeatures(embedding=torch.ones(1, 4)))
    assert stage(video, len(video)) is video
    if stage.needs_features:
        for call in (stage, stage.plan, Pipeline([stage]), Pipeline([stage]).plan):
            with pytest.raises(ShapeError, match=rf"'{name}' computes with features.*int64 ids"):
                call(video, 20)
        return
    out = stage(video, 20)
    assert len(out) == stage.plan(video, 20)
    rows = (out.positions @ torch.tensor([24.0, 6.0, 1.0])).long()
    assert torch.equal(out.tokens, video.tokens[rows])
    assert torch.equal(out.spans, video.spans[rows])
    assert torch.equal(out.mass, torch.ones(len(out)))
