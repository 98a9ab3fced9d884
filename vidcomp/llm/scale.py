"""Fresh projectors at the scale of the language model's own embeddings.

Rows that are much shorter or longer than those of words are next to nothing, or all there is, to
the first layers; Gemma's words are sqrt(D) times as long as its table says.

Legend: V words, N tokens, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidcomp.errors import ConfigError
from vidcomp.projectors.base import Projector
from vidcomp.types import VideoTokens

__all__ = ["match_norm", "word_norm"]

_CHUNK = 1 << 14
_TRIAL = 2.0
"""What candidates are multiplied by, to see which rows follow."""


@torch.no_grad()
def word_norm(model: Any) -> float:
    """Mean length of the rows that the model's first layer reads for words.

    Args:
        model: of transformers.
    """
    words = model.get_input_embeddings()
    ids_V = torch.arange(words.weight.shape[0], device=words.weight.device)
    lengths = [words(part).float().norm(dim=-1) for part in torch.split(ids_V, _CHUNK)]
    return float(torch.cat(lengths).mean())


@torch.no_grad()
def match_norm(projector: Projector, model: Any, video: VideoTokens, **call: Any) -> float:
    """Scale the last layers of a projector, so that its rows are as long as words on average.

    Structural rows (newlines) are left as they are drawn.

    Args:
        projector: fresh; its weights are changed.
        model: the language model, of transformers.
        video: any typical one, as the projector takes it.
        call: further arguments of the projector's call, as ``query``.

    Returns:
        What the rows were multiplied by.

    Raises:
        ConfigError: rows that no layer scales, or that are zero.
    """
    video = video.to(next((p.device for p in projector.parameters()), None))

    def rows() -> tuple[Tensor, Tensor]:
        out = projector(video, **call)
        return out.tokens.float(), out.mass > 0

    before_ND, real_N = rows()
    length = float(before_ND[real_N].norm(dim=-1).mean())
    left_N = real_N.clone()
    last: list[nn.Module] = []
    for module in _in_reverse(projector, video, call):
        if not bool(left_N.any()):
            break
        with _scaled(module, _TRIAL):
            after_ND, _ = rows()
        follows_N = _close(after_ND, _TRIAL * before_ND)
        same_N = _close(after_ND, before_ND)
        is_last = not bool((follows_N & real_N & ~left_N).any())
        if is_last and bool(follows_N.any()) and bool((follows_N | same_N).all()):
            last.append(module)
            left_N &= ~follows_N
    if not length > 0 or bool(left_N.any()):
        raise ConfigError(
            f"rows of the projector {projector.config.name!r} are {length:.3g} long and no layer "
            f"of it scales {int(left_N.sum())} of them: scale its weights yourself to a mean "
            f"length of {word_norm(model):.3g}"
        )
    factor = word_norm(model) / length
    for module in last:
        for value in module.parameters(recurse=False):
            value.mul_(factor)
    return factor


def _close(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """[N] bool: rows that agree but for rounding."""
    close_N: Tensor = (x_ND - y_ND).norm(dim=-1) <= 0.02 * y_ND.norm(dim=-1)
    return close_N


def _in_reverse(projector: Projector, video: VideoTokens, call: dict[str, Any]) -> list[nn.Module]:
    """Modules with parameters of their own, the one that ran last first; then those that others
    read the parameters of.
    """
    order: list[nn.Module] = []
    owners = [m for m in projector.modules() if next(m.parameters(recurse=False), None) is not None]

    def note(module: nn.Module, *_: Any) -> None:
        order.append(module)

    hooks = [module.register_forward_hook(note) for module in owners]
    try:
        projector(video, **call)
    finally:
        for hook in hooks:
            hook.remove()
    ran = list(dict.fromkeys(reversed(order)))
    return ran + [module for module in owners if module not in ran]


@contextmanager
def _scaled(module: nn.Module, factor: float) -> Iterator[None]:
    kept = [(value, value.clone()) for value in module.parameters(recurse=False)]
    for value, _ in kept:
        value.mul_(factor)
    try:
        yield
    finally:
        for value, old in kept:
            value.copy_(old)
