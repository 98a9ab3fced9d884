"""Exports with files of their own for every video: safetensors, npy."""

import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vidcomp.store.disk.format import ALIGN, DTYPE_NAMES
from vidcomp.store.disk.header import dumps, entry
from vidcomp.store.exports.names import safe_name
from vidcomp.store.exports.sample import Exported, TokenType, array_of
from vidcomp.store.files import TEMPORARY

__all__ = [
    "KIND",
    "NpyFiles",
    "SafetensorsFiles",
    "field_word",
    "npy_parts",
    "replace_with",
    "whole_file",
]

KIND = "vidcomp-export"


class SafetensorsFiles:
    """``<name>.safetensors``; the metadata of its header says what the record was."""

    default_dtype: TokenType = "stored"

    def main_name(self, name: str) -> str:
        """The file that is there if the record is."""
        return f"{name}.safetensors"

    def read_about(self, path: Path) -> dict[str, Any] | None:
        """What a file that this made says; ``None`` if it is none, or not whole."""
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, 10_000_000)))
            metadata = header.pop("__metadata__")
            ends = [value["data_offsets"][1] for value in header.values()]
            whole = path.stat().st_size == 8 + length + max(ends, default=0)
            return metadata if whole and metadata.get("kind") == KIND else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, folder: Path, record: Exported) -> None:
        """Write the record's file.

        Raises:
            OSError: it cannot be written.
        """
        metadata = {
            "kind": KIND,
            **{k: v if isinstance(v, str) else dumps(v) for k, v in record.about.items()},
        }
        entries, parts, start = [], [], 0
        # Larger elements first, so that all are aligned.
        tensors = sorted(record.tensors.items(), key=lambda item: -item[1].dtype.itemsize)
        for name, tensor in tensors:
            data = _bytes(tensor)
            stop = start + len(data)
            entries.append(entry(name, DTYPE_NAMES[tensor.dtype], tensor.shape, start, stop))
            parts.append(data)
            start = stop
        text = dumps({"__metadata__": metadata})[:-1].encode() + b"".join(entries) + b"}"
        text += b" " * (-(8 + len(text)) % ALIGN)
        header = len(text).to_bytes(8, "little") + text
        replace_with(folder / self.main_name(record.name), [header, *parts])


class NpyFiles:
    """``<name>.npy`` with the tokens, ``<name>.<field>.npy``, and ``<name>.json`` about them."""

    default_dtype: TokenType = "float32"

    def main_name(self, name: str) -> str:
        """The file that is there if the record is: it is written last."""
        return f"{name}.json"

    def read_about(self, path: Path) -> dict[str, Any] | None:
        """What files that this made say; ``None`` if it is none, or not whole."""
        try:
            about = json.loads(path.read_bytes())
            sizes = about["files"].items()
            whole = all((path.parent / name).stat().st_size == size for name, size in sizes)
            return about if whole and about.get("kind") == KIND else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, folder: Path, record: Exported) -> None:
        """Write the record's files.

        Raises:
            OSError: one cannot be written.
        """
        sizes = {}
        (folder / self.main_name(record.name)).unlink(missing_ok=True)
        for field, tensor in record.tensors.items():
            part = "" if field == "tokens" else f".{field_word(field)}"
            name = f"{record.name}{part}.npy"
            sizes[name] = replace_with(folder / name, npy_parts(array_of(tensor)))
        about = {"kind": KIND, **record.about, "files": sizes}
        text = json.dumps(about, indent=1).encode()
        replace_with(folder / self.main_name(record.name), [text])


def npy_parts(array: np.ndarray[Any, Any]) -> list[bytes | memoryview]:
    """The bytes of an npy file: a header, then the array's own, not copied."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return [head.getvalue(), array.reshape(-1).view(np.uint8).data if array.size else b""]


def field_word(field: str) -> str:
    """The field's part of a file name; names of extras may be any text."""
    kind, dot, name = field.partition(".")
    return f"{kind}.{safe_name(name)}" if dot else kind


def replace_with(path: Path, parts: Iterable[bytes | memoryview]) -> int:
    """Write a file so that others see all of it or none; returns its bytes.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    with whole_file(path) as file:
        for part in parts:
            file.write(part)
        return file.tell()


@contextmanager
def whole_file(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when all is in it.

    Args:
        path: its name.
        sync: make it survive a power cut; a file that did not is found to be cut, and made again.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb", buffering=0) as file:
            yield file
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
