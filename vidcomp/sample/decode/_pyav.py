"""Frames through PyAV: exact by construction, as each is known by its own presentation time.

Seeking is used in MP4 and Matroska only, goes to a keyframe that the scan saw, and is checked by
the packet on which it lands; elsewhere reading is sequential.  In H.264, pictures to which no other
refers are not decoded unless wanted, which changes no pixel of the others and saves up to four
fifths of the work of sparse reading.  Should a frame not come although nothing went wrong, it is
looked for once more from the start, without either shortcut.
"""

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidcomp.sample.decode._open import open_video, pick_stream
from vidcomp.sample.decode._reader import Picture
from vidcomp.sample.decode._scan import Pulse, Scan

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["PyAVReader"]

# Seeking drops what the decoder holds, so a keyframe only a few frames ahead is reached on foot.
_MIN_LEAP = 4


class _AstrayError(Exception):
    """A seek landed elsewhere than on the keyframe it was sent to."""


class PyAVReader:
    """Pictures of one file, decoded with PyAV.

    A frame's *tick* is its presentation time in units of the stream, or, in files without such
    times, its place among the decoded frames.
    """

    name = "pyav"

    def __init__(
        self,
        scan: Scan,
        wanted: Collection[int],
        max_pixels: int,
        pulse: Pulse,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Opens the file.

        Args:
            scan: what the packets say.
            wanted: all indices that will ever be asked of this reader.
            max_pixels: refuse larger frames.
            pulse: called for every packet.
            size: (height, width) to scale to before rotation, cheaply; default as stored.
        """
        from av.video.reformatter import Interpolation, VideoReformatter

        self.fault = ""
        self.num_unexplained = 0
        self._scan = scan
        self._max_pixels = max_pixels
        self._pulse = pulse
        self._size = size or scan.stored_size
        self._scaler = VideoReformatter()
        self._filter = Interpolation.BILINEAR if size is None else Interpolation.AREA
        self._wanted = {self._tick(index) for index in wanted}
        in_place = scan.container.startswith(("mov", "matroska")) and len(scan.key_ticks) > 0
        self._may_seek = scan.timed and in_place
        self._may_skip = scan.timed and scan.codec == "h264"
        self._open()

    def read(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """See ``Reader``."""
        for index in wanted:
            self._approach(index)
            frame = self._find(self._tick(index))
            if frame is None and not self._is_tainted and (self._may_seek or self._may_skip):
                self._may_seek = self._may_skip = False
                self._reopen()
                frame = self._find(self._tick(index))
            if frame is not None:
                yield Picture(index, self._pixels(frame), self._is_tainted)
            elif not self._is_tainted:
                self.num_unexplained += 1

    def close(self) -> None:
        """See ``Reader``."""
        self._frames.close()
        self._container.close()

    def _tick(self, index: int) -> int:
        return int(self._scan.ticks[index]) if self._scan.timed else index

    def _open(self) -> None:
        self._container = open_video(self._scan.place, self._max_pixels)
        self._stream = pick_stream(self._container, self._scan.place, self._max_pixels)
        self._start(self._tick(0))

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _start(self, floor: int, *, check_landing: bool = False) -> None:
        """Decodes from where the container stands; frames before ``floor`` are not of interest."""
        self._floor = floor
        self._position = floor - 1  # tick of the last frame that was taken or passed
        self._held: tuple[int, VideoFrame] | None = None
        self._is_tainted = False
        self._clean_from: int | None = None
        self._is_done = False
        self._frames = self._decoded(check_landing)

    def _approach(self, index: int) -> None:
        """Goes to the best place from which frame ``index`` can be reached."""
        tick = self._tick(index)
        is_behind = tick <= self._position or self._is_done
        if not self._may_seek:
            if is_behind:
                self._reopen()
            return
        ticks, keys = self._scan.ticks, self._scan.key_ticks
        key = int(keys[max(0, int(np.searchsorted(keys, tick, side="right")) - 1)])
        leap = np.searchsorted(ticks, key) - np.searchsorted(ticks, self._position, side="right")
        if is_behind or leap >= _MIN_LEAP:
            self._seek(key)

    def _seek(self, key: int) -> None:
        import av

        if key <= self._tick(0):
            self._reopen()
            return
        try:
            self._container.seek(key, stream=self._stream)
            self._start(key, check_landing=True)
            self._held = next(self._frames, None)
        except (av.FFmpegError, _AstrayError):
            self._may_seek = False
            self._reopen()

    def _find(self, tick: int) -> "VideoFrame | None":
        """The frame of that tick, or ``None`` once a later one or the end has come."""
        while True:
            newest = self._held or next(self._frames, None)
            if newest is None:
                self._is_done = True
                return None
            if newest[0] > tick:
                self._held = newest
                return None
            self._held = None
            self._position = newest[0]
            if newest[0] == tick:
                return newest[1]

    def _decoded(self, check_landing: bool) -> "Generator[tuple[int, VideoFrame], None, None]":
        """Whole frames in order of presentation, each with its tick."""
        import av

        count = 0
        try:
            for packet in self._container.demux(self._stream):
                self._pulse()
                if check_landing and packet.size:
                    self._check_landing(packet)
                    check_landing = False
                for frame in self._decode(packet):
                    tick = frame.pts if self._scan.timed else count
                    count += 1
                    if tick is not None and tick >= self._floor and self._is_whole(frame, tick):
                        yield tick, frame
        except av.FFmpegError as error:  # of reading, not of decoding
            self._note(error.strerror or str(error))

    def _check_landing(self, packet: "Packet[VideoStream]") -> None:
        if not packet.is_keyframe or packet.pts is None or packet.pts > self._floor:
            raise _AstrayError

    def _decode(self, packet: "Packet[VideoStream]") -> "list[VideoFrame]":
        import av

        if not packet.size and packet.dts is not None:
            return []  # an empty packet would tell the decoder that the file ends
        if self._may_skip:
            is_wanted = packet.pts is None or packet.pts in self._wanted
            self._stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        if self._is_tainted and self._clean_from is None and packet.is_keyframe:
            self._clean_from = packet.pts if self._scan.timed else None
        try:
            return packet.decode()
        except av.FFmpegError as error:
            # Pictures before the floor may refer to what was never read: no damage.
            if not self._scan.timed or packet.pts is None or packet.pts >= self._floor:
                self._note(error.strerror or str(error))
            return []

    def _is_whole(self, frame: "VideoFrame", tick: int) -> bool:
        """Not flagged by the decoder; also ends the doubt where a new keyframe is reached."""
        if self._is_tainted and self._clean_from is not None and tick >= self._clean_from:
            self._is_tainted = False
        if frame.is_corrupt:
            self._note("the decoder marks the frame as corrupt")
        return not frame.is_corrupt

    def _note(self, fault: str) -> None:
        self.fault = fault
        self._is_tainted = True
        self._clean_from = None

    def _pixels(self, frame: "VideoFrame") -> NDArray[np.uint8]:
        height, width = self._size
        rgb = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=self._filter, threads=1
        )
        return self._scan.orientation.apply(np.asarray(rgb.to_ndarray(), dtype=np.uint8))
