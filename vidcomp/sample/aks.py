"""Adaptive keyframe sampling (AKS): frames by scores, spread by need.

Adaptive Keyframe Sampling for Long Video Understanding (Tang et al., 2025), arXiv 2502.21271.

Scores say how well candidate frames, about one a second, match a query.  The video is halved again
and again until the best frames of a part stand out from its mean; each part then gives its best
frames, ``K / 2^depth`` of them.  The quota is rounded down, so the original returns fewer than K;
the ``exact`` form fills up with the best that are left.  Where all scores are equal the original
divides zero by zero; here every frame then counts the same.

Legend: N candidate frames (with scores), K frames asked for, M parts.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import TOLERANCE_S, Short, count_frames, fit, shown_at
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.uniform import uniform_index

__all__ = ["AKS", "Part", "aks_index", "aks_parts"]


class Part(NamedTuple):
    """A run of candidates that is halved no further."""

    start: int
    stop: int
    depth: int


def aks_parts(
    score_N: Tensor, count: int, *, t1: float = 0.8, t2: float = -100.0, depth: int = 5
) -> list[Part]:
    """The runs into which the candidates fall.

    A run is kept whole if ``mean(best K) - mean(all) > t1`` and ``std > t2`` (of scores brought to
    0..1, population deviation), or at the largest depth.  K is the count for the whole video also
    deep down, so a run with no more than K candidates is always halved.

    Args:
        score_N: [N] finite scores, higher is better.
        count: K.
        t1: how far the best must stand out.
        t2: how much the scores must vary.
        depth: most halvings.

    Returns:
        Runs in order; together they are 0..N - 1.
    """
    score_N = _normalized(score_N)
    parts: list[Part] = []
    pending = [Part(0, len(score_N), 0)] if len(score_N) else []
    while pending:
        part = pending.pop()
        score = score_N[part.start : part.stop]
        lead = score.topk(min(count, len(score))).values.mean() - score.mean()
        if part.depth >= depth or (lead > t1 and score.std(correction=0) > t2):
            parts.append(part)
            continue
        middle = part.start + len(score) // 2
        halves = Part(part.start, middle, part.depth + 1), Part(middle, part.stop, part.depth + 1)
        pending += [half for half in reversed(halves) if half.start < half.stop]
    return parts


def aks_index(
    score_N: Tensor,
    count: int,
    *,
    t1: float = 0.8,
    t2: float = -100.0,
    depth: int = 5,
    exact: bool = True,
) -> Tensor:
    """The best candidates of each run, in order.

    Args:
        score_N: [N] finite scores, higher is better; of equals the earlier wins.
        count: K.
        t1: see ``aks_parts``.
        t2: see ``aks_parts``.
        depth: see ``aks_parts``.
        exact: fill up to K with the best that are left; else as published, at most K.

    Returns:
        [min(K, N)] int64, strictly ascending; as published from none to K, all N if N < K.

    Raises:
        ShapeError: scores are not a vector of finite numbers.
    """
    if score_N.ndim != 1 or not bool(score_N.isfinite().all()):
        raise ShapeError(
            f"scores must be one finite number for each frame, got {list(score_N.shape)} with "
            f"{int((~score_N.isfinite()).sum())} that are not finite: repair them"
        )
    if len(score_N) < count + exact:  # the original goes on with just as many
        return torch.arange(len(score_N))
    score_N = _normalized(score_N)
    picked_N = torch.zeros(len(score_N), dtype=torch.bool)
    for part in aks_parts(score_N, count, t1=t1, t2=t2, depth=depth):
        quota = count >> part.depth
        picked_N[part.start + _best(score_N[part.start : part.stop], quota)] = True
    if exact:
        left = (~picked_N).nonzero().squeeze(1)
        picked_N[left[_best(score_N[left], count - int(picked_N.sum()))]] = True
    return picked_N.nonzero().squeeze(1)


def _normalized(score_N: Tensor) -> Tensor:
    """[N] float64 from 0 to 1; zeros if all are equal."""
    score_N = score_N.double().cpu()
    if not len(score_N):
        return score_N
    low, high = score_N.aminmax()
    return (score_N - low) / (high - low) if high > low else torch.zeros_like(score_N)


def _best(score: Tensor, count: int) -> Tensor:
    """The ``count`` highest, of equals the earlier."""
    return score.argsort(descending=True, stable=True)[:count]


@SAMPLERS.add("aks")
class AKS(Sampler):
    """``num_frames`` of the frames that were scored, by ``bind``, against a query."""

    num_frames: int = Field(32, ge=1)
    """Frames to pick."""
    t1: float = 0.8
    """How far the best of a part must stand above its mean (scores 0..1) to keep it whole."""
    t2: float = -100.0
    """How much the scores of such a part must vary; below 0 it asks nothing."""
    depth: int = Field(5, ge=0)
    """Most halvings."""
    mode: Literal["exact", "published"] = "exact"
    """``exact`` fills up to ``num_frames``; ``published`` may return fewer."""
    short: Short = "keep"
    """Fewer scored frames: each once, repeated evenly, or the last one repeated."""
    scores: tuple[FiniteFloat, ...] = ()
    """One a candidate, higher is better: see ``bind``."""
    times_s: tuple[FiniteFloat, ...] = ()
    """When each candidate is shown; empty: there is a score for every frame of the video."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.times_s and len(self.times_s) != len(self.scores):
            raise ValueError(
                f"aks needs one time for each of {len(self.scores)} scores, got "
                f"{len(self.times_s)}: match them or leave the times out"
            )
        return self

    def bind(
        self, scores: Tensor | Sequence[float], times_s: Tensor | Sequence[float] = ()
    ) -> "AKS":
        """The same sampler for one video and query.

        Args:
            scores: [J] how well each candidate matches.
            times_s: [J] seconds in the file at which the candidates are shown, any order; those
                outside a time range do not count.  Without times the scores are those of all
                frames, in order.

        Raises:
            ConfigError: counts differ, or a number is not finite.
        """
        plain = {
            "scores": torch.as_tensor(scores).double().flatten().tolist(),
            "times_s": torch.as_tensor(times_s).double().flatten().tolist(),
        }
        return type(self)(**{**dict(self), **plain})

    def __call__(self, timeline: Timeline) -> Selection:
        """[num_frames] rows, fewer for few candidates that are kept or as published.

        Raises:
            ConfigError: no scores were bound, not one for every frame, or none in this time range.
        """
        count_frames(timeline)
        row_N, score_N = self._candidates(timeline)
        total = len(row_N)
        chosen = fit(
            total,
            self.num_frames,
            self.short,
            lambda k: uniform_index(total, k) if k > total else self._select(score_N, k),
        )
        return Selection(row_N[chosen.indices], chosen.num_padded)

    def _select(self, score_N: Tensor, count: int) -> Tensor:
        picked = aks_index(
            score_N,
            count,
            t1=self.t1,
            t2=self.t2,
            depth=self.depth,
            exact=self.mode == "exact",
        )
        # A count below 2^depth can leave every part without a quota.
        return picked if len(picked) else _best(score_N, 1)

    def _candidates(self, timeline: Timeline) -> tuple[Tensor, Tensor]:
        """Rows that have a score, ascending, and the best score of each."""
        score_J = torch.tensor(self.scores, dtype=torch.float64)
        if not len(score_J):
            raise ConfigError("aks picks by scores and none are bound: call bind(scores, times_s)")
        if not self.times_s:
            if len(score_J) == len(timeline):
                return torch.arange(len(timeline)), score_J
            raise ConfigError(
                f"aks needs a score for each of {len(timeline)} frames, got {len(score_J)}: pass "
                f"the times of those that were scored"
            )
        time_J = torch.tensor(self.times_s, dtype=torch.float64)
        start_s = timeline.origin_s
        inside_J = (time_J >= start_s - TOLERANCE_S) & (time_J < timeline.end_s - TOLERANCE_S)
        if not bool(inside_J.any()):
            raise ConfigError(
                f"aks needs scored times between {start_s:g} and {timeline.end_s:g} s, got "
                f"{float(time_J.min()):g} to {float(time_J.max()):g} s: score this part"
            )
        row_J = shown_at(timeline.pts_s, time_J[inside_J])
        best_N = torch.full((len(timeline),), -torch.inf, dtype=torch.float64)
        best_N = best_N.scatter_reduce(0, row_J, score_J[inside_J], "amax")
        row_N = best_N.isfinite().nonzero().squeeze(1)
        return row_N, best_N[row_N]
