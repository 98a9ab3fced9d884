"""BRAVE's multi-encoder querying transformer: one Q-Former that reads several encoders at once.

BRAVE: Broadening the visual encoding of vision-language models, 2024,
https://arxiv.org/abs/2404.07204.  There is no public code: features of every encoder are brought to
one width by a matrix of its own and lie side by side, without embeddings that tell encoders apart;
latents that have read the question read them all.  In training an encoder is left out now and then.

Legend: N rows of the first encoder, S rows of all, M rows of another, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, overload

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.geometry import is_dense, local_positions, nearest_cells
from vidcomp.functional.provenance import patch_weights
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import apart, end_to_end, untraced
from vidcomp.projectors.qformer import InstructQFormerConfig, QFormerProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, TokenBatch, VideoTokens

__all__ = ["MeqFormer", "MeqFormerConfig"]

_CHUNK_ROWS = 1024


@PROJECTORS.add("meq_former")
class MeqFormerConfig(InstructQFormerConfig):
    """A Q-Former over the tokens of several encoders and a question (BRAVE)."""

    about = ProjectorAbout(
        paper="BRAVE: Broadening the visual encoding of vision-language models (Kar, 2024)",
        tokens="`num_latents` a clip; a clip is a frame",
        checkpoint="`projs`, `query_tokens` and `qformer` of a composition with transformers' "
        "InstructBlipQFormerModel; BRAVE has published none",
        in_order=False,
    )

    encoders: tuple[tuple[str, int], ...] = ()
    """Names of the encoders and features of their tokens, in the order of the checkpoint; the first
    has ``dim_in``, and tokens out lie on its grid.  Empty: one encoder, called ``video``."""
    dim_key: int = Field(1408, ge=1)
    """Features that all encoders' tokens are brought to."""
    num_latents: int = Field(160, ge=1)
    """Tokens out of every clip; BRAVE has 32 for each of its 5 encoders."""
    encoder_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the passes in training in which an encoder's tokens of a video are left out; every
    clip keeps one encoder."""

    @model_validator(mode="after")
    def _check_encoders(self) -> Self:
        names = [name for name, _ in self.encoders]
        if len(set(names)) < len(names) or any(width < 1 for _, width in self.encoders):
            raise ValueError(
                f"{self.name!r} wants encoders by distinct names with at least one feature, got "
                f"{dict(self.encoders)} of {names}: name each once"
            )
        if self.encoders and self.encoders[0][1] != self.dim_in:
            raise ValueError(
                f"{self.name!r} has dim_in={self.dim_in}, but its first encoder {names[0]!r} gives "
                f"{self.encoders[0][1]} features: set dim_in={self.encoders[0][1]}"
            )
        return self

    @property
    def widths(self) -> dict[str, int]:
        """Features by the name of the encoder, in the order of the checkpoint."""
        return dict(self.encoders) or {"video": self.dim_in}

    @property
    def needs(self) -> str:
        """A question, and the tokens of all encoders."""
        others = len(self.widths) - 1
        return super().needs + f" and the tokens of {len(self.widths)} encoders" * bool(others)

    @property
    def dim_rows(self) -> int:
        """``dim_key``, whichever encoder a row is of."""
        return self.dim_key

    def module(self) -> "MeqFormer":
        """A ``MeqFormer`` with weights normal 0.02, latents too."""
        return MeqFormer(self)


class MeqFormer(QFormerProjector):
    """The Q-Former; called with the streams of one video, or of a batch, by encoder.

    A row of another encoder counts as the row of the first encoder that lies nearest to it, grids
    laid over each other: tokens out have provenance, extras and times of the first stream.
    """

    config: MeqFormerConfig

    def __init__(self, config: MeqFormerConfig) -> None:
        super().__init__(config)
        self.projs = nn.ModuleList(nn.Linear(d, config.dim_key) for d in config.widths.values())

    @overload
    def forward(
        self,
        video: VideoTokens | Mapping[str, VideoTokens],
        budget: int | None = None,
        *,
        query: Query | None = None,
    ) -> VideoTokens: ...
    @overload
    def forward(
        self,
        video: TokenBatch | Mapping[str, TokenBatch],
        budget: int | Sequence[int] | None = None,
        *,
        query: Query | Sequence[Query] | None = None,
    ) -> TokenBatch: ...
    def forward(
        self,
        video: VideoTokens | TokenBatch | Mapping[str, VideoTokens] | Mapping[str, TokenBatch],
        budget: int | Sequence[int] | None = None,
        *,
        query: Query | Sequence[Query] | None = None,
    ) -> VideoTokens | TokenBatch:
        """The videos in the language model's space, on the grids of the first encoder.

        Args:
            video: streams by the names of ``encoders``: those of one video, or batches of the same
                videos.  The first must be there; others may be missing, as training has taught it.
                With one encoder, the video or batch itself.
            budget: see ``Projector``.
            query: what is asked about each video, as ids.

        Raises:
            ConfigError: the first stream is missing, or one has an unknown name or other videos;
                see ``Projector``.
            ShapeError: a stream has other features than its encoder gives.
        """
        streams = self._streams(video)
        first = next(iter(streams.values()))
        if isinstance(first, VideoTokens):
            (joined,) = self._joined({n: [s] for n, s in streams.items()})
            return super().forward(joined, budget, query=query)  # type: ignore[arg-type]
        lists = {name: [*stream] for name, stream in streams.items()}
        packed = TokenBatch.pack(self._joined(lists), first.keys)
        return super().forward(packed, budget, query=query)

    def check_query(self) -> None:
        """Refuse to project a video alone, if it takes a question or several encoders.

        Raises:
            ConfigError: it was bound to no query, or reads more than one encoder.
        """
        if self.lacks_query or len(self.config.widths) > 1:
            self.config.check_needs()

    def _streams(self, video: Any) -> dict[str, Any]:
        """Streams by name, in the order of the encoders, all of one video or of one batch."""
        names = list(self.config.widths)
        wanted = f"the projector {self.config.name!r} reads the encoders {', '.join(names)}"
        if not isinstance(video, Mapping):
            if len(names) > 1:
                raise ConfigError(f"{wanted}, got tokens of one: pass a mapping by name")
            video = {names[0]: video}
        unknown = sorted(set(video) - set(names))
        if unknown or names[0] not in video:
            raise ConfigError(
                f"{wanted} and lies on the grid of the first, got {', '.join(video) or 'none'}: "
                f"pass streams by these names, the first always"
            )
        for name, stream in video.items():
            if not isinstance(stream, VideoTokens | TokenBatch):
                raise ConfigError(
                    f"{wanted} as VideoTokens or TokenBatch, got {type(stream).__name__} for "
                    f"{name!r}: pack several videos with TokenBatch.pack"
                )
        counts = [len(s) if isinstance(s, TokenBatch) else None for s in video.values()]
        if len(set(counts)) > 1:
            raise ConfigError(f"{wanted} of the same videos, got {counts}: pass equal batches")
        keys = {s.keys for s in video.values() if isinstance(s, TokenBatch) and s.keys}
        if len(keys) > 1:
            shown = " and ".join(str(list(some)[:4]) for some in sorted(keys))
            raise ConfigError(
                f"{wanted} of the same videos in one order, got batches of {shown}: pack them alike"
            )
        return {name: video[name] for name in names if name in video}

    def _joined(self, streams: Mapping[str, Sequence[VideoTokens]]) -> list[VideoTokens]:
        """Rows of all encoders in one width, as rows of the first encoder's videos."""
        places = {name: number for number, name in enumerate(self.config.widths)}
        rows: list[Sequence[Tensor]] = []
        for name, videos in streams.items():
            for video in videos:
                self._check_width(name, video)
            packed = end_to_end([v.tokens.to(self.dtype) for v in videos])
            widened: Tensor = self.projs[places[name]](packed)
            rows.append(apart(widened, [len(v) for v in videos]))
        parts = zip(*rows, strict=True)
        together = zip(*streams.values(), strict=True)
        return [self._join(videos, tokens) for videos, tokens in zip(together, parts, strict=True)]

    @untraced
    def _join(self, videos: Sequence[VideoTokens], rows: Sequence[Tensor]) -> VideoTokens:
        first, kept = videos[0], self._kept(len(videos))
        if not len(first):
            raise ShapeError(
                f"the projector {self.config.name!r} reads at least one token of its first encoder,"
                f" got none: skip the video"
            )
        if len(videos) == 1:
            return replace(first, tokens=rows[0])
        index_S = torch.cat([_rows_of(videos[i], first) for i in kept])
        tokens_SD = torch.cat([rows[i] for i in kept])
        if 0 not in kept:
            alone_U = self._unread(first, index_S)
            index_S = torch.cat([alone_U, index_S])
            tokens_SD = torch.cat([rows[0][alone_U], tokens_SD])
        weights, times_N = patch_weights(first), torch.bincount(index_S, minlength=len(first))
        return replace(
            first,
            tokens=tokens_SD,
            positions=first.positions[index_S],
            spans=first.spans[index_S],
            mass=(first.mass / times_N)[index_S],
            assign=None,
            weights=None if weights is None else weights.index_select(0, index_S).coalesce(),
            extras={name: value[index_S] for name, value in first.extras.items()},
        )

    def _unread(self, first: VideoTokens, index_S: Tensor) -> Tensor:
        """Rows of the first encoder in clips that no other has rows in: as many tokens come out
        of a video in training as ever.
        """
        clip_N = self._clip_of_rows(first)
        return (~torch.isin(clip_N, clip_N[index_S])).nonzero().squeeze(1)

    def _kept(self, count: int) -> list[int]:
        """The streams that are read: all, but in training."""
        if not self.training or count == 1:
            return list(range(count))
        chance = torch.rand(count)
        kept = chance >= self.config.encoder_dropout
        kept[chance.argmax()] = True
        found: list[int] = kept.nonzero().squeeze(1).tolist()
        return found

    def _check_width(self, name: str, video: VideoTokens) -> None:
        wanted, tokens = self.config.widths[name], video.tokens
        if tokens.ndim == 2 and tokens.shape[1] == wanted:
            return
        setting = "dim_in=" * (name == next(iter(self.config.widths)))
        got = f"got {tokens.shape[1]}" if tokens.ndim == 2 else "got integer ids"
        raise ShapeError(
            f"the projector {self.config.name!r} wants tokens of its encoder {name!r} with "
            f"{setting}{wanted} features, {got}: correct encoders, or use those it was trained with"
        )

    def _check(self, video: VideoTokens) -> None:
        """Streams are checked before they are joined."""


def _rows_of(video: VideoTokens, first: VideoTokens) -> Tensor:
    """[M] int64 the row of ``first`` that each row of ``video`` is nearest to, their grids laid
    over each other.
    """
    if video is first:
        return torch.arange(len(first), device=first.tokens.device)
    scale = _size(first.grid, first) / _size(video.grid, first)
    place_M3 = (local_positions(video).to(scale) + 0.5) * scale - 0.5
    if is_dense(first):
        t, h, w = nearest_cells(place_M3).clamp(min=0).unbind(1)
        last = first.grid
        t, h, w = t.clamp(max=last.t - 1), h.clamp(max=last.h - 1), w.clamp(max=last.w - 1)
        return (t * last.h + h) * last.w + w
    place_N3 = local_positions(first)
    parts = [
        torch.cdist(some, place_N3).argmin(dim=1) for some in torch.split(place_M3, _CHUNK_ROWS)
    ]
    return torch.cat(parts) if parts else place_M3.new_zeros(0, dtype=torch.int64)


def _size(grid: Grid, like: VideoTokens) -> Tensor:
    return like.positions.new_tensor(grid)
