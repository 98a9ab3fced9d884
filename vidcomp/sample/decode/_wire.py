"""Messages between a program and its decode process, over two pipes.

A message is a length, a JSON object, and as many raw bytes as the object's ``num_bytes`` says.
What the process sends is never unpickled: a video that takes it over cannot reach further.
"""

import dataclasses
import json
import struct
from typing import Any, BinaryIO

import torch

from vidcomp.types import Frames, Source

__all__ = ["frames_from", "frames_message", "receive", "receive_pixels", "send"]

Message = dict[str, Any]  # JSON


def send(pipe: BinaryIO, message: Message, payload: "bytes | memoryview" = b"") -> None:
    """Writes one message; ``OSError`` if nobody reads any more."""
    text = json.dumps({**message, "num_bytes": len(payload)}).encode()
    pipe.write(struct.pack("<I", len(text)) + text)
    if payload:
        left = memoryview(payload)
        while left:  # an unbuffered pipe may take a part
            left = left[pipe.write(left) :]
    pipe.flush()


def receive(pipe: BinaryIO) -> Message | None:
    """The next message, its payload still unread; ``None`` at the end of the stream."""
    head = bytearray(4)
    if not _fill(pipe, memoryview(head)):
        return None
    text = bytearray(struct.unpack("<I", head)[0])
    if not _fill(pipe, memoryview(text)):
        return None
    message: Message = json.loads(text)
    return message


def receive_pixels(pipe: BinaryIO, message: Message) -> torch.Tensor | None:
    """The payload as a tensor of ``message["shape"]``; ``None`` if the stream ends before."""
    pixels = torch.empty(message["shape"], dtype=torch.uint8)
    return pixels if _fill(pipe, _bytes_of(pixels)) else None


def _bytes_of(pixels: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    array: Any = pixels.numpy()  # torch's type for it is no buffer
    return memoryview(array).cast("B")


def _fill(pipe: BinaryIO, space: memoryview) -> bool:
    while space:
        count = pipe.readinto(space)  # type: ignore[attr-defined]  # both kinds of pipe have it
        if not count:
            return False
        space = space[count:]
    return True


def frames_message(frames: Frames) -> tuple[Message, memoryview]:
    """A chunk as message and payload; pixels travel as [T, H, W, C], as they lie in memory."""
    pixels = frames.data.permute(0, 2, 3, 1).contiguous()
    message = {
        "kind": "frames",
        "shape": list(pixels.shape),
        "pts_s": frames.pts_s.tolist(),
        "duration_s": frames.duration_s.tolist(),
        "first_index": frames.first_index,
        "source": None if frames.source is None else dataclasses.asdict(frames.source),
        "content": frames.content,
        "num_padded": frames.num_padded,
    }
    return message, _bytes_of(pixels)


def frames_from(message: Message, pixels: torch.Tensor) -> Frames:
    """The chunk of ``frames_message``."""
    content = message["content"]
    return Frames(
        data=pixels.permute(0, 3, 1, 2),
        pts_s=torch.tensor(message["pts_s"], dtype=torch.float64),
        duration_s=torch.tensor(message["duration_s"], dtype=torch.float64),
        first_index=message["first_index"],
        source=None if message["source"] is None else Source(**message["source"]),
        content=None if content is None else (content[0], content[1], content[2], content[3]),
        num_padded=message["num_padded"],
    )
