"""Videos packed as int8 or compressed, and what is read of them."""

import torch

from vidcomp.config import StoreSettings
from vidcomp.store.disk.precision import decode_int8, encode_int8
from vidcomp.store.disk.record import pack, unpack
from vidcomp.types import VideoTokens

INT8 = StoreSettings(dtype="int8")
ZSTD = StoreSettings(codec="zstd")


def packed(video, chosen, key="v"):
    return pack(key, video, {}, None, chosen)


def through(video, chosen):
    """What is read of a video that was packed."""
    found = packed(video, chosen)
    return unpack(memoryview(bytearray(b"".join(found.parts))), found.layout, found.counts)


def features(n=1568, dim=192, *, outliers=0, seed=0):
    """Smooth in time as those of videos; a few channels are 30 times larger, as in real ViTs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=g)
    x = 0.5 * (x + x.roll(1, 0)) + 0.3 * torch.randn(dim, generator=g)
    x[:, :outliers] *= 30
    return x.bfloat16()


def decoded(x):
    return decode_int8(*encode_int8(x, "v")).float()


def with_tokens(video, tokens):
    return VideoTokens(
        tokens=tokens, positions=video.positions, spans=video.spans, mass=video.mass,
        grid=video.grid,
    )  # fmt: skip
