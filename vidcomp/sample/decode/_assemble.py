"""From single pictures to chunks of resized frames in the order in which they were asked for.

Legend: T frames of a chunk, C channels, h w pixels after resizing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidcomp.functional.resize import Resize, resize_frames
from vidcomp.sample.decode._reader import Picture, Reader

__all__ = ["Assembler", "Piece", "Room"]

Room = Callable[[tuple[int, int, int, int]], Tensor]
"""Memory for pixels of a shape [T, h, w, C]: uint8, contiguous, with anything in it."""

# Few enough for the processor's cache, many enough to make a resize call worth it.
_BATCH_BYTES = 16 << 20
# Overlapping clips ask again for frames that were read: they are kept, up to this much.
_SHELF_BYTES = 256 << 20


class Piece(NamedTuple):
    """Some rows of the request, decoded."""

    data: Tensor | None
    """[T, C, h, w] uint8 of the rows that could be decoded; ``None`` if none could."""
    is_there: list[bool]
    """For each row that was asked for."""
    doubtful: list[int]
    """Indices decoded after an error."""
    content: tuple[int, int, int, int] | None
    """Real pixels of a letterboxed frame."""


class Assembler:
    """Reads the rows of one request, in order, each frame once where possible."""

    def __init__(
        self, reader: Reader, rows: Sequence[int], resize: Resize | None, room: Room | None = None
    ) -> None:
        self._reader = reader
        self._room = room or _new_memory
        self._rows = rows
        self._resize = resize
        self._last_use = {index: row for row, index in enumerate(rows)}
        self._shelf: dict[int, Tensor] = {}
        self._content: tuple[int, int, int, int] | None = None

    def piece(self, start: int, stop: int) -> Piece:
        """Rows ``start`` to ``stop - 1``.

        Raises:
            BackendError: the reader cannot go on.
            ShapeError: the resize policy cannot be applied.
        """
        places: dict[int, list[int]] = defaultdict(list)
        for place, index in enumerate(self._rows[start:stop]):
            places[index].append(place)
        out: Tensor | None = None
        doubtful: list[int] = []
        is_there = [False] * (stop - start)
        for index, picture in self._pictures(sorted(places), doubtful):
            if out is None:
                # Channels last, as decoders give it: copies stay whole and resizing stays fast.
                channels, height, width = picture.shape
                out = self._room((stop - start, height, width, channels)).permute(0, 3, 1, 2)
            for place in places[index]:
                out[place] = picture
                is_there[place] = True
            self._put_away(index, picture, stop)
        self._shelf = {i: p for i, p in self._shelf.items() if self._last_use[i] >= stop}
        if out is not None and not all(is_there):
            out = out[torch.tensor(is_there)]
        return Piece(out, is_there, doubtful, self._content)

    def _pictures(self, needed: list[int], doubtful: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Resized pictures [C, h, w], first those kept from before, then newly read ones."""
        yield from ((index, self._shelf[index]) for index in needed if index in self._shelf)
        stream = self._reader.read([index for index in needed if index not in self._shelf])
        for picture in stream:
            size = max(1, _BATCH_BYTES // picture.pixels.nbytes)
            batch = [picture, *islice(stream, size - 1)]
            doubtful.extend(p.index for p in batch if p.is_doubtful)
            yield from zip((p.index for p in batch), self._resized(batch), strict=True)

    def _resized(self, batch: list[Picture]) -> Tensor:
        data_TCHW = torch.from_numpy(np.stack([p.pixels for p in batch])).permute(0, 3, 1, 2)
        if self._resize is None:
            return data_TCHW
        data_TChw, self._content = resize_frames(data_TCHW, self._resize)
        return data_TChw

    def _put_away(self, index: int, picture: Tensor, stop: int) -> None:
        is_full = (len(self._shelf) + 1) * picture.numel() > _SHELF_BYTES
        if self._last_use[index] >= stop and index not in self._shelf and not is_full:
            self._shelf[index] = picture.clone()


def _new_memory(shape: tuple[int, int, int, int]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)
