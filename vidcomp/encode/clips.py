"""The path that all encoders share: cut into clips, run them in batches, put tokens together.

A frame encoder is a clip encoder whose clips have one frame, so an encoder only writes what is its
own: the features of a batch of clips and the grid they lie on.

Legend: T frames of a chunk, B clips, F frames of a clip, C channels, H W pixels, t h w the grid of
a clip, D features.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.encode._kept import Kept, check_keep, encode_kept
from vidcomp.encode.base import Encoder, EncoderConfig
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.types import Frames, Grid, VideoTokens

__all__ = ["ClipEncoder", "Features", "valid_patches"]


class Features(NamedTuple):
    """What a network says of a batch of clips."""

    tokens: Tensor
    """[B, t, h, w, D] in the encoder's dtype, or [B, t, h, w] int64 ids."""
    saliency: Tensor | None = None
    """[B, t, h, w] float32, where the encoder was asked for it."""


class ClipEncoder(Encoder):
    """Encodes chunks clip by clip; subclasses write ``grid`` and ``features``."""

    resize: Resize
    has_saliency: bool = False
    """Whether tokens come with a saliency."""

    def __init__(
        self, config: EncoderConfig, resize: Resize, *, device: str, batch_size: int
    ) -> None:
        if batch_size < 1:
            raise ShapeError(f"batch_size is at least 1 frame, got {batch_size}: raise it")
        self.config = config
        self.resize = resize
        self.dtype = config.torch_dtype
        self.device = torch.device(device)
        self.batch_size = batch_size

    @abstractmethod
    def features(self, clips_BFCHW: Tensor) -> Features:
        """Features of equally long clips of one size, [B, F, C, H, W] uint8 on the device."""

    def features_kept(self, clips_BFCHW: Tensor, keep_BTHW: Tensor) -> Kept:
        """Features of the patches of clips that are kept; override it to compute only those.

        Args:
            clips_BFCHW: as for ``features``; each clip has a kept patch.
            keep_BTHW: [B, t, h, w] bool on the device.
        """
        out = self.features(clips_BFCHW)
        saliency = None if out.saliency is None else out.saliency[keep_BTHW]
        return Kept(out.tokens[keep_BTHW], saliency)

    def check_resize(self) -> None:
        """Say at once if the pictures that the settings ask for do not fit.

        Raises:
            ConfigError: they do not.
        """
        if self.resize.mode in ("smart", "none"):  # these follow the picture
            return
        try:
            self.grid(self.frames_multiple, self.resize.height, self.resize.width)
        except ShapeError as error:
            raise ConfigError(f"the encoder's size cannot be used: {error}") from error

    def clip_length(self, num_frames: int) -> int:
        """Frames to which the last clip of ``num_frames`` is filled by repeating the last one."""
        return max(num_frames, self.frames_multiple)

    def many(
        self, batch: Sequence[Frames], keep: Sequence[Tensor | None] | None = None
    ) -> list[VideoTokens]:
        """Tokens of several chunks; clips of equal size share passes, whoever's they are."""
        grids = [self._grid_of(frames) for frames in batch]
        masks = [None] * len(batch) if keep is None else keep
        check_keep(masks, grids)
        # Bytes travel to the device, not floats, and while it works if their memory is pinned.
        batch = [
            replace(frames, data=frames.data.to(self.device, non_blocking=True)) for frames in batch
        ]
        videos: dict[int, VideoTokens] = {}
        with torch.no_grad():
            whole = [i for i, mask in enumerate(masks) if mask is None]
            for i, parts in zip(whole, self._features([batch[i] for i in whole]), strict=True):
                videos[i] = self._tokens(batch[i], grids[i], parts)
            some = {i: mask for i, mask in enumerate(masks) if mask is not None}
            videos |= self._kept_videos({i: batch[i] for i in some}, grids, some)
        return [videos[i] for i in range(len(batch))]

    def _features(self, batch: Sequence[Frames]) -> list[list[Features]]:
        """Features of each chunk's clips."""
        parts: list[list[Features]] = [[] for _ in batch]
        for owners, clips_BFCHW in self._passes(batch):
            out = self.features(clips_BFCHW)
            for row, owner in enumerate(owners):
                saliency = None if out.saliency is None else out.saliency[row]
                parts[owner].append(Features(out.tokens[row], saliency))
        return parts

    def _kept_videos(
        self, batch: Mapping[int, Frames], grids: Sequence[Grid], keep: Mapping[int, Tensor]
    ) -> dict[int, VideoTokens]:
        """Tokens of chunks of which only some patches are wanted, by their place in the batch."""
        masks = {}
        for i, frames in batch.items():
            masks[i] = keep[i].cpu()
            if (valid := self.valid(frames)) is not None:
                masks[i] = masks[i] & valid
        parts = encode_kept(self, list(batch.values()), list(masks.values()))
        return {
            i: self._place(batch[i], grids[i], masks[i].flatten(), part)
            for i, part in zip(batch, parts, strict=True)
        }

    def valid(self, frames: Frames) -> Tensor | None:
        """[t, h, w] bool on the CPU: patches with a real pixel; ``None`` if all are."""
        grid = self._grid_of(frames)
        valid_P = valid_patches(frames, grid, tubelet=self.tubelet, patch=self.patch)
        return None if valid_P is None else valid_P.reshape(grid)

    def _grid_of(self, frames: Frames) -> Grid:
        if not len(frames):
            raise ShapeError("a chunk to encode has at least one frame, got none: leave it out")
        if frames.first_index % self.frames_multiple:
            raise ShapeError(
                f"this encoder sees clips of {self.frames_multiple} frames, and a chunk begins at "
                f"frame {frames.first_index}: let chunks hold a multiple of {self.frames_multiple}"
            )
        if frames.data.shape[1] != 3:
            raise ShapeError(
                f"encoders take 3 colour channels, got {frames.data.shape[1]}: convert to RGB"
            )
        return self.grid(len(frames), frames.data.shape[2], frames.data.shape[3])

    def _passes(self, batch: Sequence[Frames]) -> Iterator[tuple[list[int], Tensor]]:
        """Clips of equal shape with their owners, at most ``batch_size`` frames at a time."""
        groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for owner, frames in enumerate(batch):
            for length, data_TCHW in self.cut(frames.data):
                groups.setdefault((length, *data_TCHW.shape[1:]), []).append((owner, data_TCHW))
        for (length, *_), parts in groups.items():
            owners = [owner for owner, data in parts for _ in range(len(data) // length)]
            # Joined as [T, C, H, W]: so pictures keep the memory layout of the decoder.
            data_TCHW = parts[0][1] if len(parts) == 1 else torch.cat([data for _, data in parts])
            clips_BFCHW = data_TCHW.reshape(-1, length, *data_TCHW.shape[1:])
            step = max(1, self.batch_size // length)
            for start in range(0, len(owners), step):
                yield owners[start : start + step], clips_BFCHW[start : start + step]

    def cut(self, data_TCHW: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Frames of one clip, and the frames of all clips of that length: whole ones, the rest."""
        length = self.frames_multiple
        num_whole = len(data_TCHW) // length * length
        if num_whole:
            yield length, data_TCHW[:num_whole]
        rest = data_TCHW[num_whole:]
        if len(rest):
            filled = self.clip_length(len(rest))
            last = rest[-1:].expand(filled - len(rest), -1, -1, -1)
            yield filled, torch.cat([rest, last])

    def _tokens(self, frames: Frames, grid: Grid, clips: list[Features]) -> VideoTokens:
        """One value of a chunk's clips; steps of the grid that are only filling are cut off."""
        tokens_PD = torch.cat([clip.tokens for clip in clips])[: grid.t].flatten(0, 2)
        saliencies = [clip.saliency for clip in clips if clip.saliency is not None]
        saliency = torch.cat(saliencies)[: grid.t].flatten() if saliencies else None
        valid = self.valid(frames)
        if valid is None:
            return self._place(frames, grid, None, Kept(tokens_PD, saliency))
        valid_P = valid.flatten()
        index = valid_P.nonzero().squeeze(1).to(tokens_PD.device)
        kept = Kept(tokens_PD[index], None if saliency is None else saliency[index])
        return self._place(frames, grid, valid_P, kept)

    def _place(self, frames: Frames, grid: Grid, valid_P: Tensor | None, kept: Kept) -> VideoTokens:
        """Tokens of the valid patches, with all that the grid says of them."""
        device = kept.tokens.device
        video = VideoTokens.from_grid(
            torch.zeros(grid.num_patches, dtype=torch.int64, device=device),
            grid,
            _spans(frames, grid, self.tubelet),
            first_t=frames.first_index // self.tubelet,
            valid=None if valid_P is None else valid_P.to(device),
        )
        extras = {} if kept.saliency is None else {"saliency": kept.saliency}
        return replace(video, tokens=kept.tokens, extras=extras)


def valid_patches(
    frames: Frames, grid: Grid, *, tubelet: int = 1, patch: tuple[int, int] | None = None
) -> Tensor | None:
    """Which patches show a real pixel of a frame that is not padding.

    Args:
        frames: T frames; ``content`` and ``num_padded`` count.
        grid: patch counts of the chunk.
        tubelet: frames of one step of the grid.
        patch: pixels (height, width) of a cell; ``None``: cells share the picture evenly.

    Returns:
        [t * h * w] bool on the CPU, or ``None`` if all are valid.
    """
    if frames.content is None and not frames.num_padded:
        return None
    num_real = len(frames) - frames.num_padded
    valid_t = torch.arange(grid.t) * tubelet < num_real
    size = frames.data.shape[2:]
    top, left, height, width = frames.content or (0, 0, *size)
    valid_h, valid_w = (
        _overlaps(count, start, start + length, cell)
        for count, start, length, cell in zip(
            grid[1:],
            (top, left),
            (height, width),
            [(pixels, 1) for pixels in patch] if patch else list(zip(size, grid[1:], strict=True)),
            strict=True,
        )
    )
    return (valid_t[:, None, None] & valid_h[:, None] & valid_w).flatten()


def _overlaps(count: int, start: int, stop: int, cell: tuple[int, int]) -> Tensor:
    """[count] bool: cells of ``cell[0] / cell[1]`` pixels that meet the pixels [start, stop)."""
    index = torch.arange(count)
    return (index * cell[0] < stop * cell[1]) & ((index + 1) * cell[0] > start * cell[1])


def _spans(frames: Frames, grid: Grid, tubelet: int) -> Tensor:
    """[t, 2] seconds from the first frame's start to the last one's end, for each tubelet."""
    if tubelet == 1:
        return frames.spans
    missing = grid.t * tubelet - len(frames)
    spans_T2 = torch.cat([frames.spans, frames.spans[-1:].expand(missing, 2)])
    spans = spans_T2.reshape(grid.t, tubelet, 2)
    return torch.stack([spans[..., 0].amin(1), spans[..., 1].amax(1)], dim=1)
