"""Exports as WebDataset: tar files whose members of one name are one sample.

Members are ``<name>.tokens.npy`` and other arrays, and ``<name>.json``; ``webdataset`` decodes both
by their extension.
"""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from vidcomp.store.exports.files import KIND, field_word, npy_parts, whole_file
from vidcomp.store.exports.sample import Exported, TokenType, array_of

__all__ = ["TarFiles"]

_BLOCK = tarfile.BLOCKSIZE
_ABOUT = "VIDCOMP.export"


class TarFiles:
    """``tokens-000000.tar`` and so on."""

    default_dtype: TokenType = "float32"
    pattern = "tokens-*.tar"

    def main_name(self, number: int) -> str:
        """Name of a tar file."""
        return f"tokens-{number:06d}.tar"

    def read_about(self, path: Path) -> dict[str, Any] | None:
        """What a tar file that this made says; ``None`` if it is none, or not whole."""
        try:
            with tarfile.open(path, "r:") as tar:
                about = json.loads(tar.pax_headers.get(_ABOUT, "null"))
            with path.open("rb") as file:
                file.seek(-2 * _BLOCK, 2)
                whole = not any(file.read(2 * _BLOCK))
        except (OSError, ValueError, tarfile.TarError):
            return None
        is_ours = isinstance(about, dict) and about.get("kind") == KIND
        return about if is_ours and whole else None

    def write(self, path: Path, about: dict[str, Any], records: Iterable[Exported]) -> None:
        """Write one tar file.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps({"kind": KIND, **about})
        with whole_file(path, sync=True) as file:
            file.write(tarfile.TarInfo.create_pax_global_header({_ABOUT: text}))
            for record in records:
                for field, tensor in record.tensors.items():
                    parts = npy_parts(array_of(tensor))
                    _add(file, f"{record.name}.{field_word(field)}.npy", parts)
                _add(file, f"{record.name}.json", [json.dumps(record.about).encode()])
            file.write(bytes(2 * _BLOCK))
            file.write(bytes(-file.tell() % tarfile.RECORDSIZE))


def _add(file: BinaryIO, name: str, parts: list[bytes | memoryview]) -> None:
    info = tarfile.TarInfo(name)
    info.size = sum(map(len, parts))
    info.mode = 0o644
    for part in (info.tobuf(tarfile.PAX_FORMAT), *parts, bytes(-info.size % _BLOCK)):
        file.write(part)
