"""Exports: the records of a store as files that other programs read without vidcomp."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vidcomp.errors import ConfigError
from vidcomp.store.exports.files import NpyFiles, SafetensorsFiles, whole_file
from vidcomp.store.exports.parquet import ParquetFiles
from vidcomp.store.exports.places import Places
from vidcomp.store.exports.run import ExportReport, RecordReader, write_files, write_groups
from vidcomp.store.exports.sample import TokenType
from vidcomp.store.exports.tar import TarFiles
from vidcomp.store.files import explained
from vidcomp.store.manifest import read_manifest
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.upkeep.copying import Progress
from vidcomp.store.view import load_view

__all__ = ["INDEX", "ExportFormat", "ExportReport", "export"]

ExportFormat = Literal["safetensors", "npy", "webdataset", "parquet"]

INDEX = "index.jsonl"
"""Which key is in which file, one JSON object a line."""


def export(
    path: str | Path | Storage,
    out: str | Path,
    *,
    format: ExportFormat = "safetensors",  # noqa: A002  # the word that users know
    keys: Sequence[str] | None = None,
    dtype: TokenType | None = None,
    shard_bytes: int = 256 << 20,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the records of a store as files for other programs.

    Every file appears whole or not at all; an export that was stopped is finished by the same call.
    File names are made safe; ``index.jsonl`` says which key is where, and each file says its key.

    Args:
        path: the store's folder, URL or storage.
        out: a folder, which is made.
        format: ``safetensors`` or ``npy``: files for every video; ``webdataset`` or ``parquet``:
            many videos a file.
        keys: of the records; all by default.
        dtype: of float tokens; by default ``stored`` for safetensors and ``float32`` for the
            others, of which none knows bfloat16: there, it becomes uint16 with the same bits.
        shard_bytes: size of tar and Parquet files, in bytes of the store.
        overwrite: replace files that are not of this export.
        progress: called with the bytes read and those to read.

    Raises:
        StoreMissError: no store, or no such key.
        StoreError: ``out`` has other files of these names, or cannot be written.
        MissingExtraError: Parquet, and pyarrow is not installed.
        ConfigError: settings that cannot be.
    """
    made = _made(format, shard_bytes)
    folder, storage = Path(out), open_storage(path)
    manifest = read_manifest(storage)
    view = load_view(storage, manifest.id)
    chosen: TokenType = dtype or made.default_dtype
    report = ExportReport(out=str(folder), format=format, dtype=chosen)
    report.problems = list(view.damaged.values())
    if (folder / "store.json").exists():
        raise ConfigError(f"{folder} is a token cache itself: choose another folder for the export")
    places = Places(view, keys, storage.path)
    read = RecordReader(storage, manifest.fingerprint, chosen, report.bad, progress, places)
    with explained(f"export to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(made, SafetensorsFiles | NpyFiles):
            lines = write_files(made, folder, places, read, report, overwrite=overwrite)
        else:
            groups = places.groups(shard_bytes)
            lines = write_groups(made, folder, groups, places, read, report, overwrite=overwrite)
        _write_index(folder, lines, keep=keys is not None)
    return report


def _write_index(folder: Path, lines: dict[str, str], *, keep: bool) -> None:
    """Say which key is in which file; ``keep`` what is said of other keys."""
    path = folder / INDEX
    if keep and path.exists():
        with path.open() as file:
            old = {json.loads(line)["key"]: line for line in file if line.endswith("}\n")}
        lines = old | lines
    with whole_file(path) as file_:
        for line in lines.values():
            file_.write(line.encode())


def _made(name: str, shard_bytes: int) -> SafetensorsFiles | NpyFiles | TarFiles | ParquetFiles:
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes must be at least 1, got {shard_bytes}")
    if name == "safetensors":
        return SafetensorsFiles()
    if name == "npy":
        return NpyFiles()
    if name == "webdataset":
        return TarFiles()
    if name == "parquet":
        return ParquetFiles()
    raise ConfigError(
        f"there is no export format {name!r}: choose safetensors, npy, webdataset or parquet"
    )
