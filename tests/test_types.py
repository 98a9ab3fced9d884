"""Values: rows stay together, provenance stays true, chunks and batches come apart as they were."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.merge import provenance_slowly
from strategies import make_video, video_tokens

from vidcomp.errors import ShapeError
from vidcomp.functional.merge import merge, resample
from vidcomp.types import Frames, Grid, TokenBatch, VideoTokens

ROWS = ("tokens", "positions", "spans", "mass")


def clip(n, first_index=0, **more):
    pts = torch.arange(n, dtype=torch.float64) / 4
    data = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 2)
    return Frames(
        data=data,
        pts_s=pts,
        duration_s=torch.full((n,), 0.25, dtype=torch.float64),
        first_index=first_index,
        **more,
    )


def assert_same(a, b):
    assert a.grid == b.grid
    for name in (*ROWS, "assign", "weights"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            x, y = (v.to_dense() if v.is_sparse else v for v in (x, y))
            assert torch.equal(x, y), name
    for x, y in ((a.extras, b.extras), (a.frame_extras, b.frame_extras)):
        assert set(x) == set(y)
        assert all(torch.equal(x[n], y[n]) for n in x)


class TestGrid:
    def test_counts(self):
        assert (Grid(2, 3, 4).num_patches, Grid(2, 3, 4).per_frame) == (24, 12)


class TestFrames:
    def test_slices_keep_count(self):
        frames = clip(10, first_index=5, num_padded=3)
        part = frames[2:8]
        assert (len(part), part.first_index, part.num_padded) == (6, 7, 1)
        assert part.data[:, 0, 0, 0].tolist() == [2, 3, 4, 5, 6, 7]
        assert frames[-2:].num_padded == 2
        assert frames[:4].num_padded == 0
        assert len(frames[7:3]) == 0
        with pytest.raises(ShapeError, match="step 1"):
            frames[::2]

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    def test_cat_undoes_slicing(self, sizes):
        frames = clip(sum(sizes), num_padded=min(1, sizes[-1]))
        cuts = [0]
        for n in sizes:
            cuts.append(cuts[-1] + n)
        parts = [frames[a:b] for a, b in itertools.pairwise(cuts)]
        again = Frames.cat(parts)
        for name in ("data", "pts_s", "duration_s"):
            assert torch.equal(getattr(again, name), getattr(frames, name))
        assert (again.num_padded, again.first_index) == (frames.num_padded, 0)

    def test_refuses_other_pixels_and_times(self):
        frames = clip(3)
        with pytest.raises(ShapeError, match="uint8"):
            dataclasses.replace(frames, data=frames.data.float())
        with pytest.raises(ShapeError, match="pts_s must be"):
            dataclasses.replace(frames, pts_s=frames.pts_s.float())
        with pytest.raises(ShapeError, match="duration_s must be"):
            dataclasses.replace(frames, duration_s=frames.duration_s[:2])
        with pytest.raises(ShapeError, match="at least one"):
            Frames.cat([])
        with pytest.raises(ShapeError, match="resize first"):
            Frames.cat([frames, dataclasses.replace(frames, data=frames.data[:, :, :1])])

    def test_spans_are_presentation_times(self):
        assert clip(2).spans.tolist() == [[0.0, 0.25], [0.25, 0.5]]
        assert clip(2).spans.dtype == torch.float32


class TestVideoTokens:
    def test_from_grid_is_in_raster_order(self):
        video = make_video(Grid(2, 2, 3), first_t=4)
        assert video.positions[0].tolist() == [4, 0, 0]
        assert video.positions[-1].tolist() == [5, 1, 2]
        assert video.spans[5].tolist() == [0.25, 0.75]
        assert video.spans[6].tolist() == [0.75, 1.25]
        assert video.mass.tolist() == [1.0] * 12
        assert video.num_seconds == 1.0

    def test_invalid_patches_get_no_token(self):
        valid = torch.tensor([True, False, True, True])
        video = make_video(Grid(1, 2, 2), valid=valid)
        assert len(video) == 3
        assert video.assign.tolist() == [0, -1, 1, 2]
        assert video.extras["row"].tolist() == [0, 2, 3]
        for wrong in (valid[:3], valid.long()):
            with pytest.raises(ShapeError, match="one flag a patch"):
                make_video(Grid(1, 2, 2), valid=wrong)

    @given(video=video_tokens(soft=True), data=st.data())
    @settings(deadline=None)
    def test_select_keeps_rows_together(self, video, data):
        rows = data.draw(st.permutations(range(len(video))))
        rows = rows[: data.draw(st.integers(0, len(video)))]
        out = video.select(torch.tensor(rows, dtype=torch.int64))
        for name in ROWS:
            assert torch.equal(getattr(out, name), getattr(video, name)[rows])
        for name, value in video.extras.items():
            assert torch.equal(out.extras[name], value[rows])
        assert set(out.frame_extras) == set(video.frame_extras)
        before, after = provenance_slowly(video), provenance_slowly(out)
        assert after == [before[r] for r in rows]

    def test_select_refuses_what_would_lose_provenance(self):
        video = make_video(Grid(1, 2, 2))
        for wrong, words in (
            (torch.tensor([1, 1]), "at most once"),
            (torch.tensor([-1]), "count from the start"),
            (torch.tensor([4]), r"in 0\.\.3"),
            (torch.tensor([True, False, True, True]), "turn a mask"),
            (torch.tensor([[0]]), "by .K. integers"),
            (torch.tensor([0.0]), "by .K. integers"),
        ):
            with pytest.raises(ShapeError, match=words):
                video.select(wrong)
        assert len(video.select(torch.tensor([2, 0], dtype=torch.int32))) == 2

    @given(data=st.data(), seed=st.integers(0, 99))
    @settings(deadline=None, max_examples=40)
    def test_cat_of_chunks_is_the_whole(self, data, seed):
        grid = Grid(data.draw(st.integers(1, 6)), 2, 3)
        whole = make_video(grid, seed=seed)
        cuts = sorted(data.draw(st.sets(st.integers(1, grid.t - 1))) if grid.t > 1 else [])
        edges = [0, *cuts, grid.t]
        chunks = [chunk(whole, a, b) for a, b in itertools.pairwise(edges)]
        assert_same(VideoTokens.cat(chunks), whole)
        way = data.draw(st.sampled_from(["merge", "prune", "resample"]))
        reduced = [reduce(c, way) for c in chunks]
        joined = VideoTokens.cat(reduced)
        parts = [torch.tensor(provenance_slowly(c)) for c in reduced]
        assert torch.equal(torch.tensor(provenance_slowly(joined)), torch.block_diag(*parts))
        assert len(joined) == sum(map(len, reduced))
        assert float(joined.mass.sum()) == pytest.approx(sum(float(c.mass.sum()) for c in reduced))

    def test_cat_refuses_what_does_not_follow(self):
        first, second = make_video(Grid(2, 2, 2)), make_video(Grid(2, 2, 2), first_t=2)
        for wrong, words in (
            ([], "at least one chunk"),
            ([first, first], "made with first_t"),
            ([second, first], "starts at t=0 and the one before ends at t=3"),
            ([first, make_video(Grid(2, 2, 3), first_t=2)], "one resolution"),
            ([first, make_video(Grid(2, 2, 2), first_t=2, dim=5)], "one encoder"),
            ([first, make_video(Grid(2, 2, 2), first_t=2, extras=False)], "encode them alike"),
            ([first, reduce(second, "resample")], "encode them alike"),
        ):
            with pytest.raises(ShapeError, match=words):
                VideoTokens.cat(wrong)

    def test_cat_passes_over_empty_chunks(self):
        first, second = make_video(Grid(2, 2, 2)), make_video(Grid(2, 2, 2), first_t=2)
        none = first.select(torch.arange(0))
        assert len(VideoTokens.cat([none, second])) == 8
        assert VideoTokens.cat([first, second.select(torch.arange(0))]).assign.tolist() == [
            *range(8),
            *[-1] * 8,
        ]
        assert none.num_seconds == 0.0

    def test_fields_must_fit(self):
        video = make_video(Grid(1, 2, 2))
        weights = torch.full((4, 4), 0.25)
        for change, words in (
            ({"tokens": video.tokens[:3]}, "one row a token"),
            ({"tokens": video.tokens[None]}, "flatten the grid"),
            ({"tokens": torch.zeros(4, 2, dtype=torch.int64)}, "flatten the grid"),
            ({"positions": video.positions.double()}, "positions must be"),
            ({"mass": video.mass[:, None]}, "mass must be"),
            ({"assign": video.assign[:3]}, "one entry a source patch"),
            ({"assign": video.assign.int()}, "must be int64"),
            ({"weights": weights.to_sparse()}, "drop one"),
            ({"weights": weights, "assign": None}, "use to_sparse"),
            ({"extras": {"x": torch.zeros(3)}}, "extra 'x' must have 4 rows"),
            ({"frame_extras": {"x": torch.zeros(3)}}, "frame extra 'x' must have 1 rows"),
        ):
            with pytest.raises(ShapeError, match=words):
                dataclasses.replace(video, **change)

    def test_to_changes_tokens_only(self):
        video = reduce(make_video(Grid(1, 2, 3)), "resample")
        out = video.to("cpu", torch.bfloat16)
        assert out.tokens.dtype == torch.bfloat16
        assert out.positions.dtype == out.mass.dtype == out.weights.dtype == torch.float32
        assert out.extras["keys"].dtype == torch.float32
        meta = video.select(torch.arange(2)).to("meta")
        assert meta.extras["keys"].device.type == meta.frame_extras["pooled"].device.type == "meta"
        ids = make_video(Grid(1, 2, 2))
        ids = dataclasses.replace(ids, tokens=torch.arange(4))
        assert ids.to(dtype=torch.bfloat16).tokens.dtype == torch.int64

    def test_repr_shows_shapes(self):
        text = repr(make_video(Grid(1, 2, 3)))
        assert "tokens=[6, 6] float32" in text
        assert "'keys': [6, 2, 4]" in text
        assert len(text) < 400


class TestTokenBatch:
    @given(st.lists(video_tokens(dtypes=[torch.float32], soft=True), min_size=1, max_size=4))
    @settings(deadline=None)
    def test_packing_comes_apart_as_it_was(self, videos):
        dim = videos[0].tokens.shape[1]
        videos = [v for v in videos if v.tokens.shape[1] == dim]
        videos.append(videos[0].select(torch.arange(0)))
        keys = [f"v{i}" for i in range(len(videos))]
        batch = TokenBatch.pack(videos, keys)
        assert len(batch) == len(videos)
        assert batch.lengths.tolist() == [len(v) for v in videos]
        shared = set.intersection(*(set(v.extras) for v in videos))
        for video, back in zip(videos, batch, strict=True):
            only = {n: v for n, v in video.extras.items() if n in shared}
            assert_same(back, dataclasses.replace(video, extras=only))
        assert_same(batch[-1], batch[len(videos) - 1])
        with pytest.raises(IndexError):
            batch[len(videos)]

    def test_padded_is_zero_where_no_token_is(self):
        videos = [make_video(Grid(1, 1, n), seed=n) for n in (3, 1, 2)]
        batch = TokenBatch.pack(videos)
        padded = batch.padded(5)
        assert padded.mask.sum(1).tolist() == [3, 1, 2]
        for b, video in enumerate(videos):
            for name in ROWS:
                value = getattr(padded, name)[b]
                assert torch.equal(value[: len(video)], getattr(video, name))
                assert not bool(value[len(video) :].any())
        assert batch.padded().tokens.shape == (3, 3, 6)
        with pytest.raises(ShapeError, match="would cut a video of 3"):
            batch.padded(2)

    def test_a_padded_batch_knows_its_keys_and_moves_whole(self):
        videos = [make_video(Grid(1, 1, n), seed=n) for n in (3, 1)]
        padded = TokenBatch.pack(videos, ["a", "b"]).padded()
        assert padded.keys == ("a", "b")
        assert TokenBatch.pack(videos).padded().keys == ()
        moved = padded.to("cpu", torch.float64, non_blocking=True)
        assert moved.keys == ("a", "b")
        assert (moved.tokens.dtype, moved.mass.dtype) == (torch.float64, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(padded[1:5], moved[1:5], strict=True))
        assert all(value.device.type == "meta" for value in padded.to("meta")[:5])

    def test_padding_lets_gradients_through(self):
        video = make_video(Grid(1, 1, 3))
        tokens = video.tokens.clone().requires_grad_()
        batch = TokenBatch.pack([dataclasses.replace(video, tokens=tokens)])
        batch.padded(4).tokens.sum().backward()
        assert torch.equal(tokens.grad, torch.ones_like(tokens))

    def test_what_does_not_pack(self):
        video = make_video(Grid(1, 2, 2))
        other = dataclasses.replace(video, extras={"keys": torch.zeros(4, 3)})
        for videos, keys, words in (
            ([], (), "at least one video"),
            ([video], ("a", "b"), "match them"),
            ([video, make_video(Grid(1, 2, 2), dim=3)], (), "share width"),
            ([video, video.to(dtype=torch.bfloat16)], (), "share width and dtype"),
            ([video, other], (), "extra 'keys' must have one row shape"),
        ):
            with pytest.raises(ShapeError, match=words):
                TokenBatch.pack(videos, keys)

    def test_to(self):
        batch = TokenBatch.pack([make_video(Grid(1, 2, 2))]).to("meta", torch.float16)
        assert batch.tokens.dtype == torch.float16
        tensors = [batch.tokens, batch.offsets, batch.positions, batch.assigns[0]]
        tensors += [batch.extras["keys"], batch.frame_extras[0]["pooled"]]
        assert {t.device.type for t in tensors} == {"meta"}
        assert batch.mass.dtype == torch.float32


def chunk(whole, start, stop):
    """Frames ``start`` to ``stop`` of a dense video, as an encoder would hand them on."""
    rows = slice(start * whole.grid.per_frame, stop * whole.grid.per_frame)
    return VideoTokens.from_grid(
        whole.tokens[rows],
        Grid(stop - start, *whole.grid[1:]),
        whole.spans[rows][:: whole.grid.per_frame],
        first_t=start,
        extras={n: v[rows] for n, v in whole.extras.items()},
        frame_extras={n: v[start:stop] for n, v in whole.frame_extras.items()},
    )


def reduce(video, way):
    if way == "merge":
        return merge(video, torch.arange(len(video)) // 3)
    if way == "prune":
        return video.select(torch.arange(0, len(video), 2))
    pairs = torch.eye(len(video) // 2).repeat_interleave(2, 1) / 2
    return resample(video, pairs.to_sparse())
