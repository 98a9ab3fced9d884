"""Rows of tables that people bring: csv, tsv, jsonl, json or parquet, read row by row."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidcomp.errors import ConfigError, MissingExtraError

__all__ = ["TABLE_KINDS", "read_rows"]

TABLE_KINDS = ("csv", "tsv", "jsonl", "parquet")
"""What holds a table, by the file's extension; ``ndjson`` is another name of ``jsonl``."""

_SAME = {"ndjson": "jsonl"}


def read_rows(
    path: str | Path, what: str = "table", kinds: Sequence[str] = TABLE_KINDS
) -> Iterator[dict[str, Any]]:
    """The rows of a table, by name of column, in order; memory stays that of a few of them.

    Args:
        path: the file; its extension tells its form.  A ``.json`` file, which is read whole, is a
            list of objects, or an object with one such list.
        what: the word for it in messages.
        kinds: forms to accept: ``TABLE_KINDS``, ``json``.

    Raises:
        ConfigError: it cannot be read, or is no table.
        MissingExtraError: a parquet file, and pyarrow is not installed.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    kind = _SAME.get(kind, kind)
    if kind not in kinds:
        raise ConfigError(
            f"{_article(what)} is {', '.join(kinds[:-1])} or {kinds[-1]}, got {path.name}: rename "
            f"or convert it"
        )
    try:
        if kind == "parquet":
            yield from _parquet_rows(path, what)
        elif kind == "json":
            yield from _json_rows(path)
        elif kind == "jsonl":
            yield from _jsonl_rows(path)
        else:
            yield from _csv_rows(path, "," if kind == "csv" else "\t")
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, MissingExtraError):
            raise
        raise ConfigError(f"the {what} {path} cannot be read ({error}): mend it") from error


def _csv_rows(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    # Spreadsheets put a byte order mark first, which would become part of the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for row in reader:
            if None in row:
                raise ValueError(
                    f"line {reader.line_num} has more cells than the {len(row) - 1} columns"
                )
            yield row


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    # Not splitlines: JSON strings may hold other characters that end a line, such as U+2028.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds a {type(row).__name__}, not an object")
            yield row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    held = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(held, dict):
        lists = {name: value for name, value in held.items() if _are_rows(value)}
        if len(lists) != 1:
            raise ValueError(
                f"an object must hold one list of objects, this one has {len(lists)} in its "
                f"{len(held)} members"
            )
        (held,) = lists.values()
    if not isinstance(held, list):
        raise ValueError(f"it holds a {type(held).__name__}, not a list of objects")
    for number, row in enumerate(held, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"entry {number} is a {type(row).__name__}, not an object")
        yield row


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _parquet_rows(path: Path, what: str) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"a parquet {what} needs pyarrow, which is not installed: pip install "
            f"'vidcomp[parquet]', or write the {what} as csv or jsonl"
        ) from error
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _article(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
