"""What a question costs before it is asked: tokens of the context, bytes of memory.

Legend: N tokens of the model's own encoder.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch

from vidcomp.errors import BudgetError
from vidcomp.llm.adapter import Adapter
from vidcomp.sample.decode import Outline
from vidcomp.types import Grid

__all__ = ["Plan", "make_plan"]

_TEXT = 64
"""Tokens of a question and of its template, about; timestamps come on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be read and held."""

    num_frames: int
    grid: Grid
    """Of the model's own encoder."""
    num_video: int
    """Slots of the video in the context, structural rows included."""
    num_prompt: int
    """Tokens of the context, about: text is guessed."""
    context_length: int
    """Tokens that the model was made for; 0 if it does not say."""
    weights_bytes: int
    keys_bytes: int
    """Keys and values of the prompt and of the answer."""
    free_bytes: int
    """Memory that is left for keys and values; 0 if unknown."""

    def __str__(self) -> str:
        most = f" of {self.context_length:,}" if self.context_length else ""
        return (
            f"{self.num_frames} frames, {self.grid.num_patches:,} tokens to {self.num_video:,}; "
            f"prompt about {self.num_prompt:,}{most}; weights {self.weights_bytes / 1e9:.2f} GB, "
            f"keys and values {self.keys_bytes / 1e9:.3f} GB"
        )

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            BudgetError: the prompt exceeds the context, or keys and values the free memory.
        """
        if self.context_length and self.num_prompt > self.context_length:
            raise BudgetError(
                f"the prompt and the answer need about {self.num_prompt:,} tokens, "
                f"{self.num_video:,} of them for the video, and the model takes "
                f"{self.context_length:,}: lower the budget by "
                f"{self.num_prompt - self.context_length:,} or more"
            )
        if self.free_bytes and self.keys_bytes > self.free_bytes:
            raise BudgetError(
                f"keys and values of {self.num_prompt:,} tokens need {self.keys_bytes / 1e9:.2f} "
                f"GB and {self.free_bytes / 1e9:.2f} GB are free: lower the budget"
            )


def make_plan(
    adapter: Adapter, grid: Grid, budget: int, seen: Outline, max_new_tokens: int
) -> Plan:
    """The cost of one question about one video.

    Args:
        adapter: of the model.
        grid: of the tokens before compression.
        budget: slots of the video.
        seen: frames of the video.
        max_new_tokens: most tokens of the answer.
    """
    config = adapter.model.config.get_text_config(decoder=True)
    slots = len(adapter.layout(grid))
    num_video = min(slots, max(budget, slots - grid.num_patches + 1))
    times = 0 if adapter.family.newline else 8 * grid.t
    num_prompt = num_video + times + _TEXT + max_new_tokens
    parameters = sum(p.numel() * p.element_size() for p in adapter.model.parameters())
    return Plan(
        num_frames=seen.num_frames,
        grid=grid,
        num_video=num_video,
        num_prompt=num_prompt,
        context_length=int(getattr(config, "max_position_embeddings", 0) or 0),
        weights_bytes=parameters,
        keys_bytes=num_prompt * _bytes_a_token(config, adapter.model.dtype),
        free_bytes=_free_bytes(adapter.model.device),
    )


def _bytes_a_token(config: Any, dtype: torch.dtype) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = torch.empty((), dtype=dtype).element_size()
    return 2 * int(config.num_hidden_layers) * int(heads) * int(width) * size


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0
