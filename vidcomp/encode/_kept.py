"""The path of chunks of which only some patches are wanted.

Clips without a kept patch are not run; the others run with those of their kind, and an encoder
that can leaves out the patches that are not kept.

Legend: B clips, F frames of a clip, C channels, H W pixels, t h w the grid of a clip, M kept
patches, D features.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types import Frames, Grid

if TYPE_CHECKING:
    from vidcomp.encode.clips import ClipEncoder

__all__ = ["Kept", "check_keep", "encode_kept"]


class Kept(NamedTuple):
    """What a network says of the kept patches of a batch of clips, clip after clip."""

    tokens: Tensor
    """[M, D] in the encoder's dtype, or [M] int64 ids."""
    saliency: Tensor | None = None
    """[M] float32, where the encoder was asked for it."""


class _Clip(NamedTuple):
    """A clip with kept patches."""

    owner: int
    pixels_FCHW: Tensor  # noqa: N815
    keep_thw: Tensor


def check_keep(keep: Sequence[Tensor | None], grids: Sequence[Grid]) -> None:
    """Nothing, if there is one mask (or none) of the grid's shape a chunk.

    Raises:
        ShapeError: there is not.
    """
    if len(keep) != len(grids):
        raise ShapeError(
            f"{len(grids)} chunks need as many masks, got {len(keep)}: give one (or None) a chunk"
        )
    for mask, grid in zip(keep, grids, strict=True):
        if mask is not None and (mask.shape != torch.Size(grid) or mask.dtype != torch.bool):
            raise ShapeError(
                f"keep must be {list(grid)} bool as the grid is, got {list(mask.shape)} "
                f"{mask.dtype}: give one flag a patch"
            )


def encode_kept(
    encoder: "ClipEncoder", batch: Sequence[Frames], masks: Sequence[Tensor]
) -> list[Kept]:
    """Tokens of the kept patches of each chunk, in raster order.

    Args:
        encoder: runs the clips.
        batch: chunks that begin with a clip.
        masks: [t, h, w] bool of each, on the CPU.
    """
    parts: list[dict[int, Kept]] = [{} for _ in batch]
    for numbers, clips in _passes(encoder, batch, masks):
        pixels = torch.cat([clip.pixels_FCHW for clip in clips])
        pixels = pixels.reshape(len(clips), -1, *pixels.shape[1:])
        keep_BTHW = torch.stack([clip.keep_thw for clip in clips])
        out = encoder.features_kept(pixels, keep_BTHW.to(encoder.device))
        counts = keep_BTHW.flatten(1).sum(dim=1).tolist()
        tokens = torch.split(out.tokens, counts)
        saliency = None if out.saliency is None else torch.split(out.saliency, counts)
        for i, (number, clip) in enumerate(zip(numbers, clips, strict=True)):
            row = None if saliency is None else saliency[i]
            parts[clip.owner][number] = Kept(tokens[i], row)
    return [_join([part[n] for n in sorted(part)], encoder) for part in parts]


def _passes(
    encoder: "ClipEncoder", batch: Sequence[Frames], masks: Sequence[Tensor]
) -> Iterator[tuple[list[int], list[_Clip]]]:
    """Clips that may run together, with their numbers; at most ``batch_size`` frames at a time."""
    groups: dict[tuple[int, ...], list[tuple[int, _Clip]]] = {}
    for owner, (frames, mask) in enumerate(zip(batch, masks, strict=True)):
        for number, clip in enumerate(_clips(encoder, owner, frames, mask)):
            if num_kept := int(clip.keep_thw.sum()):
                # Pictures with as many patches need neither padding nor masks.
                key = (*clip.pixels_FCHW.shape, num_kept if encoder.gathers else 0)
                groups.setdefault(key, []).append((number, clip))
    for (length, *_), members in groups.items():
        step = max(1, encoder.batch_size // length)
        for start in range(0, len(members), step):
            numbers, clips = zip(*members[start : start + step], strict=True)
            yield list(numbers), list(clips)


def _clips(encoder: "ClipEncoder", owner: int, frames: Frames, mask: Tensor) -> Iterator[_Clip]:
    """All clips of a chunk; steps that are only filling are not kept."""
    step = 0
    for length, data_TCHW in encoder.cut(frames.data):
        num_steps = -(-length // encoder.tubelet)
        for pixels_FCHW in torch.split(data_TCHW, length):
            keep = mask[step : step + num_steps]
            keep = F.pad(keep, (0, 0, 0, 0, 0, num_steps - len(keep)))
            yield _Clip(owner, pixels_FCHW, keep)
            step += num_steps


def _join(parts: list[Kept], encoder: "ClipEncoder") -> Kept:
    if not parts:
        if encoder.num_codes:
            tokens = torch.zeros(0, dtype=torch.int64, device=encoder.device)
        else:
            tokens = torch.zeros(0, encoder.dim, dtype=encoder.dtype, device=encoder.device)
        return Kept(tokens, torch.zeros(0, device=encoder.device) if encoder.has_saliency else None)
    saliency = [part.saliency for part in parts if part.saliency is not None]
    return Kept(torch.cat([p.tokens for p in parts]), torch.cat(saliency) if saliency else None)
