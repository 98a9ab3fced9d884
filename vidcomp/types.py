"""The values that pass between stages.

Frames (pixels with times) become VideoTokens (rows with positions, times, mass and provenance);
many VideoTokens make a TokenBatch (packed) and, only on the way into a model, PaddedTokens.

Legend: T frames, C channels, H W pixels, N tokens, D features, P source patches = t * h * w,
B videos, S tokens of all videos.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from vidcomp.errors import ShapeError

__all__ = ["Frames", "Grid", "PaddedTokens", "Source", "TokenBatch", "VideoTokens"]


class Grid(NamedTuple):
    """Patch counts before compression, in the order t, h, w."""

    t: int
    h: int
    w: int

    @property
    def num_patches(self) -> int:
        """All patches of the video."""
        return self.t * self.h * self.w

    @property
    def per_frame(self) -> int:
        """Patches of one frame (or tubelet)."""
        return self.h * self.w


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where frames come from and how they were read; plain values, fit for JSON."""

    path: str
    """File path or URL."""
    backend: str = ""
    """Library that decoded it: decord, pyav or torchcodec."""
    codec: str = ""
    """Name of the codec, e.g. ``h264``."""
    num_frames: int = 0
    """Frames of the whole file."""
    duration_s: float = 0.0
    """End of the last frame minus start of the first, in seconds."""
    fps: float = 0.0
    """Average frames per second."""
    height: int = 0
    """Pixels as displayed, rotation applied."""
    width: int = 0
    """Pixels as displayed, rotation applied."""
    damage: str = ""
    """What could not be decoded, in words; empty if the file is whole."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frames:
    """Pictures with real times; a long video is an iterator of these chunks."""

    data: Tensor
    """[T, C, H, W] uint8 RGB."""
    pts_s: Tensor
    """[T] float64 presentation times in seconds; the file's first frame is at 0."""
    duration_s: Tensor
    """[T] float64 seconds for which each frame is shown."""
    first_index: int = 0
    """Place of row 0 in the sampled sequence (chunks of one video count on)."""
    source: Source | None = None
    """Where the frames come from; ``None`` for made-up pixels."""
    content: tuple[int, int, int, int] | None = None
    """(top, left, height, width) of the real pixels of a letterboxed frame; ``None``: all."""
    num_padded: int = 0
    """Rows at the end that only repeat the last frame to fill a fixed length."""

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.dtype != torch.uint8:
            raise ShapeError(
                f"frames must be [T, C, H, W] uint8, got {list(self.data.shape)} "
                f"{self.data.dtype}: permute and convert them"
            )
        for name in ("pts_s", "duration_s"):
            value: Tensor = getattr(self, name)
            if value.shape != self.data.shape[:1] or value.dtype != torch.float64:
                raise ShapeError(
                    f"{name} must be [{len(self.data)}] float64 as there are {len(self.data)} "
                    f"frames, got {list(value.shape)} {value.dtype}: give one time a frame"
                )

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return _describe(self)

    def __getitem__(self, rows: slice) -> Self:
        """Consecutive frames ``rows``, all fields together."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ShapeError(f"frames are sliced with step 1, got {rows}: use select for others")
        return replace(
            self,
            data=self.data[rows],
            pts_s=self.pts_s[rows],
            duration_s=self.duration_s[rows],
            first_index=self.first_index + start,
            num_padded=min(max(0, stop - start), max(0, stop - (len(self) - self.num_padded))),
        )

    @property
    def spans(self) -> Tensor:
        """[T, 2] float32 [start, stop) seconds in which each frame is shown."""
        return torch.stack([self.pts_s, self.pts_s + self.duration_s], dim=1).float()

    @classmethod
    def cat(cls, chunks: Sequence["Frames"]) -> "Frames":
        """One value from consecutive chunks of one video.

        Raises:
            ShapeError: no chunks, or of different sizes.
        """
        if not chunks:
            raise ShapeError("frames are joined from at least one chunk, got none: pass some")
        if len({c.data.shape[1:] for c in chunks}) > 1:
            sizes = sorted({tuple(c.data.shape[1:]) for c in chunks})
            raise ShapeError(f"chunks must have one size to be joined, got {sizes}: resize first")
        return replace(
            chunks[0],
            data=torch.cat([c.data for c in chunks]),
            pts_s=torch.cat([c.pts_s for c in chunks]),
            duration_s=torch.cat([c.duration_s for c in chunks]),
            num_padded=sum(c.num_padded for c in chunks),
        )


_ROW_FIELDS = ("tokens", "positions", "spans", "mass")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VideoTokens:
    """The tokens of one video: what they are, where and when they were, how much they stand for."""

    tokens: Tensor
    """[N, D] any float dtype, or [N] integer codebook ids."""
    positions: Tensor
    """[N, 3] float32 (t, h, w), mean index of the source patches; the first cell is (0, 0, 0)."""
    spans: Tensor
    """[N, 2] float32 [start, stop) seconds, from the real presentation times."""
    mass: Tensor
    """[N] float32 source patches this token stands for."""
    grid: Grid
    """Patch counts before compression."""
    assign: Tensor | None = None
    """Hard provenance [P] int64: row each source patch went to, -1 = dropped or invalid."""
    weights: Tensor | None = None
    """Soft provenance: sparse [N, P] float32 whose rows sum to 1; set only if ``assign`` is not."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Named [N, ...] tensors that follow every selection and merge."""
    frame_extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Named [t, ...] tensors, one row a frame of the grid; compression leaves them alone."""

    def __post_init__(self) -> None:
        _check_rows(self)
        if self.assign is not None and self.weights is not None:
            raise ShapeError("provenance is either assign or weights, got both: drop one")
        shapes = {"assign": (self.grid.num_patches,), "weights": (len(self), self.grid.num_patches)}
        for name, shape in shapes.items():
            value: Tensor | None = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ShapeError(
                    f"{name} must be {list(shape)} for a grid of {tuple(self.grid)}, got "
                    f"{list(value.shape)}: give one entry a source patch"
                )
        for name, value in self.frame_extras.items():
            if len(value) != self.grid.t:
                raise ShapeError(
                    f"frame extra {name!r} must have {self.grid.t} rows as the grid has "
                    f"{self.grid.t} frames, got {list(value.shape)}: give one row a frame"
                )

    @classmethod
    def from_grid(
        cls,
        tokens: Tensor,
        grid: Grid,
        spans: Tensor,
        *,
        first_t: int = 0,
        valid: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
        frame_extras: Mapping[str, Tensor] | None = None,
    ) -> "VideoTokens":
        """Tokens of an uncompressed grid, one a patch, in raster order.

        Args:
            tokens: [P, D] or [P] ids, raster order (t, h, w).
            grid: patch counts.
            spans: [t, 2] seconds of each frame of the grid.
            first_t: index of the grid's first frame in the whole video (for chunks).
            valid: [P] bool; patches that are False (letterbox, padding) get no token.
            extras: [P, ...] each.
            frame_extras: [t, ...] each.

        Raises:
            ShapeError: counts differ.
        """
        if len(tokens) != grid.num_patches or tuple(spans.shape) != (grid.t, 2):
            raise ShapeError(
                f"a grid of {tuple(grid)} needs {grid.num_patches} tokens and [{grid.t}, 2] spans, "
                f"got {list(tokens.shape)} and {list(spans.shape)}: check the grid"
            )
        device = tokens.device
        cells = torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid))
        positions = cells.reshape(-1, 3).float()
        positions[:, 0] += first_t
        video = cls(
            tokens=tokens,
            positions=positions,
            spans=spans.to(device, torch.float32).repeat_interleave(grid.per_frame, dim=0),
            mass=torch.ones(grid.num_patches, device=device),
            grid=grid,
            assign=torch.arange(grid.num_patches, device=device),
            extras=dict(extras or {}),
            frame_extras=dict(frame_extras or {}),
        )
        return video if valid is None else video.select(valid.nonzero().squeeze(1))

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return _describe(self)

    @property
    def num_seconds(self) -> float:
        """Seconds from the first span's start to the last span's end; 0 without tokens."""
        if not len(self):
            return 0.0
        return float(self.spans[:, 1].max() - self.spans[:, 0].min())

    def select(self, index: Tensor) -> Self:
        """The rows ``index`` [K] int64, in that order; patches of other rows count as dropped."""
        keep = {name: getattr(self, name)[index] for name in _ROW_FIELDS}
        assign, weights = self.assign, self.weights
        if assign is not None:
            row = torch.full((len(self) + 1,), -1, dtype=torch.int64, device=index.device)
            row[index] = torch.arange(len(index), device=index.device)
            assign = row[assign]  # -1 reads the last entry, which stays -1
        if weights is not None:
            weights = torch.index_select(weights.coalesce(), 0, index).coalesce()
        extras = {name: value[index] for name, value in self.extras.items()}
        return replace(self, **keep, assign=assign, weights=weights, extras=extras)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """All tensors on ``device``; only ``tokens`` (if they are float) take ``dtype``."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        if dtype is not None and self.tokens.is_floating_point():
            moved["tokens"] = moved["tokens"].to(dtype)
        extras = {name: value.to(device) for name, value in self.extras.items()}
        frame_extras = {name: value.to(device) for name, value in self.frame_extras.items()}
        return replace(self, **moved, extras=extras, frame_extras=frame_extras)

    @classmethod
    def cat(cls, chunks: Sequence["VideoTokens"]) -> "VideoTokens":
        """One value from consecutive chunks of one video, whose positions are already global.

        Raises:
            ShapeError: no chunks, other (h, w), fields present in some only, or soft provenance.
        """
        if not chunks:
            raise ShapeError("tokens are joined from at least one chunk, got none: pass some")
        first = chunks[0]
        if any(c.grid[1:] != first.grid[1:] for c in chunks):
            raise ShapeError(
                f"chunks must have one (h, w), got {sorted({c.grid[1:] for c in chunks})}: encode "
                f"one video at one resolution"
            )
        if any(c.weights is not None for c in chunks):
            raise ShapeError("chunks with soft provenance cannot be joined: join before resampling")
        if any(
            set(c.extras) != set(first.extras)
            or set(c.frame_extras) != set(first.frame_extras)
            or (c.assign is None) != (first.assign is None)
            for c in chunks
        ):
            raise ShapeError("chunks must have the same extras and provenance: encode them alike")
        rows = {n: torch.cat([getattr(c, n) for c in chunks]) for n in _ROW_FIELDS}
        extras = {n: torch.cat([c.extras[n] for c in chunks]) for n in first.extras}
        frame = {n: torch.cat([c.frame_extras[n] for c in chunks]) for n in first.frame_extras}
        return cls(
            **rows,
            grid=Grid(sum(c.grid.t for c in chunks), *first.grid[1:]),
            assign=None if first.assign is None else _cat_assign(chunks),
            extras=extras,
            frame_extras=frame,
        )


class PaddedTokens(NamedTuple):
    """A rectangular view of a TokenBatch; ``mask`` is True where a token is."""

    tokens: Tensor  # [B, L, D] (or [B, L] ids)
    mask: Tensor  # [B, L] bool
    positions: Tensor  # [B, L, 3] float32
    spans: Tensor  # [B, L, 2] float32
    mass: Tensor  # [B, L] float32


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TokenBatch:
    """Tokens of several videos, packed end to end: no padding is stored or computed on."""

    tokens: Tensor
    """[S, D] float, or [S] integer ids."""
    offsets: Tensor
    """[B + 1] int64: video ``b`` is rows ``offsets[b]:offsets[b + 1]``."""
    positions: Tensor
    """[S, 3] float32."""
    spans: Tensor
    """[S, 2] float32."""
    mass: Tensor
    """[S] float32."""
    grids: tuple[Grid, ...]
    """Grid of each video."""
    assigns: tuple[Tensor | None, ...]
    """Hard provenance of each video."""
    weights: tuple[Tensor | None, ...]
    """Soft provenance of each video."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Named [S, ...] tensors."""
    frame_extras: tuple[Mapping[str, Tensor], ...] = ()
    """Frame extras of each video."""
    keys: tuple[str, ...] = ()
    """Record keys, if the videos have them."""

    @classmethod
    def pack(cls, videos: Sequence[VideoTokens], keys: Sequence[str] = ()) -> "TokenBatch":
        """A batch from videos of one feature width; only extras that all of them have are kept.

        Raises:
            ShapeError: no videos, other widths or types, or another number of keys.
        """
        if not videos:
            raise ShapeError("a batch needs at least one video, got none: pass some")
        if keys and len(keys) != len(videos):
            raise ShapeError(f"{len(videos)} videos need as many keys, got {len(keys)}: match them")
        kinds = {(tuple(v.tokens.shape[1:]), v.tokens.dtype) for v in videos}
        if len(kinds) > 1:
            raise ShapeError(
                f"videos of a batch must share width and dtype, got {sorted(map(str, kinds))}: "
                f"project or convert them first"
            )
        lengths = torch.tensor([0, *map(len, videos)])
        shared = set.intersection(*(set(v.extras) for v in videos))
        return cls(
            **{n: torch.cat([getattr(v, n) for v in videos]) for n in _ROW_FIELDS},
            offsets=lengths.cumsum(0).to(videos[0].tokens.device),
            grids=tuple(v.grid for v in videos),
            assigns=tuple(v.assign for v in videos),
            weights=tuple(v.weights for v in videos),
            extras={n: torch.cat([v.extras[n] for v in videos]) for n in sorted(shared)},
            frame_extras=tuple(v.frame_extras for v in videos),
            keys=tuple(keys),
        )

    def __len__(self) -> int:
        return len(self.grids)

    def __repr__(self) -> str:
        return _describe(self)

    def __getitem__(self, index: int) -> VideoTokens:
        """Video ``index``; negative ones count from the end."""
        b = range(len(self))[index]
        rows = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        return VideoTokens(
            **{n: getattr(self, n)[rows] for n in _ROW_FIELDS},
            grid=self.grids[b],
            assign=self.assigns[b],
            weights=self.weights[b],
            extras={n: value[rows] for n, value in self.extras.items()},
            frame_extras=self.frame_extras[b] if self.frame_extras else {},
        )

    def __iter__(self) -> Iterator[VideoTokens]:
        return (self[b] for b in range(len(self)))

    @property
    def lengths(self) -> Tensor:
        """[B] int64 tokens of each video."""
        return self.offsets.diff()

    def padded(self, length: int | None = None) -> PaddedTokens:
        """Rectangular tensors, zeros on the right of short videos; the only bridge to masks.

        Args:
            length: columns; by default those of the longest video.

        Raises:
            ShapeError: a video is longer than ``length``.
        """
        longest = int(self.lengths.max())
        length = longest if length is None else length
        if longest > length:
            raise ShapeError(
                f"padding to {length} would cut a video of {longest} tokens: pass length>={longest}"
            )
        column = torch.arange(length, device=self.offsets.device)
        mask = column < self.lengths[:, None]
        shape = (len(self), length)

        def pad(value: Tensor) -> Tensor:
            out = value.new_zeros(*shape, *value.shape[1:])
            out[mask] = value
            return out

        return PaddedTokens(
            pad(self.tokens), mask, pad(self.positions), pad(self.spans), pad(self.mass)
        )


def _check_rows(video: VideoTokens) -> None:
    n = len(video.tokens)
    is_ids = not video.tokens.is_floating_point()
    if video.tokens.ndim != (1 if is_ids else 2):
        raise ShapeError(
            f"tokens must be [N, D] float or [N] integer ids, got {list(video.tokens.shape)} "
            f"{video.tokens.dtype}: flatten the grid"
        )
    wanted = {"positions": (n, 3), "spans": (n, 2), "mass": (n,)}
    for name, shape in wanted.items():
        value: Tensor = getattr(video, name)
        if tuple(value.shape) != shape or value.dtype != torch.float32:
            raise ShapeError(
                f"{name} must be {list(shape)} float32 for {n} tokens, got {list(value.shape)} "
                f"{value.dtype}: give one row a token"
            )
    for name, value in video.extras.items():
        if len(value) != n:
            raise ShapeError(
                f"extra {name!r} must have {n} rows as there are {n} tokens, got "
                f"{list(value.shape)}: give one row a token"
            )


def _cat_assign(chunks: Sequence[VideoTokens]) -> Tensor:
    parts, first_row = [], 0
    for chunk in chunks:
        assign = chunk.assign
        assert assign is not None  # noqa: S101  # the caller checked
        parts.append(torch.where(assign < 0, assign, assign + first_row))
        first_row += len(chunk)
    return torch.cat(parts)


def _describe(value: Any) -> str:
    """A repr with shapes instead of numbers."""
    parts = []
    for f in fields(value):
        item = getattr(value, f.name)
        if isinstance(item, Tensor):
            item = f"{list(item.shape)} {str(item.dtype).removeprefix('torch.')}"
        elif isinstance(item, Mapping):
            item = {k: list(v.shape) for k, v in item.items()}
        if item is not None and item not in ({}, ()):
            parts.append(f"{f.name}={item}")
    return f"{type(value).__name__}({', '.join(parts)})"
