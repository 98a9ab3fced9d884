"""Published algorithms that cluster, segment or pool, in plain torch, to be timed against ours.

Transcribed from descriptions, with the steps and the cost of the originals, as in ``published``.
Their answers are not compared; that is what the parity checks do.

Legend: T frames, P tokens of a frame, D features, K budget.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, interpolate

from vidcomp.types import VideoTokens

__all__ = ["PUBLISHED_CLUSTERS"]


def avg_pool(video: VideoTokens, budget: int) -> Tensor:
    """Means over the cells of each frame."""
    return _rows(adaptive_avg_pool2d(_pictures(video), _sides(video, budget)))


def max_pool(video: VideoTokens, budget: int) -> Tensor:
    """Largest values in the cells of each frame."""
    return _rows(adaptive_max_pool2d(_pictures(video), _sides(video, budget)))


def bilinear_pool(video: VideoTokens, budget: int) -> Tensor:
    """Each frame interpolated to fewer places."""
    return _rows(interpolate(_pictures(video), _sides(video, budget), mode="bilinear"))


PUBLISHED_CLUSTERS: dict[str, Callable[[VideoTokens, int], Tensor]] = {
    algorithm.__name__: algorithm for algorithm in (avg_pool, bilinear_pool, max_pool)
}
"""By the name of the compressor."""


def _pictures(video: VideoTokens) -> Tensor:
    """[T, D, h, w], as convolutions and pools want it."""
    x_THWD = video.tokens.view(*video.grid, -1)
    return x_THWD.permute(0, 3, 1, 2).contiguous()


def _rows(x_TDHW: Tensor) -> Tensor:
    return x_TDHW.permute(0, 2, 3, 1).flatten(0, 2)


def _sides(video: VideoTokens, budget: int) -> tuple[int, int]:
    """Height and width of the grid of a frame with at most its share of the budget."""
    _, h, w = video.grid
    share = max(1, budget // video.grid.t)
    tall = max(1, min(h, int((share * h / w) ** 0.5)))
    return tall, max(1, min(w, share // tall))
