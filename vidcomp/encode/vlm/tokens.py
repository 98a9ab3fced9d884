"""Tokens of a video language model's own encoder and projector, on the grid of its patches.

Legend: t steps of a grid, k frames of a tubelet, S rows that the encoder gives, P patches, R rows
of a frame that stand for no patch, D features of the language model.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vidcomp.encode.vlm.families import Family
from vidcomp.errors import ShapeError
from vidcomp.types import Grid, VideoTokens

__all__ = ["DEEPSTACK", "PTS", "STRUCTURAL", "encode", "layout"]

DEEPSTACK = "deepstack."
"""Extras of that prefix are added to the hidden states after the first layers of the model."""
PTS = "pts_s"
"""Frame extra [t, k] float64: presentation times of the frames of each tubelet, in seconds."""
STRUCTURAL = "structural"
"""Frame extra [t, R, D] with the rows of each frame that stand for no patch (CLS)."""


def layout(family: Family, grid: Grid) -> Tensor:
    """[S] int64: the patch of the grid in each row of a video, ``-1 - k`` for its row k that
    stands for none.
    """
    head, t = family.head_rows, grid.t
    patch_TP = torch.arange(grid.num_patches).view(t, grid.per_frame)
    rows_TR = -1 - torch.arange(t * head).view(t, head)
    patch = torch.cat([rows_TR, patch_TP], dim=1).flatten()
    if not family.newline:
        return patch
    return torch.cat([patch, patch.new_tensor([-1 - t * head])])


@torch.no_grad()
def encode(
    model: Any,  # a base model of transformers: each class has its own methods
    family: Family,
    inputs: Mapping[str, Any],
    grid: Grid,
    spans_T2: Tensor,
    *,
    first_t: int = 0,
) -> VideoTokens:
    """Tokens of a chunk of frames, on the full grid.

    Args:
        model: its base model; only what encodes is needed.
        family: of the model.
        inputs: what the model's ``get_video_features`` (or ``get_image_features``) takes.
        grid: of the tokens it gives.
        spans_T2: [t, 2] seconds.
        first_t: index of the grid's first frame in the whole video, for chunks.

    Returns:
        One row a patch; deepstack features are the extras ``deepstack.0`` and so on, rows
        that stand for no patch the frame extra ``structural`` (a newline is the model's own).

    Raises:
        ShapeError: the model gives another number of tokens.
    """
    run = getattr(model, family.encoder)
    known = inspect.signature(run).parameters
    out = run(**{k: v for k, v in inputs.items() if k in known}, return_dict=True)
    patch_S, deepstack = layout(family, grid), getattr(out, "deepstack_features", None) or ()
    layers = [_rows(features) for features in (out.pooler_output, *deepstack)]
    if len(layers[0]) != len(patch_S):
        raise ShapeError(
            f"a grid of {tuple(grid)} has {len(patch_S)} tokens in {family.title}, its "
            f"encoder gave {len(layers[0])}: give the grid after its own merging of patches"
        )
    is_patch_S = (patch_S >= 0).to(layers[0].device)
    tokens_PD, *deepstack = (rows_SD[is_patch_S] for rows_SD in layers)
    head, frame_extras = family.head_rows, {}
    if head:
        head_SD = layers[0][~is_patch_S][: grid.t * head]
        frame_extras[STRUCTURAL] = head_SD.view(grid.t, head, -1)
    return VideoTokens.from_grid(
        tokens_PD,
        grid,
        spans_T2,
        first_t=first_t,
        extras={f"{DEEPSTACK}{i}": rows_PD for i, rows_PD in enumerate(deepstack)},
        frame_extras=frame_extras,
    )


def _rows(features: Any) -> Tensor:  # a tensor, or a list or tuple of them
    return torch.cat([part.flatten(0, -2) for part in features])
