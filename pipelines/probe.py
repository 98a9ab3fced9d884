"""Child process of ``vidcomp doctor``: writes tiny clips, or reads them with one library.

    python -m vidcomp.pipelines.probe write|pyav|decord|torchcodec FOLDER

Prints one JSON object, codec -> "ok" or what went wrong.  A process of its own, because video
libraries may crash, hang or write to standard error as they please.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CODECS", "NUM_FRAMES", "main"]

CODECS = {
    "h264": (("libx264",), "mp4"),
    "hevc": (("libx265",), "mp4"),
    "vp9": (("libvpx-vp9",), "webm"),
    "av1": (("libsvtav1", "libaom-av1"), "mkv"),
    "mpeg4": (("mpeg4",), "mp4"),
}
"""Codec -> the encoders that can write it, in order, and the container."""
NUM_FRAMES = 8

_OPTIONS = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast"},
    "libvpx-vp9": {"cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
    "libaom-av1": {"cpu-used": "8"},
}
_TOLERANCE = 12


def main(task: str, folder: Path) -> dict[str, str]:
    """What each codec came to."""
    if task == "write":
        return {codec: _outcome(_write, codec, folder) for codec in CODECS}
    means = {"pyav": _pyav_means, "decord": _decord_means, "torchcodec": _torchcodec_means}[task]
    return {
        codec: _outcome(_check, means, folder / f"{codec}.{container}")
        for codec, (_, container) in CODECS.items()
        if (folder / f"{codec}.{container}").exists()
    }


def _outcome(call: Callable[..., None], *args: object) -> str:
    try:
        call(*args)
    except Exception as error:  # noqa: BLE001  # whatever a foreign library raises is the finding
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return "ok"


def _write(codec: str, folder: Path) -> None:
    import av
    import numpy as np

    names, container = CODECS[codec]
    name = next((name for name in names if name in av.codecs_available), None)
    if name is None:
        raise LookupError(f"no encoder {' or '.join(names)} to make a sample with")
    with av.open(str(folder / f"{codec}.{container}"), "w") as file:
        stream: Any = file.add_stream(name, rate=8, options=_OPTIONS.get(name, {}))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for grey in _greys():
            pixels = np.full((64, 64, 3), grey, dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


def _check(means: Callable[[Path], list[float]], path: Path) -> None:
    found = means(path)
    if len(found) != NUM_FRAMES:
        raise ValueError(f"{len(found)} of {NUM_FRAMES} frames")
    for index, (got, wanted) in enumerate(zip(found, _greys(), strict=True)):
        if abs(got - wanted) > _TOLERANCE:
            raise ValueError(f"frame {index} has brightness {got:.0f} and not {wanted}")


def _greys() -> list[int]:
    """The brightness of each frame: no two frames can be mistaken for each other."""
    return [32 + 26 * index for index in range(NUM_FRAMES)]


def _pyav_means(path: Path) -> list[float]:
    import av

    with av.open(str(path)) as file:
        return [float(f.to_ndarray(format="rgb24").mean()) for f in file.decode(video=0)]


def _decord_means(path: Path) -> list[float]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return [float(reader[index].asnumpy().mean()) for index in range(len(reader))]


def _torchcodec_means(path: Path) -> list[float]:
    from torchcodec.decoders import VideoDecoder

    return [float(frame.float().mean()) for frame in VideoDecoder(str(path))]


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Whatever libraries print goes to standard error, so that the answer stands alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    with _quiet_stdout():
        answer = main(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.write(json.dumps(answer))
