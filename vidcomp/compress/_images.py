"""Methods made for one picture, on a video: which rows form a picture, and its share of a budget.

Legend: N rows, T pictures.
"""

from typing import Literal

import torch
from torch import Tensor

from vidcomp.budget import apportion
from vidcomp.compress.base import row_extra
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows
from vidcomp.functional.reduce import norms, real
from vidcomp.types import VideoTokens

__all__ = ["Importance", "Metric", "compared_rows", "frame_ranks", "importances", "pictures"]

Importance = Literal["saliency", "norm"]
"""What makes a token important: the encoder's attention to it in ``extras["saliency"]``, or, for
encoders without attention, the Euclidean norm of its features."""

Metric = Literal["tokens", "keys"]
"""What is compared: the tokens, or the attention keys in ``extras["keys"]``."""


def frame_ranks(video: VideoTokens) -> Tensor:
    """[N] int64 the frame nearest to each token, counted over frames that have tokens."""
    return without_gaps(frame_numbers(video))


def pictures(video: VideoTokens, budget: int) -> list[tuple[Tensor, int]]:
    """Rows of each picture, ascending, and the tokens that remain of it, at least one.

    A picture is a frame, with a share of the budget in proportion to its tokens; a budget below
    the number of frames makes ``budget`` pictures, each of about as many consecutive frames.
    """
    frame_N = frame_ranks(video)
    num_frames = int(frame_N.max()) + 1
    if budget < num_frames:
        frame_N = frame_N * budget // num_frames
    sizes = torch.bincount(frame_N)
    targets = apportion(sizes, total=budget, caps=sizes, minimum=1)
    rows = torch.split(frame_N.argsort(stable=True), sizes.tolist())
    return list(zip(rows, targets.tolist(), strict=True))


def importances(video: VideoTokens, kind: Importance, user: str) -> Tensor:
    """[N] importance of each token, float32 or better.

    Raises:
        ShapeError: no saliency, or integer ids, which have no norm.
    """
    if kind == "norm":
        return norms(float_rows("tokens", video.tokens))
    return real(row_extra(video, "saliency", user).detach()).reshape(len(video), -1).mean(dim=1)


def compared_rows(video: VideoTokens, metric: Metric, user: str) -> Tensor:
    """[N, D] float features to compare.

    Raises:
        ShapeError: no keys, or integer ids.
    """
    x_ND = float_rows("tokens", video.tokens)
    if metric == "keys":
        x_ND = float_rows("keys", row_extra(video, "keys", user)).flatten(1)
    return x_ND.detach()
