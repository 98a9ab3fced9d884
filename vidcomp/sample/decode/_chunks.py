"""A chunk of frames as a message, and back with every value checked.

Legend: T frames, H W pixels, C channels.
"""

import dataclasses
import math
from typing import Any, TypeGuard

import torch
from torch import Tensor

from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._wire import Message, WireError
from vidcomp.types import Frames, Source

__all__ = ["chunk_message", "frames_from", "pixel_bytes", "shape_of"]

_CHANNELS = 3


def chunk_message(frames: Frames) -> tuple[Message, Tensor]:
    """A chunk as message and pixels [T, H, W, C], as they lie in memory."""
    pixels_THWC = frames.data.permute(0, 2, 3, 1)
    message = {
        "kind": "frames",
        "shape": list(pixels_THWC.shape),
        "pts_s": frames.pts_s.tolist(),
        "duration_s": frames.duration_s.tolist(),
        "first_index": frames.first_index,
        "source": None if frames.source is None else dataclasses.asdict(frames.source),
        "content": frames.content,
        "num_padded": frames.num_padded,
    }
    return message, pixels_THWC


def pixel_bytes(pixels: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    array: Any = pixels.numpy()  # torch's type for it is no buffer
    return memoryview(array).cast("B")


def shape_of(message: Message, request: DecodeRequest) -> tuple[int, int, int, int]:
    """[T, H, W, C] of the pixels that belong to the message.

    Raises:
        WireError: no shape of a chunk of that request.
    """
    shape = message.get("shape")
    if not (isinstance(shape, list) and len(shape) == 4 and all(map(_is_count, shape))):
        raise WireError("a chunk without a shape")
    frames, height, width, channels = shape
    is_small = math.prod(shape) <= request.limits.max_bytes and frames <= request.chunk_frames
    if not is_small or channels != _CHANNELS or min(shape) < 1:
        raise WireError(f"a chunk of shape {shape}")
    return frames, height, width, channels


def frames_from(message: Message, pixels_THWC: Tensor) -> Frames:
    """The chunk of ``chunk_message``.

    Raises:
        WireError: values that are none of a chunk.
    """
    num_frames = len(pixels_THWC)
    num_padded, first_index = message.get("num_padded"), message.get("first_index")
    if not (_is_count(num_padded) and num_padded <= num_frames and _is_count(first_index)):
        raise WireError("a chunk without counts")
    return Frames(
        data=pixels_THWC.permute(0, 3, 1, 2),
        pts_s=_seconds(message.get("pts_s"), num_frames),
        duration_s=_seconds(message.get("duration_s"), num_frames),
        first_index=first_index,
        source=_source(message.get("source")),
        content=_box(message.get("content")),
        num_padded=num_padded,
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 62


def _is_real(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 62)


def _seconds(values: Any, num_frames: int) -> Tensor:
    if isinstance(values, list) and len(values) == num_frames and all(map(_is_real, values)):
        seconds = torch.tensor(values, dtype=torch.float64)
        if bool(seconds.isfinite().all()):
            return seconds
    raise WireError("a chunk without times")


def _box(value: Any) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 4 and all(map(_is_count, value))):
        raise WireError("a chunk whose content is nowhere")
    top, left, height, width = value
    return top, left, height, width


def _source(value: Any) -> Source | None:
    if value is None:
        return None
    kinds = {field.name: field.type for field in dataclasses.fields(Source)}
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        raise WireError("a source without its fields")
    for name, given in value.items():
        kind: Any = kinds[name]
        if not (_is_real(given) if kind is float else isinstance(given, kind)):
            raise WireError(f"a source with the {name} {given!r:.100}")
    return Source(**value)
