"""Frames through decord, where they are known to be those that PyAV would give, bit for bit.

decord numbers frames by itself, is built on FFmpeg 4.1, gives neighbours for frames of open groups
of pictures, conceals broken pictures in silence, and holds some 6 kB more for each frame it passes.
So it is asked only for files that are not long and have no such groups, of codecs and pixel formats
whose pictures do not depend on the decoder, in which its count and times equal the scan's.  And
FFmpeg's log is watched: after any error message the frames at hand are not used and another backend
decides.
"""

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import MissingExtraError
from vidcomp.sample.decode._orientation import UPRIGHT
from vidcomp.sample.decode._reader import BackendError, Picture
from vidcomp.sample.decode._scan import Pulse, Scan

__all__ = ["DecordReader", "decord_objection", "is_installed"]

_AV_LOG_ERROR = 16
_BATCH_BYTES = 16 << 20
_MAX_FRAMES = 5000
# Where a standard fixes each bit of a decoded picture, and the way to RGB is the same in all
# versions of FFmpeg: it then does not show in the pixels which backend read a file.
_CODECS = {"h264", "hevc", "vp8", "vp9"}
_PIX_FMTS = {"yuv420p", "yuvj420p", "yuv444p"}
_MAX_TIME_ERROR_S = 2e-3  # Matroska rounds times to milliseconds


@cache
def is_installed() -> bool:
    """Whether decord is there (it has wheels for x86-64 only)."""
    return find_spec("decord") is not None


def decord_objection(scan: Scan) -> str:
    """Why decord should not be asked for this file; empty if it may be."""
    if scan.place.path is None:
        return "it reads local files only"
    if not scan.container.startswith(("mov", "matroska")) or not scan.timed:
        return "it numbers frames wrongly without reliable presentation times"
    if scan.codec not in _CODECS:
        return f"its pictures of {scan.codec} differ from those of newer decoders"
    is_halved = scan.pix_fmt != "yuv444p"
    is_odd = is_halved and (scan.height % 2 or scan.width % 2)
    if scan.pix_fmt not in _PIX_FMTS or is_odd or scan.is_interlaced:
        return "its colours of such pictures differ from those of other backends"
    if scan.has_open_groups:
        return "it gives wrong frames after a seek into an open group of pictures"
    if len(scan) > _MAX_FRAMES:
        return "its memory grows with the frames it passes"
    if not scan.has_duration:
        return "it needs a duration in the header"
    is_mp4 = scan.container.startswith("mov")
    if scan.orientation.is_mirrored or (scan.orientation != UPRIGHT and not is_mp4):
        return "it does not turn these frames upright"
    return "it conceals damage" if scan.damage else ""


class DecordReader:
    """Pictures of one file, decoded with decord."""

    name = "decord"

    def __init__(self, scan: Scan, pulse: Pulse) -> None:
        """Opens the file and compares decord's table of frames with the scan.

        Raises:
            BackendError: decord cannot open it, or numbers its frames differently.
            MissingExtraError: decord is not installed.
        """
        self.fault = ""
        self.num_unexplained = 0
        self._pulse = pulse
        self._size = (scan.height, scan.width)
        self._log = _error_log()
        self._seen = self._log.num_errors
        self._video = _open(scan)
        self._compare(scan)

    def read(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """See ``Reader``."""
        height, width = self._size
        step = max(1, _BATCH_BYTES // (height * width * 3))
        for start in range(0, len(wanted), step):
            rows = list(wanted[start : start + step])
            for index, pixels in zip(rows, self._batch(rows), strict=True):
                yield Picture(index, pixels)

    def close(self) -> None:
        """See ``Reader``."""
        self._video = None

    def _batch(self, rows: list[int]) -> NDArray[np.uint8]:
        import decord
        from decord._ffi.base import DECORDLimitReachedError

        self._pulse()
        try:
            batch = self._video.get_batch(rows)
        except (decord.DECORDError, DECORDLimitReachedError, RuntimeError, IndexError) as error:
            raise BackendError(_first_line(error)) from error
        # A program may have told decord to hand out tensors of some framework.
        pixels = np.asarray(batch.asnumpy() if hasattr(batch, "asnumpy") else batch)
        if self._log.num_errors != self._seen:
            raise BackendError(f"its decoder reports errors, the last is {self._log.last!r}")
        if pixels.shape[1:3] != self._size:
            raise BackendError(f"its frames are {pixels.shape[1:3]}, not {self._size}")
        return pixels

    def _compare(self, scan: Scan) -> None:
        if len(self._video) != len(scan):
            raise BackendError(f"it counts {len(self._video)} frames, the file has {len(scan)}")
        times = np.asarray(self._video.get_frame_timestamp(range(len(scan))), dtype=np.float64)
        error_s = np.abs(times[:, 0] - times[0, 0] - scan.pts_s).max()
        if not error_s <= _MAX_TIME_ERROR_S:
            raise BackendError(f"its times are wrong by up to {error_s:.3g} s")


def _open(scan: Scan) -> Any:
    try:
        import decord
    except ImportError as error:
        raise MissingExtraError(
            "backend 'decord' was asked for and is not installed (it exists for x86-64 only): "
            "use backend='auto' or 'pyav'"
        ) from error
    try:
        # With a tolerance above 0, decord raises where it would hand out a copy of another frame.
        return decord.VideoReader(str(scan.place.path), num_threads=1, fault_tol=1e-9)
    except (decord.DECORDError, RuntimeError, UnicodeEncodeError) as error:
        raise BackendError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    """What was wrong: messages of decord go on with a C++ stack."""
    line = str(error).strip().partition("\n")[0]
    return line.rpartition("] ")[2][:200] or type(error).__name__


class _ErrorLog:
    """Counts what decord's own FFmpeg says of errors, which would go to stderr and be lost."""

    def __init__(self) -> None:
        self.num_errors = 0
        self.last = ""
        self._callback: Any = None

    def attach(self, library: Any) -> None:
        """Takes the place of FFmpeg's log callback for good; the object must never be freed."""
        # av_log's (context, level, format, va_list); only level and format are looked at.
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        )
        self._callback = kind(self._note)
        library.av_log_set_callback(self._callback)

    def _note(self, _context: Any, level: int, text: bytes, _arguments: Any) -> None:
        # Concealment is told at a lower level, sometimes as the only sign of a broken picture.
        if text and (level <= _AV_LOG_ERROR or text.startswith(b"concealing")):
            self.num_errors += 1
            self.last = text.decode("ascii", "replace").strip()


@cache
def _error_log() -> _ErrorLog:
    """The one log of this process.

    Raises:
        BackendError: decord's FFmpeg is not found beside it, so silent damage would stay silent.
    """
    spec = find_spec("decord")
    if spec is None or spec.origin is None:
        return _ErrorLog()
    package = Path(spec.origin).parent
    folders = (package.parent / "decord.libs", package)
    names = [f for folder in folders for f in folder.glob("*avutil*") if folder.is_dir()]
    if not names:
        raise BackendError("its FFmpeg is not found, so damage could not be noticed")
    import decord  # noqa: F401  # loads the library, with all that it needs

    log = _ErrorLog()
    log.attach(ctypes.CDLL(str(names[0])))
    return log
