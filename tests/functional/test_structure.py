"""Rows that stand for no patch: where they lie, and that everything else takes them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import write
from strategies import dense_videos, make_video, video_tokens

from vidcomp.compress.base import Compressor
from vidcomp.config import StoreSettings
from vidcomp.errors import ShapeError
from vidcomp.functional.anchors import anchors
from vidcomp.functional.geometry import first_t, in_raster_order, is_dense
from vidcomp.functional.merge import merge, resample
from vidcomp.functional.structure import insert_rows, is_structural
from vidcomp.registry import COMPRESSORS
from vidcomp.report.token_map import token_map
from vidcomp.store import open_cache
from vidcomp.types import Frames, Grid, TokenBatch, VideoTokens

few = settings(deadline=None, max_examples=40)


def newlines(video: VideoTokens) -> VideoTokens:
    """A dense video with a row of sevens behind every row of patches."""
    t, h, w = video.grid
    after = torch.arange(t * h) * w + w - 1
    return insert_rows(video, torch.full((t * h, video.tokens.shape[1]), 7.0), after)


def dense_provenance(video: VideoTokens) -> torch.Tensor:
    if video.weights is not None:
        return video.weights.to_dense()
    one_hot = torch.nn.functional.one_hot(video.assign + 1, len(video) + 1)
    return one_hot[:, 1:].T.float()


@few
@given(video=video_tokens(soft=True), data=st.data())
def test_old_rows_stay_and_new_ones_stand_for_nothing(
    video: VideoTokens, data: st.DataObject
) -> None:
    rows = st.integers(0, len(video) - 1)
    after = torch.tensor(data.draw(st.lists(rows, max_size=5)), dtype=torch.int64)
    added = torch.arange(float(len(after)))[:, None].expand(-1, video.tokens.shape[1])
    out = insert_rows(video, added, after)
    # The same by hand: one list, row after row.
    expected: list[tuple[str, int]] = []
    for row in range(len(video)):
        expected.append(("old", row))
        expected += [("new", k) for k in range(len(after)) if int(after[k]) == row]
    assert len(out) == len(video) + len(after) == len(expected)
    share, old_share = dense_provenance(out), dense_provenance(video)
    for place, (kind, k) in enumerate(expected):
        if kind == "old":
            for name in ("tokens", "positions", "spans", "mass"):
                assert torch.equal(getattr(out, name)[place], getattr(video, name)[k])
            assert torch.equal(share[place], old_share[k])
            assert all(torch.equal(e[place], video.extras[n][k]) for n, e in out.extras.items())
            continue
        source = int(after[k])
        assert torch.equal(out.tokens[place], added[k].to(video.tokens.dtype))
        assert torch.equal(out.positions[place, :2], video.positions[source, :2])
        assert float(out.positions[place, 2]) == video.grid.w - 0.5
        assert torch.equal(out.spans[place], video.spans[source])
        assert float(out.mass[place]) == 0
        assert not share[place].any()
        assert not any(e[place].any() for e in out.extras.values())
    assert (out.assign is None) == (video.assign is None)


@few
@given(video=dense_videos())
def test_behind_rows_of_patches_they_are_in_raster_order(video: VideoTokens) -> None:
    out = newlines(video)
    assert in_raster_order(out) is out
    assert first_t(out) == first_t(video)
    assert int(is_structural(out).sum()) == video.grid.t * video.grid.h
    assert not is_dense(out)
    backwards = out.select(torch.arange(len(out) - 1, -1, -1))
    assert torch.equal(in_raster_order(backwards).tokens, out.tokens)
    assert first_t(backwards) == first_t(video)


def test_two_behind_one_row_keep_their_order() -> None:
    video = make_video(Grid(1, 1, 2), dim=1)
    out = insert_rows(video, torch.tensor([[5.0], [6.0]]), torch.tensor([1, 1]))
    assert out.tokens[2:].flatten().tolist() == [5, 6]
    assert in_raster_order(out) is out


def test_gradients_reach_them() -> None:
    line = torch.zeros(6, requires_grad=True)
    out = insert_rows(make_video(Grid(1, 2, 2)), line.expand(2, -1), torch.tensor([1, 3]))
    out.tokens.sum().backward()
    assert torch.equal(line.grad, torch.full((6,), 2.0))


def test_nothing_to_insert_is_the_same_video() -> None:
    video = make_video()
    assert insert_rows(video, torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)) is video


@pytest.mark.parametrize(
    ("width", "after", "message"),
    [(5, [1], "1 rows for tokens"), (6, [60], "rows 0..59, got 60"), (6, [-1], "got -1 to -1")],
)
def test_wrong_rows_are_refused(width: int, after: list[int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        insert_rows(make_video(), torch.zeros(1, width), torch.tensor(after))


def test_merging_with_them_keeps_the_mean_of_the_patches() -> None:
    video = newlines(make_video(Grid(1, 2, 2), dim=2))
    out = merge(video, torch.tensor([0, 0, 0, 1, 1, 2]))
    torch.testing.assert_close(out.tokens[0], video.tokens[:2].mean(dim=0))
    torch.testing.assert_close(out.tokens[2], video.tokens[5])
    assert out.mass.tolist() == [2, 2, 0]
    assert torch.isfinite(out.tokens).all()


def test_mixing_rows_takes_them() -> None:
    video = newlines(make_video(Grid(1, 2, 2), dim=2))
    mix = torch.tensor([[0.5, 0.25, 0.25, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]).to_sparse()
    out = resample(video, mix)
    torch.testing.assert_close(out.tokens, mix.to_dense() @ video.tokens)
    torch.testing.assert_close(out.mass.sum(), torch.tensor(3.0))


def test_anchors_are_for_tokens_with_patches() -> None:
    video = newlines(make_video(Grid(1, 2, 2)))
    with pytest.raises(ShapeError, match="2 structural rows"):
        anchors(video.select(torch.tensor([0, 1, 2, 5])))
    assert anchors(video.select(torch.tensor([0, 1, 3, 4]))).tolist() == [0, 1, 2, 3]


def test_batches_chunks_and_padding_carry_them() -> None:
    video = newlines(make_video(Grid(2, 2, 3)))
    later = newlines(make_video(Grid(1, 2, 3), first_t=2))
    batch = TokenBatch.pack([video, later])
    assert torch.equal(batch[1].mass, later.mass)
    assert int((batch.padded().mass > 0).sum()) == 18
    whole = VideoTokens.cat([video, later])
    assert whole.grid == Grid(3, 2, 3)
    assert in_raster_order(whole) is whole


@pytest.mark.parametrize("soft", [False, True])
def test_a_cache_keeps_them(tmp_path: Path, soft: bool) -> None:
    video = make_video(Grid(2, 3, 4), extras=False)
    if soft:
        video = resample(video, torch.eye(24, dtype=torch.float64).to_sparse())
    video = newlines(video)
    write(tmp_path, {"a": video}, settings=StoreSettings(assign=True))
    back = open_cache(str(tmp_path))["a"]
    for name in ("positions", "spans", "mass"):
        assert torch.equal(getattr(back, name), getattr(video, name))
    assert torch.equal(dense_provenance(back), dense_provenance(video))


def test_a_picture_shows_the_patches_only() -> None:
    video = make_video(Grid(2, 3, 4))
    data = torch.arange(2 * 3 * 48 * 64).remainder(251).view(2, 3, 48, 64).to(torch.uint8)
    times = torch.arange(2, dtype=torch.float64)
    frames = Frames(data=data, pts_s=times, duration_s=torch.ones_like(times))
    plain, lined = (token_map(frames, v) for v in (video, newlines(video)))
    assert plain.size == lined.size


@pytest.mark.parametrize(
    "name",
    ["tome", "avg_pool", "dpc_knn", "norm_topk", "random", "stride", "simple_cluster", "partition"],
)
def test_compressors_give_finite_tokens_with_them(name: str) -> None:
    stage: Compressor = COMPRESSORS.make(name)
    out = stage(newlines(make_video(Grid(3, 4, 4))), 20)
    assert len(out) <= 20
    assert out.tokens.isfinite().all()
    assert out.positions.isfinite().all()
