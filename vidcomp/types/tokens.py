"""Tokens of one video: what they are, where and when they were, how much they stand for.

Legend: N tokens, D features, P source patches = t * h * w.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types._describe import describe

__all__ = ["ROW_FIELDS", "Grid", "VideoTokens"]

ROW_FIELDS = ("tokens", "positions", "spans", "mass")
"""Tensors of a VideoTokens or TokenBatch with one row a token."""


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
    """[N] float32 source patches this token stands for; 0 for structural rows (newlines)."""
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
        for name in ("assign", "weights"):
            value: Tensor | None = getattr(self, name)
            if value is None:
                continue
            patches = self.grid.num_patches
            shape = (patches,) if name == "assign" else (len(self), patches)
            if tuple(value.shape) != shape:
                raise ShapeError(
                    f"{name} must be {list(shape)} for a grid of {tuple(self.grid)}, got "
                    f"{list(value.shape)}: give one entry a source patch"
                )
        if self.assign is not None and self.assign.dtype != torch.int64:
            raise ShapeError(f"assign must be int64, got {self.assign.dtype}: convert it")
        if self.weights is not None and not self.weights.is_sparse:
            raise ShapeError("weights must be a sparse COO tensor, got a dense one: use to_sparse")
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
        if valid is not None and (tuple(valid.shape), valid.dtype) != (
            (grid.num_patches,),
            torch.bool,
        ):
            raise ShapeError(
                f"valid must be [{grid.num_patches}] bool for a grid of {tuple(grid)}, got "
                f"{list(valid.shape)} {valid.dtype}: give one flag a patch"
            )
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
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return describe(self)

    @property
    def num_seconds(self) -> float:
        """Seconds from the first span's start to the last span's end; 0 without tokens."""
        if not len(self):
            return 0.0
        return float(self.spans[:, 1].max() - self.spans[:, 0].min())

    def select(self, index: Tensor) -> Self:
        """The rows ``index``, in that order; patches of other rows count as dropped.

        Args:
            index: [K] integers in 0..N - 1, each at most once.

        Raises:
            ShapeError: an index is out of range, there twice, or a mask.
        """
        index = _check_index(index, len(self)).to(self.tokens.device, torch.int64)
        keep: dict[str, Any] = {name: _rows(getattr(self, name), index) for name in ROW_FIELDS}
        assign, weights = self.assign, self.weights
        if assign is not None:
            row = torch.full((len(self) + 1,), -1, dtype=torch.int64, device=index.device)
            row[index] = torch.arange(len(index), device=index.device)
            assign = row[assign]  # -1 reads the last entry, which stays -1
        if weights is not None:
            weights = torch.index_select(weights.coalesce(), 0, index).coalesce()
        extras = {name: _rows(value, index) for name, value in self.extras.items()}
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
            ShapeError: no chunks, chunks that do not fit together or do not follow in time.
        """
        if not chunks:
            raise ShapeError("tokens are joined from at least one chunk, got none: pass some")
        _check_chunks(chunks)
        first = chunks[0]
        return cls(
            **{n: torch.cat([getattr(c, n) for c in chunks]) for n in ROW_FIELDS},
            grid=Grid(sum(c.grid.t for c in chunks), *first.grid[1:]),
            assign=None if first.assign is None else _cat_assign(chunks),
            weights=None if first.weights is None else _cat_weights(chunks),
            extras={n: torch.cat([c.extras[n] for c in chunks]) for n in first.extras},
            frame_extras={
                n: torch.cat([c.frame_extras[n] for c in chunks]) for n in first.frame_extras
            },
        )


def _check_rows(video: VideoTokens) -> None:
    is_ids = not video.tokens.is_floating_point()
    if video.tokens.ndim != (1 if is_ids else 2):
        raise ShapeError(
            f"tokens must be [N, D] float or [N] integer ids, got {list(video.tokens.shape)} "
            f"{video.tokens.dtype}: flatten the grid"
        )
    n = len(video)
    wanted = {"positions": (n, 3), "spans": (n, 2), "mass": (n,)}
    for name, shape in wanted.items():
        value: Tensor = getattr(video, name)
        if value.shape != shape or value.dtype != torch.float32:
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


def _rows(value: Tensor, index: Tensor) -> Tensor:
    if value.dtype in (torch.uint16, torch.uint32, torch.uint64):  # index_select lacks them
        return value[index]
    return value.index_select(0, index)


def _check_index(index: Tensor, num_rows: int) -> Tensor:
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ShapeError(
            f"rows are selected by [K] integers, got {list(index.shape)} {index.dtype}: turn a "
            f"mask into mask.nonzero().squeeze(1)"
        )
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= num_rows):
        raise ShapeError(
            f"rows must be in 0..{num_rows - 1}, got {int(index.min())} to {int(index.max())}: "
            f"count from the start"
        )
    seen = torch.zeros(num_rows, dtype=torch.bool, device=index.device)
    seen[index.long()] = True
    if (distinct := int(seen.sum())) != len(index):
        # A patch goes to one token only, so a row kept twice would have no provenance.
        raise ShapeError(
            f"each row is selected at most once, got {len(index)} indices of {distinct} rows: "
            f"remove the repeats"
        )
    return index


def _check_chunks(chunks: Sequence[VideoTokens]) -> None:
    """Chunks have one resolution, one feature width, the same fields, and follow in time."""
    if len(sizes := {c.grid[1:] for c in chunks}) > 1:
        raise ShapeError(
            f"chunks must have one (h, w), got {sorted(sizes)}: encode one video at one resolution"
        )
    if len({(tuple(c.tokens.shape[1:]), c.tokens.dtype) for c in chunks}) > 1:
        raise ShapeError("chunks must share width and dtype: encode one video with one encoder")
    names = [
        (set(c.extras), set(c.frame_extras), c.assign is None, c.weights is None) for c in chunks
    ]
    if any(n != names[0] for n in names):
        raise ShapeError("chunks must have the same extras and provenance: encode them alike")
    end = float("-inf")
    for i, chunk in enumerate(c for c in chunks if len(c)):
        start = float(chunk.positions[:, 0].min())
        if start <= end:
            raise ShapeError(
                f"chunks must follow in time, but chunk {i} starts at t={start:g} and the one "
                f"before ends at t={end:g}: pass them in order, made with first_t"
            )
        end = float(chunk.positions[:, 0].max())


def _cat_assign(chunks: Sequence[VideoTokens]) -> Tensor:
    parts, first_row = [], 0
    for chunk in chunks:
        assign = chunk.assign
        assert assign is not None  # noqa: S101  # the caller checked
        parts.append(torch.where(assign < 0, assign, assign + first_row))
        first_row += len(chunk)
    return torch.cat(parts)


def _cat_weights(chunks: Sequence[VideoTokens]) -> Tensor:
    """Block diagonal: a chunk's tokens stand for patches of that chunk only."""
    parts, row, patch = [], 0, 0
    for chunk in chunks:
        assert chunk.weights is not None  # noqa: S101  # the caller checked
        part = chunk.weights.coalesce()
        parts.append((part.indices() + part.indices().new_tensor([[row], [patch]]), part.values()))
        row, patch = row + len(chunk), patch + chunk.grid.num_patches
    index, value = (torch.cat(p, dim=-1) for p in zip(*parts, strict=True))
    return torch.sparse_coo_tensor(
        index, value, (row, patch), is_coalesced=True, check_invariants=False
    )
