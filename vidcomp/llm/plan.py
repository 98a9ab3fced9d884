"""What questions cost before they are asked: tokens of the context, bytes of memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from vidcomp.encode.vlm.tokens import layout
from vidcomp.errors import BudgetError
from vidcomp.llm.adapter import Adapter
from vidcomp.types import Grid

__all__ = ["Part", "Plan", "check_length", "context_length", "make_plan", "slots_of"]

_TEXT = 64
"""Tokens of a question and of its template, about."""
_TIMES = 8
"""Tokens of the text around each frame, about."""


class Part(NamedTuple):
    """One video of a prompt."""

    num_frames: int
    grid: Grid
    """Of the model's own encoder."""
    num_slots: int
    """Of the context, structural rows included."""
    num_held: int
    """Most tokens that are in memory before it is compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be read and held."""

    num_frames: int
    num_tokens: int
    """Of the model's own encoder for all frames."""
    num_video: int
    """Slots of the videos in the context, structural rows included."""
    num_prompt: int
    """Tokens of the context with those of the answer, about: text is guessed."""
    context_length: int
    """Tokens that the model was made for; 0 if it does not say."""
    weights_bytes: int
    tokens_bytes: int
    """Tokens that are held before they are compressed, deepstack features included."""
    keys_bytes: int
    """Keys and values of the prompt and of the answer."""
    free_bytes: int
    """Memory that is left for tokens, keys and values; 0 if unknown."""

    def __str__(self) -> str:
        most = f" of {self.context_length:,}" if self.context_length else ""
        return (
            f"{self.num_frames:,} frames, {self.num_tokens:,} tokens to {self.num_video:,}; "
            f"prompt and answer about {self.num_prompt:,}{most}; weights "
            f"{_size(self.weights_bytes)}, tokens {_size(self.tokens_bytes)}, keys and values "
            f"{_size(self.keys_bytes)}"
        )

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            BudgetError: the prompt exceeds the context, or tokens, keys and values the free memory.
        """
        if self.context_length and self.num_prompt > self.context_length:
            excess = self.num_prompt - self.context_length
            raise BudgetError(
                f"the prompt and the answer need about {self.num_prompt:,} tokens, "
                f"{self.num_video:,} of them for the video, and the model takes "
                f"{self.context_length:,}: {_instead(excess, self.num_video, 'ask for')}"
            )
        needed = self.tokens_bytes + self.keys_bytes
        if self.free_bytes and needed > self.free_bytes:
            raise BudgetError(
                f"{self.num_tokens:,} tokens of the encoder need {_size(self.tokens_bytes)}, keys "
                f"and values of {self.num_prompt:,} tokens {_size(self.keys_bytes)}, and "
                f"{_size(self.free_bytes)} are free: lower the budget, take a method that streams "
                f"(docs/methods.md), or ask about a shorter range"
            )


def make_plan(adapter: Adapter, parts: Sequence[Part], max_new_tokens: int) -> Plan:
    """The cost of one question about some videos.

    Args:
        adapter: of the model.
        parts: the videos.
        max_new_tokens: most tokens of the answer.
    """
    whole, size = adapter.model.config, _itemsize(adapter.model.dtype)
    config = whole.get_text_config(decoder=True)
    num_video = sum(part.num_slots for part in parts)
    times = 0 if adapter.family.newline else _TIMES * sum(part.grid.t for part in parts)
    num_prompt = num_video + times + _TEXT + max_new_tokens
    layers = len(getattr(whole.vision_config, "deepstack_visual_indexes", None) or ())
    return Plan(
        num_frames=sum(part.num_frames for part in parts),
        num_tokens=sum(part.grid.num_patches for part in parts),
        num_video=num_video,
        num_prompt=num_prompt,
        context_length=context_length(whole),
        weights_bytes=sum(p.numel() * p.element_size() for p in adapter.model.parameters()),
        tokens_bytes=sum(part.num_held for part in parts) * adapter.dim * (1 + layers) * size,
        keys_bytes=num_prompt * _numbers_a_token(config) * size,
        free_bytes=_free_bytes(adapter.model.device),
    )


def slots_of(adapter: Adapter, grid: Grid, wanted: int) -> int:
    """Slots of a video that is given so many: not more than it has, structural rows included."""
    rows = len(layout(adapter.family, grid))
    return min(rows, max(wanted, rows - grid.num_patches + 1))


def context_length(config: Any) -> int:  # a transformers config
    """Tokens that a model was made for; 0 if its config does not say."""
    text = config.get_text_config(decoder=True)
    return int(getattr(text, "max_position_embeddings", 0) or 0)


def check_length(config: Any, num_prompt: int, num_video: int, max_new_tokens: int | None) -> None:
    """Refuse a prompt that is made and does not fit.

    Raises:
        BudgetError: it and the answer exceed the model's context.
    """
    most, needed = context_length(config), num_prompt + (max_new_tokens or 1)
    if most and needed > most:
        raise BudgetError(
            f"the prompt and the answer need {needed:,} tokens, {num_video:,} of them for the "
            f"video, and the model takes {most:,}: shorten the question, or "
            f"{_instead(needed - most, num_video, 'take')}"
        )


def _instead(excess: int, num_video: int, verb: str) -> str:
    """What to do about so many tokens too many."""
    if excess < num_video:
        return f"lower the budget by {excess:,} or more"
    return f"{verb} an answer that is shorter (max_new_tokens) by {excess:,} or more"


def _numbers_a_token(config: Any) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(width)


def _itemsize(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype).element_size()


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return 0
    try:  # what the kernel can hand out, pages of files included
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123  # no other form
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 0
