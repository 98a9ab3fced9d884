"""The values that the store takes and hands out."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from vidcomp.store.disk.layout import Counts, Layout
from vidcomp.types import Grid

__all__ = ["Location", "Order", "Receipt", "RecordInfo", "Row", "SourceId"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceId:
    """What tells whether the file behind a record changed."""

    size: int
    """Bytes."""
    mtime_ns: int
    """Time of the last change in nanoseconds."""
    content: str = ""
    """Hash of the bytes, if it was asked for."""

    @classmethod
    def of_file(cls, path: str | Path, *, content: bool = False) -> "SourceId":
        """Of a file; ``content`` reads all of it and adds a hash of its bytes.

        Raises:
            OSError: the file cannot be read.
        """
        path = Path(path)
        stat = path.stat()
        hashed = ""
        if content:
            state = xxhash.xxh3_128()
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    state.update(chunk)
            hashed = f"xxh3_128:{state.hexdigest()}"
        return cls(size=stat.st_size, mtime_ns=stat.st_mtime_ns, content=hashed)

    def matches(self, other: "SourceId | None") -> bool:
        """Whether both are the same file's: by content if both know it, else by size and time."""
        if other is None:
            return False
        if self.content and other.content:
            return self.content == other.content
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


_NOTHING = Counts(0, Grid(0, 0, 0))


@dataclass(frozen=True, slots=True)
class Row:
    """What an index says of one key in one commit; ``key`` is escaped."""

    key: str
    generation: int
    writer: str
    """Who wrote it first; compaction keeps it."""
    shard: str = ""
    """Commit whose shard holds the record; empty: the key was removed."""
    offset: int = 0
    nbytes: int = 0
    checksum: int = 0
    counts: Counts = _NOTHING
    layout: Layout | None = None
    source: SourceId | None = None

    def at(self, shard: str, offset: int) -> "Row":
        """The row of the same record in another place."""
        return Row(
            self.key,
            self.generation,
            self.writer,
            shard,
            offset,
            self.nbytes,
            self.checksum,
            self.counts,
            self.layout,
            self.source,
        )

    @property
    def removed(self) -> bool:
        """Whether this row says that there is no such record."""
        return not self.shard

    @property
    def rank(self) -> tuple[int, str]:
        """The largest rank of a key's rows wins."""
        return self.generation, self.writer


class Location(NamedTuple):
    """What reading a record needs."""

    shard: str
    offset: int
    nbytes: int
    checksum: int
    counts: Counts
    layout: Layout


class Order(NamedTuple):
    """Records in an order: keys, and for each the table that has its row, and the row."""

    keys: list[str]
    tables: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordInfo:
    """Where a record lies and what it is, without reading it."""

    key: str
    shard: str
    """Name of the shard's commit: the file is ``shards/<name>.safetensors``."""
    offset: int
    """First byte in the shard's file."""
    nbytes: int
    """Bytes on disk."""
    num_tokens: int
    dim: int
    """Width of the tokens; 0 for codebook ids."""
    dtype: str
    """Of the tokens, e.g. ``bfloat16``."""
    grid: Grid
    """Patch counts before compression."""
    fields: tuple[str, ...]
    """Names of the record's tensors, in the order of their bytes."""
    checksum: str
    """XXH3-64 of the record's bytes, 16 hex digits."""
    generation: int
    """How many times this key was written, removals counted."""
    source: SourceId | None
    """The file the tokens were made from; ``None`` if it was not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a writer says of a record it took."""

    key: str
    shard: str
    offset: int
    nbytes: int
    num_tokens: int
    checksum: str
    generation: int
    durable: bool
    """Whether it already survives a power cut; it survives the process in any case."""
