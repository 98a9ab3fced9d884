"""Small clips for tests: pixels with known motion, written to a file with PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def moving_square(num_frames: int, height: int = 64, width: int = 96, seed: int = 0) -> Pixels:
    """[T, H, W, 3] uint8: a bright square wanders over a fixed gradient; every frame differs.

    The mean brightness also climbs with the frame's index, so neighbours can be told apart after
    lossy coding.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    base = np.stack([rows * 120 / height, columns * 120 / width, (rows + columns) % 64], axis=-1)
    side = max(2, min(height, width) // 4)
    tint = rng.integers(150, 255, size=3)
    speed = rng.integers(1, 4, size=2)
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    for index in range(num_frames):
        frames[index] = np.clip(base + 40 * index / max(1, num_frames - 1), 0, 255)
        top, left = (speed * index + side) % np.maximum(1, (height - side, width - side))
        frames[index, top : top + side, left : left + side] = tint
    return frames


def write_clip(
    path: str | Path,
    frames: Pixels,
    fps: float | Fraction = 10,
    codec: str = "libx264",
    *,
    pix_fmt: str | None = None,
    pts_ms: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
    **options: object,
) -> Path:
    """Writes ``frames`` [T, H, W, 3] uint8 RGB as a video; the suffix decides the container.

    Args:
        path: of the new file.
        frames: pixels; odd sizes get a pixel format without subsampled chroma.
        fps: frames per second (exact for integers and fractions).
        codec: an encoder of FFmpeg: ``libx264``, ``mpeg4``, ``libvpx-vp9``, ``libsvtav1`` ...
        pix_fmt: default ``yuv420p``, or ``yuv444p`` for odd sizes.
        pts_ms: presentation time of each frame in milliseconds (variable frame rate).
        container: options of the muxer, e.g. ``{"movflags": "frag_keyframe+empty_moov"}``.
        options: of the encoder, e.g. ``g=5, bf=2, crf=10, preset="ultrafast"``.
    """
    import av

    _, height, width, _ = frames.shape
    rate = fps if isinstance(fps, Fraction) else Fraction(fps).limit_denominator(1001)
    odd = height % 2 or width % 2
    defaults = {"preset": "ultrafast", "crf": 12} if codec == "libx264" else {}
    settings = {key: str(value) for key, value in {**defaults, **options}.items()}
    with av.open(str(path), "w", container_options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=settings)
        stream.width, stream.height = width, height
        stream.pix_fmt = pix_fmt or ("yuv444p" if odd else "yuv420p")
        stream.codec_context.thread_count = 1
        if pts_ms is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if pts_ms is not None:
                picture.pts, picture.time_base = pts_ms[index], Fraction(1, 1000)
            else:
                picture.pts, picture.time_base = index, 1 / rate
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return Path(path)
