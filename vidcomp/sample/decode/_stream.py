"""One pass over the frames of a request: select, decode, hand on in chunks, account for damage."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from vidcomp.errors import ConfigError, DecodeError
from vidcomp.functional.resize import Resize, target_size
from vidcomp.sample.base import Selection
from vidcomp.sample.decode._assemble import Assembler, Piece, Room
from vidcomp.sample.decode._backends import Chain, backends_for
from vidcomp.sample.decode._reader import BackendError
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._scan import Pulse, Scan
from vidcomp.sample.decode._timeline import MiscountError, Part, cut
from vidcomp.types import Frames, Source

__all__ = ["Stream"]

_KEEP = "pass on_damage='keep' to use what can be decoded"
_OTHER_BACKEND = "use backend='auto', or on_damage='keep' for what can be decoded"


class Stream:
    """The frames of one request; ``chunks`` is called once."""

    def __init__(
        self, request: DecodeRequest, scan: Scan, pulse: Pulse, room: Room | None = None
    ) -> None:
        """Runs the sampler.

        Raises:
            DecodeError: a damaged file, an empty range, or frames beyond the limits.
            ConfigError: the sampler picks frames that do not exist.
        """
        self._request = request
        self._scan = scan
        self._room = room
        if scan.damage and request.on_damage == "raise":
            raise DecodeError(
                f"{scan.place.name} is damaged, {scan.damage}: pass on_damage='keep' to use the "
                f"{len(scan)} frames that are there"
            )
        max_pixels = request.limits.max_pixels
        part = cut(scan, request, pulse)
        selection = _select(request, part)
        num_real = len(selection.indices) - selection.num_padded
        self._resize = request.resize_of(scan.height, scan.width, num_real)
        _check_chunk(request, scan, self._resize, len(selection.indices))
        self._rows: list[int] = (selection.indices + part.first).tolist()
        self._first_padded = num_real
        names = backends_for(scan, request.backend)
        self._chain = Chain(names, scan, set(self._rows), max_pixels, pulse)
        self._pts_s = torch.from_numpy(scan.pts_s)
        self._stops_s = torch.from_numpy(np.append(scan.pts_s[1:], scan.end_s))
        self._missing: list[int] = []
        self._doubtful: list[int] = []
        self._fault = ""
        self._num_given = 0

    def chunks(self) -> Iterator[Frames]:
        """Frames in order, ``chunk_frames`` at a time.

        Raises:
            DecodeError: a frame cannot be decoded (``on_damage="raise"``), or none can.
            MiscountError: the scan announced frames that do not exist; before the first chunk only.
        """
        try:
            if self._request.on_damage == "raise":
                yield from self._shrunk_chunks()
            else:
                yield from self._full_chunks()
        finally:
            self._chain.close()

    def _shrunk_chunks(self) -> Iterator[Frames]:
        """Chunks as they come; a row that cannot be decoded makes its chunk shorter."""
        assembler = Assembler(self._chain, self._rows, self._resize, self._room)
        size = self._request.chunk_frames
        for start in range(0, len(self._rows), size):
            stop = min(start + size, len(self._rows))
            try:
                piece = assembler.piece(start, stop)
            except BackendError as error:
                self._stop(start, error)
                break
            self._take_note(start, piece)
            if piece.data is not None:
                yield self._frames(start, piece, piece.data)
                self._num_given += len(piece.data)
        if not self._num_given:
            raise self._error(self._rows[0], advice="none can be, so leave the file out")

    def _full_chunks(self) -> Iterator[Frames]:
        """Full chunks, each given only when there is more, so that the last one knows all."""
        size = self._request.chunk_frames
        held: Frames | None = None
        for frames in self._shrunk_chunks():
            if held is not None and len(held) == size:  # as it is, without a copy
                yield replace(held, source=self._source())
                held = None
            held = frames if held is None else Frames.cat([held, frames])
            while len(held) > size:
                yield replace(held[:size], source=self._source())
                held = held[size:]
        if held is not None:
            yield replace(held, source=self._source())

    def _stop(self, start: int, error: BackendError) -> None:
        """No backend can go on: an error, or the end of what is kept."""
        self._fault = str(error)
        if self._request.on_damage == "raise":
            raise self._error(self._rows[start], advice=_OTHER_BACKEND) from error
        self._missing += self._rows[start:]

    def _take_note(self, start: int, piece: Piece) -> None:
        rows = self._rows[start : start + len(piece.is_there)]
        missing = [i for i, is_there in zip(rows, piece.is_there, strict=True) if not is_there]
        self._fault = self._chain.fault
        if missing and self._chain.num_unexplained and not self._scan.exact and not self._num_given:
            raise MiscountError(f"{self._scan.place.name}: frame {missing[0]} does not exist")
        if self._request.on_damage == "raise":
            if missing:
                raise self._error(missing[0])
            if piece.doubtful:
                raise self._error(piece.doubtful[0], "follows an error and may be wrong, decoded")
        self._missing += missing
        self._doubtful += piece.doubtful

    def _frames(self, start: int, piece: Piece, data: torch.Tensor) -> Frames:
        there = [k for k, is_there in enumerate(piece.is_there) if is_there]
        rows = [self._rows[start + k] for k in there]
        return Frames(
            data=data,
            pts_s=self._pts_s[rows],
            duration_s=self._stops_s[rows] - self._pts_s[rows],
            first_index=self._num_given,
            source=self._source(),
            content=piece.content,
            num_padded=sum(start + k >= self._first_padded for k in there),
        )

    def _source(self) -> Source:
        damage = [self._scan.damage] if self._scan.damage else []
        if self._missing:
            damage.append(
                f"{len(self._missing)} of {len(self._rows)} frames asked for cannot be decoded, "
                f"the first is frame {min(self._missing)} ({self._fault})"
            )
        if self._doubtful:
            damage.append(f"{len(self._doubtful)} follow an error and may show artefacts")
        source = self._scan.source(self._chain.name, "; ".join(damage))
        return replace(source, num_sampled=len(self._rows))

    def _error(
        self, index: int, what: str = "cannot be decoded", advice: str = _KEEP
    ) -> DecodeError:
        return DecodeError(
            f"{self._scan.place.name}: frame {index} at {self._scan.pts_s[index]:.2f} s {what} by "
            f"{self._chain.current} ({self._fault or 'no reason given'}), after "
            f"{self._num_given} of {len(self._rows)} frames asked for: {advice}"
        )


def _select(request: DecodeRequest, part: Part) -> Selection:
    selection = request.sampler(part.timeline)
    indices, num_frames = selection.indices, len(part.timeline)
    name = request.sampler.name or type(request.sampler).__name__
    if indices.ndim != 1 or indices.is_floating_point() or len(indices) == 0:
        raise ConfigError(
            f"sampler {name!r} must give [K] integer indices, at least one, got "
            f"{list(indices.shape)} {indices.dtype}: mend the sampler"
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= num_frames:
        raise ConfigError(
            f"sampler {name!r} picked frame {low if low < 0 else high} of {num_frames} frames "
            f"(0 to {num_frames - 1}): mend the sampler"
        )
    if len(indices) > request.limits.max_frames:
        raise DecodeError(
            f"{request.path}: {len(indices)} frames were asked for, above the limit of "
            f"{request.limits.max_frames}: sample fewer or raise Limits.max_frames"
        )
    return selection


def _check_chunk(request: DecodeRequest, scan: Scan, resize: Resize | None, num_rows: int) -> None:
    height, width = scan.height, scan.width
    num_frames = min(request.chunk_frames, num_rows)
    if resize is not None:
        height, width = target_size(height, width, resize)
    num_bytes = num_frames * height * width * 3
    if num_bytes > request.limits.max_bytes:
        raise DecodeError(
            f"{request.path}: a chunk of {num_frames} frames of {height} x {width} holds "
            f"{num_bytes} bytes, above the limit of {request.limits.max_bytes}: lower "
            f"chunk_frames, resize or raise Limits.max_bytes"
        )
