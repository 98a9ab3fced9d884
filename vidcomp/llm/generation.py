"""What all models that answer do alike: how long an answer may be, and where it ends.

Legend: A tokens of an answer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["ANSWER_TOKENS", "new_tokens"]

ANSWER_TOKENS = 256
"""Most tokens of an answer where nobody says how many; transformers' own 20 cut sentences short."""
_LENGTHS = {"max_new_tokens", "max_length", "generation_config"}


@torch.no_grad()
def new_tokens(
    model: Any,  # of transformers
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> list[Tensor]:
    """[A] int64 each: the new tokens of the answers, without what ends them and what follows.

    Args:
        model: that generates.
        inputs: of ``model.generate``.
        settings: of transformers' GenerationConfig; ``ANSWER_TOKENS`` where they and the model's
            own set no length.
    """
    own = model.generation_config
    if not settings.keys() & _LENGTHS and own.max_new_tokens is None:
        settings = {**settings, "max_new_tokens": ANSWER_TOKENS}
    out = model.generate(**inputs, **settings)
    ends = settings.get("eos_token_id", own.eos_token_id)
    return [_up_to(row, ends) for row in out[:, inputs["input_ids"].shape[1] :].cpu()]


def _up_to(ids_A: Tensor, ends: int | list[int] | None) -> Tensor:
    if ends is None:
        return ids_A
    found = torch.isin(ids_A, torch.tensor(ends)).nonzero()
    return ids_A[: int(found[0, 0])] if len(found) else ids_A
