"""The control of every measurement: records end to end in one flat file, and where each begins.

A read is a slice of a memory map copied into the caller's buffer, then the five views that make
a record usable.  ``lean`` leaves the views out: a bare copy, which no reader can beat.  Nothing
here needs more than numpy and torch, so that it runs in the peers' environments too.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["META_BYTES", "RawRecord", "RawStore", "Record", "write_raw"]

META_BYTES = 128
_GEOMETRY = 4 * (3 + 2 + 1)
"""Bytes of positions, spans and mass of one token."""


class Record(NamedTuple):
    """One record to be written; its tensors are contiguous."""

    key: str
    tokens: Tensor  # [N, D] bfloat16
    positions: Tensor  # [N, 3] float32
    spans: Tensor  # [N, 2] float32
    mass: Tensor  # [N] float32


class RawRecord(NamedTuple):
    """One record as five views of the buffer it was copied into."""

    tokens: Tensor  # [N, D] bfloat16
    positions: Tensor  # [N, 3] float32
    spans: Tensor  # [N, 2] float32
    mass: Tensor  # [N] float32
    meta: Tensor  # [128] uint8


def write_raw(folder: Path, records: Iterable[Record], dim: int) -> None:
    """Append records to a flat file, then sync it: the least that any writer must do.

    Args:
        folder: made if it is not there.
        records: what to write.
        dim: width of the tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys, counts, offsets = [], [], [0]
    fd = os.open(folder / "data", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for record in records:
            parts = _parts(record)
            done = os.writev(fd, parts)
            assert done == sum(map(len, parts)), "a short write"
            keys.append(record.key)
            counts.append(len(record.tokens))
            offsets.append(offsets[-1] + done)
        np.savez(folder / "index.npz", keys=keys, counts=counts, offsets=offsets, dim=dim)
        os.fsync(fd)
    finally:
        os.close(fd)


def _parts(record: Record) -> list[memoryview]:
    about = json.dumps({"key": record.key}).encode()
    assert len(about) <= META_BYTES
    parts = [tensor.view(-1).view(torch.uint8).numpy().data for tensor in record[1:]]
    return [*parts, memoryview(about.ljust(META_BYTES))]


class RawStore:
    """Reads what ``write_raw`` wrote through a memory map, record by record."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "index.npz") as index:
            self.keys: list[str] = index["keys"].tolist()
            self.counts: list[int] = index["counts"].tolist()
            self.offsets: list[int] = index["offsets"].tolist()
            self.dim = int(index["dim"])
        self.places = {key: i for i, key in enumerate(self.keys)}
        mapped = np.memmap(folder / "data", np.uint8, "c")
        self._all, self._source = torch.from_numpy(mapped), mapped.data
        largest = max(b - a for a, b in zip(self.offsets, self.offsets[1:], strict=False))
        self.buffer = torch.zeros(largest, dtype=torch.uint8)
        self._target = self.buffer.numpy().data

    def __len__(self) -> int:
        return len(self.counts)

    def copy_into(self, i: int, target: memoryview) -> None:
        """The bytes of record ``i`` into the beginning of a buffer, and no more."""
        start, stop = self.offsets[i], self.offsets[i + 1]
        target[: stop - start] = self._source[start:stop]

    def copy(self, key: str) -> int:
        """A record into the reader's buffer: the lean control.  Returns its number."""
        i = self.places[key]
        self.copy_into(i, self._target)
        return i

    def read(self, key: str) -> RawRecord:
        """A record in the buffer, as five views: the control."""
        i = self.copy(key)
        return self._views(self.buffer[: self.offsets[i + 1] - self.offsets[i]], self.counts[i])

    def record(self, i: int) -> RawRecord:
        """Record ``i`` as views of the map; nothing is copied."""
        return self._views(self._all[self.offsets[i] : self.offsets[i + 1]], self.counts[i])

    def _views(self, record: Tensor, n: int) -> RawRecord:
        a = 2 * n * self.dim
        b, c, d = a + 12 * n, a + 20 * n, a + _GEOMETRY * n
        return RawRecord(
            record[:a].view(torch.bfloat16).view(n, self.dim),
            record[a:b].view(torch.float32).view(n, 3),
            record[b:c].view(torch.float32).view(n, 2),
            record[c:d].view(torch.float32),
            record[d:],
        )
