"""Compressed tokens in their slots: what a model is called with.

Every token enters at the slot of its anchor, a source patch of its own; slots that no token takes
are left out of ids, masks and positions.  The attention mask is always part of the answer: without
one transformers takes jumps of positions for ends of packed sequences.

Legend: L tokens of a prompt, S slots, M tokens of a video, K slots that stay, B prompts,
D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidcomp.encode.vlm.tokens import DEEPSTACK
from vidcomp.errors import ShapeError
from vidcomp.functional.anchors import anchors
from vidcomp.functional.structure import is_structural
from vidcomp.llm.prompt import Prompt, Visual
from vidcomp.types import VideoTokens

__all__ = ["Filled", "deepstack_of", "fill", "join"]


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """A prompt without the slots that nothing takes, and what enters the others."""

    input_ids: Tensor
    """[L'] int64."""
    positions: Tensor
    """[..., L'] int64."""
    types: dict[str, Tensor]
    features: dict[str, Tensor]
    """[K, D] by entry of ``mm_encoder_outputs``, in the order of the slots."""
    deepstack: dict[str, tuple[Tensor, ...]]
    """[K, D] each, by the same entries, in the order of the layers."""


def fill(
    prompt: Prompt, videos: Sequence[VideoTokens], structural: Sequence[Tensor | None]
) -> Filled:
    """Tokens in the prompt, everything else left out.

    Args:
        prompt: of the full grids.
        videos: one a visual of the prompt, in the language model's width.
        structural: [R, D] rows that stand for no patch, or ``None`` where there are none.

    Raises:
        ShapeError: not one video a visual, another grid, structural rows missing, or tokens
            without provenance.
    """
    if not len(prompt.visuals) == len(videos) == len(structural):
        raise ShapeError(
            f"a prompt with {len(prompt.visuals)} videos and images needs as many, got "
            f"{len(videos)}: give them in the order of the prompt"
        )
    keep_L = torch.ones(len(prompt), dtype=torch.bool)
    rows: dict[str, list[tuple[Tensor, ...]]] = {}
    for visual, video, extra in zip(prompt.visuals, videos, structural, strict=True):
        slots_K, parts = _in_slots(visual, video, extra)
        keep_L[visual.slots] = False
        keep_L[slots_K] = True
        rows.setdefault(visual.key, []).append(parts)
    joined = {
        key: tuple(torch.cat(part) for part in zip(*parts, strict=True))
        for key, parts in rows.items()
    }
    return Filled(
        input_ids=prompt.input_ids[keep_L],
        positions=prompt.positions[..., keep_L],
        types={name: value[keep_L] for name, value in prompt.types.items()},
        features={key: parts[0] for key, parts in joined.items()},
        deepstack={key: parts[1:] for key, parts in joined.items()},
    )


def deepstack_of(video: VideoTokens) -> list[Tensor]:
    """[M, D] each: what is added after the first layers of the model, in their order."""
    layers = [name for name in video.extras if name.startswith(DEEPSTACK)]
    return [
        video.extras[name] for name in sorted(layers, key=lambda name: int(name[len(DEEPSTACK) :]))
    ]


def _in_slots(
    visual: Visual, video: VideoTokens, structural: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """[K] slots that stay, and [K, D] tokens and deepstack features in them."""
    if video.grid != visual.grid:
        raise ShapeError(
            f"the prompt is made for a grid of {tuple(visual.grid)}, got tokens of "
            f"{tuple(video.grid)}: encode and ask with the same frames"
        )
    if bool(is_structural(video).any()):
        raise ShapeError(
            "tokens of the model's own encoder were wanted, got structural rows among them: leave "
            "out the projector that adds them"
        )
    device = video.tokens.device
    patch = visual.patch
    slot_of = torch.full((visual.grid.num_patches,), -1)
    slot_of[patch[patch >= 0]] = (patch >= 0).nonzero().squeeze(1)
    place_M = slot_of[anchors(video).cpu()]
    fixed = (patch < 0).nonzero().squeeze(1)
    own = _structural_rows(fixed, patch, structural)
    place_K, order = torch.cat([place_M, fixed]).sort()
    parts = [video.tokens, *deepstack_of(video)]
    if own is not None:
        none = own.new_zeros(own.shape)
        parts = [
            torch.cat([x_MD, own.to(x_MD) if k == 0 else none]) for k, x_MD in enumerate(parts)
        ]
    return visual.slots[place_K], tuple(part[order.to(device)] for part in parts)


def _structural_rows(fixed: Tensor, patch_S: Tensor, rows_RD: Tensor | None) -> Tensor | None:
    """[R', D] in the order of the slots that are theirs."""
    if not len(fixed):
        return None
    which = -1 - patch_S[fixed]
    num = 0 if rows_RD is None else len(rows_RD)
    if rows_RD is None or num <= int(which.max()):
        raise ShapeError(
            f"the prompt has {len(fixed)} slots for rows that stand for no patch, got {num}: keep "
            f"the frame extra 'structural'"
        )
    return rows_RD[which.to(rows_RD.device)]


def join(filled: Sequence[Filled], pad_id: int, device: torch.device | str) -> dict[str, Any]:
    """Inputs of a model for one or several prompts, padded on the left.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, L], ``position_ids`` [B, L] or [4, B, L] (that of
        the text first, without jumps), and the types of tokens [B, L].
    """
    most = max(len(one.input_ids) for one in filled)
    gaps = [most - len(one.input_ids) for one in filled]
    ids = [
        pad(one.input_ids, (gap, 0), value=pad_id) for one, gap in zip(filled, gaps, strict=True)
    ]
    mask = [pad(torch.ones(most - gap, dtype=torch.int64), (gap, 0)) for gap in gaps]
    positions = [pad(one.positions, (gap, 0)) for one, gap in zip(filled, gaps, strict=True)]
    inputs: dict[str, Tensor] = {
        "input_ids": torch.stack(ids),
        "attention_mask": torch.stack(mask),
        "position_ids": torch.stack(positions, dim=-2),
    }
    if inputs["position_ids"].ndim == 3:
        text_1BL = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)[None]
        inputs["position_ids"] = torch.cat([text_1BL, inputs["position_ids"]])
    for name in filled[0].types:
        inputs[name] = torch.stack(
            [pad(one.types[name], (gap, 0)) for one, gap in zip(filled, gaps, strict=True)]
        )
    return {name: value.to(device) for name, value in inputs.items()}
