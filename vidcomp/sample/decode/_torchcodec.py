"""Frames through torchcodec, on request and in its exact mode only.

Its approximate mode takes frames by a steady rate and is wrong for variable ones.  torchcodec needs
the FFmpeg of the system and raises a RuntimeError at import where there is none.  Broken pictures
that this FFmpeg conceals go unnoticed; the other backends notice them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vidcomp.errors import MissingExtraError
from vidcomp.sample.decode._reader import BackendError, Picture
from vidcomp.sample.decode._scan import Pulse, Scan

__all__ = ["TorchCodecReader", "torchcodec_objection"]

_BATCH_BYTES = 16 << 20
_MAX_TIME_ERROR_S = 2e-3  # Matroska rounds times to milliseconds


def torchcodec_objection(scan: Scan) -> str:
    """Why torchcodec should not be asked for this file; empty if it may be."""
    if not scan.timed:
        return "it is off by one in files without reliable presentation times"
    if scan.orientation.is_mirrored:
        return "it does not turn these frames upright"
    return "it numbers broken frames too" if scan.damage else ""


class TorchCodecReader:
    """Pictures of one file, decoded with torchcodec."""

    name = "torchcodec"

    def __init__(self, scan: Scan, pulse: Pulse) -> None:
        """Opens the file and compares torchcodec's count of frames with the scan.

        Raises:
            BackendError: torchcodec cannot open it, or counts other frames.
            MissingExtraError: torchcodec or the system's FFmpeg is missing.
        """
        self.fault = ""
        self.num_unexplained = 0
        self._pulse = pulse
        self._scan = scan
        self._decoder = _open(scan)
        if len(self._decoder) != len(scan):
            raise BackendError(f"it counts {len(self._decoder)} frames, the file has {len(scan)}")

    def read(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """See ``Reader``."""
        step = max(1, _BATCH_BYTES // (self._scan.height * self._scan.width * 3))
        for start in range(0, len(wanted), step):
            rows = list(wanted[start : start + step])
            for index, pixels in zip(rows, self._batch(rows), strict=True):
                yield Picture(index, pixels.numpy())

    def close(self) -> None:
        """See ``Reader``."""
        self._decoder = None

    def _batch(self, rows: list[int]) -> Any:
        self._pulse()
        try:
            batch = self._decoder.get_frames_at(indices=rows)
        except (RuntimeError, ValueError, IndexError) as error:
            raise BackendError(str(error).strip().partition("\n")[0][:200]) from error
        begin_s = self._decoder.metadata.begin_stream_seconds or 0.0
        error_s = np.abs(batch.pts_seconds.numpy() - begin_s - self._scan.pts_s[rows]).max()
        if not error_s <= _MAX_TIME_ERROR_S:
            raise BackendError(f"its times are wrong by up to {error_s:.3g} s")
        size = (self._scan.height, self._scan.width)
        if tuple(batch.data.shape[1:3]) != size:
            raise BackendError(f"its frames are {tuple(batch.data.shape[1:3])}, not {size}")
        return batch.data


def _open(scan: Scan) -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:  # without FFmpeg it raises what it likes
        reason = str(error).strip().partition("\n")[0][:120]
        raise MissingExtraError(
            f"backend 'torchcodec' was asked for and cannot be imported ({reason}): "
            f"pip install 'vidcomp[torchcodec]' and FFmpeg, or use backend='auto'"
        ) from error
    url = scan.place.name if scan.place.path is None else str(scan.place.path)
    try:
        return VideoDecoder(
            url,
            stream_index=scan.stream_index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
    except (RuntimeError, ValueError) as error:
        raise BackendError(str(error).strip().partition("\n")[0][:200]) from error
