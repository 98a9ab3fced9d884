"""Exports as Parquet: one row a video, matrices as lists of fixed-size lists.

Hugging Face datasets, pandas and polars read such a column as an array of N rows of D numbers.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vidcomp.errors import MissingExtraError, StoreError
from vidcomp.store.exports.files import KIND, whole_file
from vidcomp.store.exports.sample import Exported, TokenType, array_of

__all__ = ["ParquetFiles"]

_ABOUT = b"vidcomp"
_GROUP_BYTES = 64 << 20
_GROUP_ROWS = 4096


class ParquetFiles:
    """``tokens-000000.parquet`` and so on."""

    default_dtype: TokenType = "float32"
    pattern = "tokens-*.parquet"

    def __init__(self) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtraError(
                "an export to Parquet needs pyarrow, which is not installed: pip install "
                "'vidcomp[parquet]', or choose another format"
            ) from error
        self._pa, self._parquet = pa, parquet

    def main_name(self, number: int) -> str:
        """Name of a file."""
        return f"tokens-{number:06d}.parquet"

    def read_about(self, path: Path) -> dict[str, Any] | None:
        """What a file that this made says; ``None`` if it is none, or not whole."""
        try:
            metadata = self._parquet.read_schema(path).metadata or {}
            about = json.loads(metadata.get(_ABOUT, b"null"))
        except (OSError, ValueError, self._pa.ArrowException):
            return None
        return about if isinstance(about, dict) and about.get("kind") == KIND else None

    def write(self, path: Path, about: dict[str, Any], records: Iterable[Exported]) -> None:
        """Write one file.

        Raises:
            OSError: it cannot be written.
            StoreError: records of different fields or widths, which are no table.
        """
        writer = None
        with whole_file(path, sync=True) as file:
            for batch in _batches(records):
                table = self._table(batch)
                if writer is None:
                    text = json.dumps({"kind": KIND, **about}).encode()
                    schema = table.schema.with_metadata({_ABOUT: text})
                    # Numbers of tokens hardly compress, and dictionaries of them cost time.
                    writer = self._parquet.ParquetWriter(
                        file, schema, compression="none", use_dictionary=False
                    )
                elif not table.schema.equals(writer.schema, check_metadata=False):
                    raise StoreError(
                        f"{batch[0].about['key']!r} has other fields, types or widths than the "
                        f"records before it, which is no table: export safetensors, or these keys "
                        f"by themselves"
                    )
                writer.write_table(table)
            if writer is not None:
                writer.close()

    def _table(self, batch: list[Exported]) -> Any:  # a pyarrow.Table
        pa = self._pa
        about = [record.about for record in batch]
        sources = [a["source"] or {} for a in about]
        columns = {
            "key": pa.array([a["key"] for a in about], pa.string()),
            "num_tokens": pa.array([a["num_tokens"] for a in about], pa.int64()),
            "grid": pa.array([a["grid"] for a in about], pa.list_(pa.int64(), 3)),
        }
        for field in dict.fromkeys(name for record in batch for name in record.tensors):
            columns[field] = self._column(field, batch)
        columns |= {
            "source_size": pa.array([s.get("size") for s in sources], pa.int64()),
            "source_mtime_ns": pa.array([s.get("mtime_ns") for s in sources], pa.int64()),
            "source_content": pa.array([s.get("content") for s in sources], pa.string()),
            "meta": pa.array([json.dumps(a["meta"]) for a in about], pa.string()),
            "checksum": pa.array([a["checksum"] for a in about], pa.string()),
            "key_escaped": pa.array([a.get("key_escaped") for a in about], pa.string()),
        }
        return pa.table(columns)

    def _column(self, field: str, batch: list[Exported]) -> Any:  # a pyarrow.Array
        """The arrays of a field, each a list whose entries are rows."""
        pa = self._pa
        found = [r.tensors.get(field) for r in batch]
        arrays = [None if tensor is None else array_of(tensor) for tensor in found]
        there = [array for array in arrays if array is not None]
        inner = {array.shape[1:] for array in there}
        if len(inner) > 1 or len({array.dtype for array in there}) > 1 or 0 in next(iter(inner)):
            raise StoreError(
                f"{field} has widths {sorted(map(list, inner))} in one store, which is no table: "
                f"export safetensors, or keys of one width by themselves"
            )
        values = pa.array(np.concatenate([array.reshape(-1) for array in there]))
        for size in reversed(next(iter(inner))):
            values = pa.FixedSizeListArray.from_arrays(values, size)
        counts = [0 if array is None else len(array) for array in arrays]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        mask = pa.array([array is None for array in arrays])
        return pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=mask)


def _batches(records: Iterable[Exported]) -> Iterator[list[Exported]]:
    """Records that make a row group, in memory of their own."""
    batch: list[Exported] = []
    nbytes = 0
    for record in records:
        owned = {name: tensor.clone() for name, tensor in record.tensors.items()}
        batch.append(Exported(record.name, owned, record.about))
        nbytes += sum(tensor.nbytes for tensor in owned.values())
        if nbytes >= _GROUP_BYTES or len(batch) >= _GROUP_ROWS:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch
