"""Videos of every shape for the tests of the cache, and equality by bits."""

import torch
from hypothesis import strategies as st

from vidcomp.config import StoreSettings
from vidcomp.store import CacheWriter, SourceId
from vidcomp.types import Grid, VideoTokens

IDENTITY = {"sample": {"name": "uniform", "num_frames": 8}, "compress": {"budget": {"tokens": 16}}}
FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
ID_TYPES = [torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8, torch.uint16]
EXTRA_TYPES = [*FLOATS.values(), torch.float64, torch.int64, torch.uint8, torch.bool]


def tiny(n=5, dim=7, seed=0, *, dtype=torch.bfloat16, grid=(2, 3, 4), **fields):
    """Random tokens, the same for the same arguments."""
    g = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1] * grid[2]
    fields.setdefault("assign", torch.randint(-1, max(n, 1), (count,), generator=g) if n else None)
    start = torch.rand(n, 1, generator=g)
    return VideoTokens(
        tokens=torch.randn(n, dim, generator=g).to(dtype),
        positions=torch.rand(n, 3, generator=g),
        spans=torch.cat([start, start + 1], dim=1),
        mass=torch.rand(n, generator=g),
        grid=Grid(*grid),
        **fields,
    )


def write(path, videos, *, settings=None, **options):
    """A store of ``{key: video}``; the writer is closed."""
    settings = settings or StoreSettings()
    with CacheWriter(path, identity=IDENTITY, settings=settings, **options) as writer:
        for i, (key, video) in enumerate(videos.items()):
            writer.add(key, video, {"n": i}, SourceId(size=i, mtime_ns=10**18 + i))
    return path


def bits(tensor):
    """Type, shape and bytes: NaN equals NaN, 0 and -0 differ."""
    if tensor is None:
        return None
    if tensor.is_sparse:
        tensor = tensor.coalesce()
        return tuple(tensor.shape), bits(tensor.indices()), bits(tensor.values())
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), raw


def same(a, b):
    """Whether two videos are equal bit for bit, provenance and extras included."""
    return content(a) == content(b)


def content(video):
    """All of a video as plain values that compare."""
    names = ("tokens", "positions", "spans", "mass", "assign", "weights")
    return {
        "grid": tuple(video.grid),
        **{name: bits(getattr(video, name)) for name in names},
        **{f"extras.{k}": bits(v) for k, v in video.extras.items()},
        **{f"frame.{k}": bits(v) for k, v in video.frame_extras.items()},
    }


@st.composite
def any_video(draw, dtype=torch.bfloat16):
    """Any video: empty ones, ids, any bytes as floats, both provenances, extras of any type."""
    grid = Grid(*(draw(st.integers(0, 4)) for _ in range(3)))
    n = draw(st.integers(0, 12))
    if draw(st.booleans()):
        tokens = raw(draw, (n,), draw(st.sampled_from(ID_TYPES)))
    else:
        tokens = raw(draw, (n, draw(st.integers(0, 9))), dtype)
    provenance = draw(st.sampled_from(["none", "hard", "soft"]))
    assign = weights = None
    if provenance == "hard":
        rows = st.integers(-1, n - 1)
        assign = torch.tensor(
            draw(st.lists(rows, min_size=grid.num_patches, max_size=grid.num_patches)),
            dtype=torch.int64,
        )
    elif provenance == "soft":
        pairs = st.tuples(st.integers(0, n - 1), st.integers(0, grid.num_patches - 1))
        cells = draw(st.sets(pairs, max_size=20)) if n and grid.num_patches else set()
        index = torch.tensor(sorted(cells), dtype=torch.int64).reshape(-1, 2).T
        values = raw(draw, (len(cells),), torch.float32)
        weights = torch.sparse_coo_tensor(
            index, values, (n, grid.num_patches), is_coalesced=True, check_invariants=True
        )
    name = st.text(max_size=6)
    shape = st.lists(st.integers(0, 3), max_size=2)
    extras, frames = (
        {
            key: raw(draw, (rows, *draw(shape)), draw(st.sampled_from(EXTRA_TYPES)))
            for key in draw(st.lists(name, max_size=2, unique=True))
        }
        for rows in (n, grid.t)
    )
    return VideoTokens(
        tokens=tokens,
        positions=raw(draw, (n, 3), torch.float32),
        spans=raw(draw, (n, 2), torch.float32),
        mass=raw(draw, (n,), torch.float32),
        grid=grid,
        assign=assign,
        weights=weights,
        extras=extras,
        frame_extras=frames,
    )


def raw(draw, shape, dtype):
    """A tensor of any bytes (of any truth values if it is bool)."""
    seed = draw(st.integers(0, 2**31))
    count = int(torch.tensor(shape).prod()) if shape else 1
    g = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (count * dtype.itemsize,), generator=g, dtype=torch.uint8)
    if dtype == torch.bool:
        return (data % 2).view(torch.bool).reshape(shape)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def any_key():
    """Any text but the empty one: slashes, controls, emoji, lone surrogates, percent signs."""
    special = st.sampled_from(
        [
            "/",
            "//",
            "a/b/c.mp4",
            "%",
            "%2F",
            "__metadata__",
            "a b",
            "é",
            "\x00",
            "\n",
            "\udc80",
            "\U0001f3a5",
            "meta",
            "x/tokens",
            ".",
            "..",
            "../x",
            "k" * 3000,
        ]
    )
    return st.one_of(special, st.text(st.characters(codec=None), min_size=1, max_size=20))
