"""The work of an export: what is there already is left, what is missing is read and written."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidcomp.errors import ConfigError, StoreError
from vidcomp.store.disk.format import digest, unescape
from vidcomp.store.disk.types import Row
from vidcomp.store.exports.files import NpyFiles, SafetensorsFiles
from vidcomp.store.exports.names import safe_name
from vidcomp.store.exports.parquet import ParquetFiles
from vidcomp.store.exports.places import Places
from vidcomp.store.exports.sample import Exported, TokenType, expected_dtype, exported
from vidcomp.store.exports.tar import TarFiles
from vidcomp.store.storage import Storage
from vidcomp.store.upkeep.copying import Copy, Progress, read_copies

__all__ = ["ExportReport", "RecordReader", "write_files", "write_groups"]

_CHUNK = 1024
_TELL = 16 << 20


@dataclass(kw_only=True)
class ExportReport:
    """What an export did."""

    out: str
    format: str
    dtype: str
    num_records: int = 0
    """Records whose files are there now."""
    num_written: int = 0
    """Those that were written by this call; the others were there already."""
    num_files: int = 0
    """Files that hold them."""
    bad: dict[str, str] = field(default_factory=dict)
    """Keys of records that were not exported, and why."""
    problems: list[str] = field(default_factory=list)
    """Damaged index files of the store; records may be missing because of them."""


class RecordReader:
    """Reads records in large pieces, checks them and turns them into what is exported.

    Args:
        storage: of the store.
        fingerprint: of the store.
        dtype: of float tokens.
        bad: takes up keys that cannot be exported, and why.
        progress: called with the bytes that are done and those of all ``places``.
        places: all records of the export.
    """

    def __init__(
        self,
        storage: Storage,
        fingerprint: str,
        dtype: TokenType,
        bad: dict[str, str],
        progress: Progress | None,
        places: Places,
    ) -> None:
        self._storage, self._fingerprint, self.dtype = storage, fingerprint, dtype
        self._bad, self._progress = bad, progress
        self._done, self._total = 0, int(places.nbytes.sum())

    def read(self, rows: list[Row]) -> Iterator[Exported]:
        """The records that are whole, each valid until the next is asked for."""
        copies = [Copy(self._storage, row, row.rank) for row in rows]
        for copy, data in read_copies(copies):
            key = unescape(copy.row.key)
            try:
                if isinstance(data, memoryview):
                    yield exported(copy.row, data, self.dtype, self._fingerprint)
                else:
                    self._bad[key] = str(data)
            except ConfigError:
                raise
            except StoreError as error:
                self._bad[key] = str(error)

    def tell(self, nbytes: int) -> None:
        """Count bytes that are done."""
        before, self._done = self._done, self._done + nbytes
        if self._progress is not None and (
            self._done >= self._total or before // _TELL != self._done // _TELL
        ):
            self._progress(self._done, self._total)

    def is_bad(self, row: Row) -> bool:
        """Whether the record was read and could not be exported."""
        return unescape(row.key) in self._bad


def write_files(
    made: SafetensorsFiles | NpyFiles,
    folder: Path,
    places: Places,
    reader: RecordReader,
    report: ExportReport,
    *,
    overwrite: bool,
) -> dict[str, str]:
    """Write the files of each record that has none yet; returns the index's lines by key.

    Raises:
        StoreError: a file of such a name is not of an export, and ``overwrite`` is not set.
        OSError: the disk says no.
    """
    lines: dict[str, str] = {}
    for start in range(0, len(places), _CHUNK):
        rows = list(places.rows(start, start + _CHUNK))
        todo = []
        for row in rows:
            name = made.main_name(safe_name(unescape(row.key)))
            if not _is_current(made, folder / name, row, reader.dtype, overwrite):
                todo.append(row)
        reader.tell(sum(row.nbytes for row in rows) - sum(row.nbytes for row in todo))
        left = {row.key: row.nbytes for row in todo}
        for record in reader.read(todo):
            made.write(folder, record)
            report.num_written += 1
        reader.tell(sum(left.values()))
        for row in rows:
            if not reader.is_bad(row):
                name = safe_name(unescape(row.key))
                key, line = _line(row, made.main_name(name), name)
                lines[key] = line
    report.num_records = report.num_files = len(lines)
    return lines


def write_groups(
    made: TarFiles | ParquetFiles,
    folder: Path,
    groups: list[tuple[int, int]],
    places: Places,
    reader: RecordReader,
    report: ExportReport,
    *,
    overwrite: bool,
) -> dict[str, str]:
    """Write each file of many records that is not there yet; returns the index's lines by key.

    Raises:
        StoreError: there are files of another export, and ``overwrite`` is not set.
        OSError: the disk says no.
    """
    _check_others(made, folder, len(groups), overwrite)
    lines: dict[str, str] = {}
    for number, (start, stop) in enumerate(groups):
        rows, name = list(places.rows(start, stop)), made.main_name(number)
        wanted = _digest(rows, reader.dtype)
        about = made.read_about(folder / name)
        if about is None or about.get("digest") != wanted or about.get("bad"):
            is_other = about is None or about.get("digest") != wanted
            if is_other and not overwrite and _is_there(folder / name):
                raise _refused(folder / name)
            _write_group(made, folder / name, wanted, rows, reader)
            report.num_written += sum(not reader.is_bad(row) for row in rows)
        reader.tell(sum(row.nbytes for row in rows))
        there = [row for row in rows if not reader.is_bad(row)]
        lines |= dict(_line(row, name, safe_name(unescape(row.key))) for row in there)
    report.num_records, report.num_files = len(lines), len(groups)
    return lines


def _write_group(
    made: TarFiles | ParquetFiles, path: Path, wanted: str, rows: list[Row], reader: RecordReader
) -> None:
    """Write a file; again without those records that are found to be damaged on the way."""
    while True:
        left = [row for row in rows if not reader.is_bad(row)]
        num_bad = len(rows) - len(left)
        about = {"digest": wanted, "bad": num_bad, "dtype": reader.dtype}
        made.write(path, about, reader.read(left))
        if sum(map(reader.is_bad, rows)) == num_bad:
            return


def _is_current(
    made: SafetensorsFiles | NpyFiles, path: Path, row: Row, dtype: TokenType, overwrite: bool
) -> bool:
    about = made.read_about(path)
    if about is None:
        if not overwrite and _is_there(path):
            raise _refused(path)
        return False
    same = about.get("checksum") == f"{row.checksum:016x}"
    return same and about.get("dtype") == expected_dtype(row, dtype)


def _check_others(made: TarFiles | ParquetFiles, folder: Path, count: int, overwrite: bool) -> None:
    """Refuse, or remove, files that a larger export left behind."""
    wanted = {made.main_name(number) for number in range(count)}
    for path in sorted(folder.glob(made.pattern)):
        if path.name in wanted:
            continue
        if not overwrite:
            raise _refused(path)
        if made.read_about(path) is not None:
            path.unlink()


def _is_there(path: Path) -> bool:
    """Whether a file is there; an empty one is what a power cut leaves."""
    return path.exists() and path.stat().st_size > 0


def _refused(path: Path) -> StoreError:
    return StoreError(
        f"{path} is there and not of this export: choose another folder, or overwrite it"
    )


def _digest(rows: list[Row], dtype: TokenType) -> str:
    """What tells whether a file holds just these records."""
    checksums = np.array([row.checksum for row in rows], np.uint64).astype("<u8").tobytes()
    keys = "\n".join(row.key for row in rows).encode()
    return f"{digest(checksums, keys, dtype.encode()):016x}"


def _line(row: Row, file: str, name: str) -> tuple[str, str]:
    """A line of the index."""
    key = unescape(row.key)
    about = {
        "key": key,
        "file": file,
        "name": name,
        "num_tokens": row.counts.num_tokens,
        "checksum": f"{row.checksum:016x}",
    }
    return key, json.dumps(about) + "\n"
