"""Rows of videos as sets that latents read from, and what the latents read as provenance.

Legend: R rows of all videos, B sets of all videos, N rows of the largest set, K latents of a set,
D features in, E features out, P source patches.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import local_positions
from vidcomp.functional.resample_sets import resample_sets
from vidcomp.functional.set_sources import SetSources
from vidcomp.projectors.base import Projector
from vidcomp.projectors.blocks import apart, end_to_end, untraced
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["ClipSets", "RowSets", "SetwiseProjector"]

_LEAST_SAVED = 512
"""Places that a second pass saves, or it is not worth its start."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowSets:
    """Which rows of which video form each set; sets without rows do not exist."""

    rows: Tensor
    """[B, N] int64 row in the packed videos; -1 fills up short sets."""
    mask: Tensor | None
    """[B, N] bool, True where a row is; ``None`` if all sets are full."""
    counts: list[int]
    """Sets of each video."""
    in_order: bool
    """Whether all sets are full and their rows, one set after the other, are all rows in order."""

    @classmethod
    @untraced
    def of(cls, sets: Sequence[Tensor]) -> "RowSets":
        """Rows grouped by number, in ascending order of the number.

        Args:
            sets: for every video [rows] int64, the set that each row belongs to.
        """
        sizes = [[n for n in set_R.bincount().tolist() if n] for set_R in sets]
        counts = [len(own) for own in sizes]
        full = len({n for own in sizes for n in own}) == 1
        if full and all(bool((set_R[1:] >= set_R[:-1]).all()) for set_R in sets):
            row_R = torch.arange(sum(map(len, sets)), device=sets[0].device)
            rows_BN = row_R.view(sum(counts), -1)
            return cls(rows=rows_BN, mask=None, counts=counts, in_order=True)
        parts: list[Tensor] = []
        first_row = 0
        for set_R, own in zip(sets, sizes, strict=True):
            parts += torch.split(set_R.argsort(stable=True) + first_row, own)
            first_row += len(set_R)
        rows_BN = pad_sequence(parts, batch_first=True, padding_value=-1)
        mask = None if full else rows_BN >= 0
        return cls(rows=rows_BN, mask=mask, counts=counts, in_order=False)

    @untraced
    def passes(self) -> list[tuple[Tensor, "RowSets"]]:
        """The numbers of the sets [B'] that are read in one pass, on the CPU, and these sets alone:
        all at once, unless that fills up so many places that long and short sets apart pay.
        """
        everything = torch.arange(len(self.rows))
        if self.mask is None:
            return [(everything, self)]
        length_B = self.mask.sum(dim=1).cpu()
        order_B = length_B.argsort(stable=True)
        sorted_B = length_B[order_B]
        # Places that are saved if the first pass has none, 1, 2 ... of the shortest sets.
        saved_B = everything * (sorted_B[-1] - sorted_B.roll(1))
        count = int(saved_B.argmax())
        if saved_B[count] < max(_LEAST_SAVED, self.rows.numel() // 8):
            return [(everything, self)]
        parts = [order_B[:count].sort().values, order_B[count:].sort().values]
        return [(index, self._part(index, int(length_B[index].max()))) for index in parts]

    def _part(self, index_B: Tensor, length: int) -> "RowSets":
        rows = self.rows[index_B.to(self.rows.device), :length]
        mask = rows >= 0
        full = bool(mask.all())
        return RowSets(rows=rows, mask=None if full else mask, counts=[], in_order=False)

    def pad(self, packed_RD: Tensor) -> Tensor:
        """[B, N, D] rows of every set, zeros where there is none."""
        if self.in_order:
            return packed_RD.reshape(*self.rows.shape, -1)
        padded_BND = packed_RD[self.rows.clamp(min=0)]
        if self.mask is None:
            return padded_BND
        return padded_BND.masked_fill(~self.mask[..., None], 0)

    @untraced
    def videos(
        self, videos: Sequence[VideoTokens], tokens_BKD: Tensor, sources: SetSources
    ) -> list[VideoTokens]:
        """Set after set, the K tokens of each, as new rows of their videos.

        Args:
            videos: those whose rows were grouped.
            tokens_BKD: what was made of each set.
            sources: share of the rows of the set in each token.
        """
        results, first_row = [], 0
        for video, tokens, own_sources, rows in zip(
            videos,
            apart(tokens_BKD, self.counts),
            sources.split(self.counts),
            torch.split(self.rows, self.counts),
            strict=True,
        ):
            own = torch.where(rows < 0, rows, rows - first_row)
            results.append(resample_sets(video, own, own_sources, tokens.flatten(0, 1)))
            first_row += len(video)
        return results


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ClipSets:
    """What latents read from: the rows of each clip of all videos, side by side."""

    rows: Tensor
    """[B, N, D] float, zeros where there is none."""
    mask: Tensor | None
    """[B, N] bool, True where a row is; ``None`` if all clips are full."""
    places: Tensor
    """[B, N, 3] float32 (t, h, w) of each row, t counted from the clip's first frame; fractional
    where tokens were merged."""
    spans: Tensor
    """[B, N, 2] float32 [start, stop) seconds of each row."""
    sizes: Tensor
    """[B, 3] int64: frames of a clip (of a full one), height and width of its grid."""
    numbers: Tensor
    """[B, 2] int64: number of the clip in its video, and clips of that video."""
    num_latents: int
    """K, the tokens wanted of each clip."""
    queries: Sequence[Query | None]
    """What is asked about each of the B clips."""


class SetwiseProjector(Projector):
    """Latents that read the rows of a clip, whatever was merged or dropped before.

    Subclasses write ``read`` and say ``num_latents`` and ``frames_per_clip``.  Tokens out are clip
    by clip, and inside a clip in the order of the latents, which the language model learns by; they
    are not in raster order.  A clip whose tokens were all dropped before has none here either.
    """

    @abstractmethod
    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor | SetSources]:
        """[B, K, E] what the latents of each clip became, and [B, K, N] float32 shares of the rows
        in what each latent read (rows sum to 1, 0 where there is no row); as ``SetSources`` if some
        latents read few of the rows.
        """

    @property
    @abstractmethod
    def num_latents(self) -> int:
        """Tokens out of a clip (at most, if a budget chooses)."""

    @property
    def frames_per_clip(self) -> int | None:
        """Frames that one set of latents reads; ``None``: all of the video."""
        return None

    def latents_within(self, grid: Grid, budget: int | None) -> int:  # noqa: ARG002
        """Tokens of a clip if a video of this grid may have ``budget``: always ``num_latents``,
        unless the latents are elastic.

        Raises:
            BudgetError: elastic, and ``budget`` is less than a token a clip.
        """
        return self.num_latents

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """``latents_within`` a clip."""
        return self.latents_within(grid, budget) * self.num_clips(grid)

    def num_clips(self, grid: Grid) -> int:
        """Clips of a video; the last may be shorter."""
        length = self.frames_per_clip
        return 1 if length is None else -(-grid.t // length)

    def features(self, video: VideoTokens) -> Tensor:
        """[R, D] what of a video is read: its tokens, unless a method reads extras too."""
        return video.tokens

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """Clips of all videos that want the same number of latents side by side, short ones
        masked.
        """
        wanted = [self.latents_within(v.grid, b) for v, b in zip(videos, budgets, strict=True)]
        found: dict[int, VideoTokens] = {}
        for count in sorted(set(wanted)):
            index = [i for i, k in enumerate(wanted) if k == count]
            some, asked = [videos[i] for i in index], [queries[i] for i in index]
            found |= zip(index, self._read(some, asked, count), strict=True)
        return [found[i] for i in range(len(videos))]

    def _read(
        self, videos: Sequence[VideoTokens], queries: Sequence[Query | None], num_latents: int
    ) -> list[VideoTokens]:
        clips, places = zip(*map(self._placed, videos), strict=True)
        sets = RowSets.of(clips)
        kinds = [self._kinds(v, c) for v, c in zip(videos, clips, strict=True)]
        sizes_B3, numbers_B2 = torch.split(torch.cat(kinds), [3, 2], dim=1)
        features_RD = end_to_end([self.features(video) for video in videos])
        asked = [q for q, n in zip(queries, sets.counts, strict=True) for _ in range(n)]
        found = []
        passes = sets.passes()
        for index_B, part in passes:
            clips_B = index_B.to(sizes_B3.device)
            found.append(
                self.read(
                    ClipSets(
                        rows=part.pad(features_RD),
                        mask=part.mask,
                        places=part.pad(end_to_end(places)),
                        spans=part.pad(end_to_end([video.spans for video in videos])),
                        sizes=sizes_B3[clips_B],
                        numbers=numbers_B2[clips_B],
                        num_latents=num_latents,
                        queries=[asked[i] for i in index_B.tolist()],
                    )
                )
            )
        return sets.videos(videos, *_together(found, passes, sets.rows.shape[1]))

    def _clip_of_rows(self, video: VideoTokens) -> Tensor:
        """[R] int64 clip of each row; a token merged over frames belongs to that of its centre."""
        return self._placed(video)[0]

    @untraced
    def _placed(self, video: VideoTokens) -> tuple[Tensor, Tensor]:
        """``_clip_of_rows``, and the places [R, 3] of ``ClipSets``."""
        if not len(video):
            raise ShapeError(
                f"the projector {self.config.name!r} reads at least one token, got none: skip the "
                f"video"
            )
        length = self.frames_per_clip or video.grid.t
        places_R3 = local_positions(video).clone()
        # The centre of rows merged inside one frame may be off that frame by a rounding error.
        clip_R = (places_R3[:, 0] + 1e-3).div(length, rounding_mode="floor").long()
        places_R3[:, 0] -= clip_R * length
        return clip_R, places_R3

    @untraced
    def _kinds(self, video: VideoTokens, clip_R: Tensor) -> Tensor:
        """[clips, 5] sizes and numbers of the clips that have rows."""
        t, h, w = video.grid
        number = clip_R.bincount().nonzero().squeeze(1)
        fixed = number.new_tensor([self.frames_per_clip or t, h, w, self.num_clips(video.grid)])
        return torch.cat(
            [fixed[:3].expand(len(number), 3), number[:, None], fixed[3:].expand(len(number), 1)],
            dim=1,
        )


def _together(
    found: Sequence[tuple[Tensor, Tensor | SetSources]],
    passes: Sequence[tuple[Tensor, RowSets]],
    length: int,
) -> tuple[Tensor, SetSources]:
    """[B, K, E] tokens and the sources of all sets in order, the largest being of ``length``."""
    tokens = [part for part, _ in found]
    sources = [x if isinstance(x, SetSources) else SetSources.of([(x, None)]) for _, x in found]
    if len(found) == 1:
        return tokens[0], sources[0]
    back_B = torch.cat([index for index, _ in passes]).argsort().to(tokens[0].device)
    return torch.cat(tokens)[back_B], SetSources.together(sources, back_B, length)
