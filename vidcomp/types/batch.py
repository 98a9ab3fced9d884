"""Tokens of many videos, packed, and their one rectangular view.

Legend: B videos, S tokens of all videos, L columns, D features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types._describe import describe
from vidcomp.types.tokens import ROW_FIELDS, Grid, VideoTokens

__all__ = ["PaddedTokens", "TokenBatch"]


class PaddedTokens(NamedTuple):
    """A rectangular view of a TokenBatch; ``mask`` is True where a token is."""

    tokens: Tensor  # [B, L, D] (or [B, L] ids)
    mask: Tensor  # [B, L] bool
    positions: Tensor  # [B, L, 3] float32
    spans: Tensor  # [B, L, 2] float32
    mass: Tensor  # [B, L] float32
    keys: tuple[str, ...] = ()  # record keys, if the videos have them

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> "PaddedTokens":
        """All tensors on ``device``; only ``tokens`` (if they are float) take ``dtype``."""
        cast = dtype if self.tokens.is_floating_point() else None
        tokens, mask, positions, spans, mass = (
            value.to(device, non_blocking=non_blocking) for value in self[:5]
        )
        return PaddedTokens(tokens.to(dtype=cast), mask, positions, spans, mass, self.keys)


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
        for name in sorted(shared):
            if len(shapes := {tuple(v.extras[name].shape[1:]) for v in videos}) > 1:
                raise ShapeError(
                    f"extra {name!r} must have one row shape in a batch, got {sorted(shapes)}: "
                    f"drop it or make it alike"
                )
        return cls(
            **{n: torch.cat([getattr(v, n) for v in videos]) for n in ROW_FIELDS},
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
        return describe(self)

    def __getitem__(self, index: int) -> VideoTokens:
        """Video ``index``; negative ones count from the end."""
        b = range(len(self))[index]
        rows = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        return VideoTokens(
            **{n: getattr(self, n)[rows] for n in ROW_FIELDS},
            grid=self.grids[b],
            assign=self.assigns[b],
            weights=self.weights[b],
            extras={n: value[rows] for n, value in self.extras.items()},
            frame_extras=self.frame_extras[b] if self.frame_extras else {},
        )

    def __iter__(self) -> Iterator[VideoTokens]:
        return (self[b] for b in range(len(self)))

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """All tensors on ``device``; only ``tokens`` (if they are float) take ``dtype``.

        Args:
            device: where to; by default where they are.
            dtype: of the tokens.
            non_blocking: do not wait for copies out of pinned memory.
        """
        cast = dtype if self.tokens.is_floating_point() else None
        moved = self._map(lambda value: value.to(device, non_blocking=non_blocking))
        return replace(moved, tokens=moved.tokens.to(dtype=cast))

    def pin_memory(self) -> Self:
        """All tensors in page-locked memory, as torch's loaders ask for; ``weights`` stay."""
        return self._map(lambda value: value if value.is_sparse else value.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Every tensor changed."""
        rows: dict[str, Any] = {n: change(getattr(self, n)) for n in (*ROW_FIELDS, "offsets")}
        return replace(
            self,
            **rows,
            assigns=tuple(a if a is None else change(a) for a in self.assigns),
            weights=tuple(w if w is None else change(w) for w in self.weights),
            extras={n: change(value) for n, value in self.extras.items()},
            frame_extras=tuple(
                {n: change(value) for n, value in frame.items()} for frame in self.frame_extras
            ),
        )

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

        positions, spans, mass = (pad(v) for v in (self.positions, self.spans, self.mass))
        return PaddedTokens(pad(self.tokens), mask, positions, spans, mass, self.keys)
