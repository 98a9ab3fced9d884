"""The videos that may be asked about: those in one folder, and uploads.

A client names them by ids.  No id, link or name reaches a file outside the two folders.
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vidcomp.errors import DecodeError, VidcompError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.sample.uniform import Uniform

from .limits import Limits, RefusedError

__all__ = ["DecodeCheck", "Incoming", "Library", "Stored"]

_ID = re.compile(r"file-[0-9a-f]{24}")
_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")
_SHOWN = 1000
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A video that a client can name."""

    id: str
    name: str
    path: Path
    num_bytes: int
    created: int
    """Seconds since 1970."""

    def to_json(self) -> dict[str, object]:
        """As OpenAI's interface tells of files; without the path."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.num_bytes,
            "created_at": self.created,
            "filename": self.name,
            "purpose": "vision",
            "status": "processed",
        }


class Library:
    """Videos by id.

    Args:
        uploads: folder of uploads, which is made.
        folder: of videos that may be named by their path in it; ``None`` for none.
        limits: of sizes.
        check: refuses what is no video.
    """

    def __init__(
        self,
        uploads: Path,
        folder: Path | None,
        limits: Limits,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        uploads.mkdir(parents=True, exist_ok=True)
        self._uploads = uploads.resolve()
        self._folder = None if folder is None else folder.resolve()
        self._limits = limits
        self._own = DecodeCheck()
        self._check = check or self._own
        self._lock = threading.Lock()
        for path in self._uploads.glob("file-*"):
            if not path.with_suffix(".json").exists():  # on its way when the server was ended
                path.unlink(missing_ok=True)
        self._taken = sum(path.stat().st_size for path in self._uploads.iterdir())

    def find(self, name: str) -> Stored:
        """The video of an id, or at a path in the folder.

        Raises:
            RefusedError: there is none, or the path leads out of the folder.
        """
        found = self._upload(name) if _ID.fullmatch(name) else self._named(name)
        if found is None:
            raise RefusedError(
                f"the id of an upload or the path of a file in the server's folder was wanted, "
                f"got {name[:200]!r}: upload the video, or see /v1/files",
                status=404,
                code="file_not_found",
                param="messages",
            )
        return found

    def __iter__(self) -> Iterator[Stored]:
        """Uploads, the newest first, then files of the folder by name, at most 1000 of each."""
        uploads = [self._upload(path.stem) for path in self._uploads.glob("file-*.json")]
        known = sorted((one for one in uploads if one), key=lambda one: -one.created)
        yield from known[:_SHOWN]
        if self._folder is not None:
            yield from self._files(self._folder)

    def begin(self) -> "Incoming":
        """An upload whose bytes are about to come."""
        return Incoming(self, self._uploads / f"file-{secrets.token_hex(12)}")

    def add(self, source: BinaryIO, name: str) -> Stored:
        """Keep all that can be read.

        Raises:
            RefusedError: it is too large, no room is left, or it is no video.
        """
        incoming = self.begin()
        try:
            while piece := source.read(_PIECE):
                incoming.write(piece)
            return incoming.keep(name)
        finally:
            incoming.drop()

    def remove(self, name: str) -> None:
        """Forget an upload.

        Raises:
            RefusedError: it is none.
        """
        found = self._upload(name) if _ID.fullmatch(name) else None
        if found is None:
            raise RefusedError(
                f"the id of an upload was wanted, got {name[:200]!r}: only uploads can be removed",
                status=404,
                code="file_not_found",
            )
        (self._uploads / f"{name}.json").unlink(missing_ok=True)
        found.path.unlink(missing_ok=True)
        self.take(-found.num_bytes, 0)

    def take(self, num: int, size: int) -> None:
        """Count bytes of an upload before they are written.

        Args:
            num: that are added; less than 0 when they are given back.
            size: of that upload, with them.

        Raises:
            RefusedError: it is too large, or no room is left.
        """
        limits = self._limits
        with self._lock:
            if num > 0 and size > limits.upload_bytes:
                raise RefusedError(
                    f"a video of at most {limits.upload_bytes:,} bytes was wanted, got more: "
                    f"send a shorter one",
                    status=413,
                    code="file_too_large",
                )
            if num > 0 and self._taken + num > limits.stored_bytes:
                raise RefusedError(
                    f"uploads may take {limits.stored_bytes:,} bytes together, and this one has no "
                    f"room: delete others first",
                    status=413,
                    code="storage_full",
                )
            self._taken += num

    def check(self, path: Path) -> None:
        """Refuse what is no video."""
        self._check(path)

    def close(self) -> None:
        """End what checks uploads."""
        self._own.close()

    def _upload(self, name: str) -> Stored | None:
        try:
            facts = json.loads((self._uploads / f"{name}.json").read_text())
            path = self._uploads / f"{name}{facts['suffix']}"
            return Stored(
                id=name,
                name=facts["name"],
                path=path,
                num_bytes=path.stat().st_size,
                created=facts["created"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _named(self, name: str) -> Stored | None:
        """A regular file of the folder; links are followed and must stay inside."""
        if self._folder is None or not name or "\0" in name or "\\" in name or len(name) > 1024:
            return None
        inside = PurePosixPath(name)
        if inside.is_absolute() or any(part in ("..", ".") for part in name.split("/")):
            return None
        try:
            path = (self._folder / inside).resolve(strict=True)
            facts = path.stat()
        except (OSError, RuntimeError, ValueError):
            return None
        if not path.is_relative_to(self._folder) or not path.is_file():
            return None
        return Stored(
            id=str(inside),
            name=inside.name,
            path=path,
            num_bytes=facts.st_size,
            created=int(facts.st_mtime),
        )

    def _files(self, folder: Path) -> Iterator[Stored]:
        names = (
            path.relative_to(folder).as_posix()
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in _SUFFIXES
        )
        found = (self._named(name) for name in names)
        for _, one in zip(range(_SHOWN), (one for one in found if one), strict=False):
            yield one


class Incoming:
    """An upload on its way: a file that becomes a video of the library, or goes.

    Args:
        library: that it may become part of.
        path: of the file, without a suffix.
    """

    def __init__(self, library: Library, path: Path) -> None:
        self._library, self._path, self._size = library, path, 0
        self._kept = False
        self._file = path.open("xb")

    def write(self, piece: bytes) -> None:
        """More bytes.

        Raises:
            RefusedError: the upload is too large, or no room is left.
        """
        self._library.take(len(piece), self._size + len(piece))
        self._size += len(piece)
        self._file.write(piece)

    def keep(self, name: str) -> Stored:
        """Make it a video of the library, if it is one.

        Raises:
            RefusedError: it is no video.
        """
        self._file.close()
        suffix = _suffix(name)
        path = self._path.rename(self._path.with_suffix(suffix))
        self._path, new = path, self._path.name
        self._library.check(path)
        facts = {"name": _shown(name), "suffix": suffix, "created": int(time.time())}
        path.with_name(f"{new}.json").write_text(json.dumps(facts), encoding="utf-8")
        self._kept = True
        return self._library.find(new)

    def drop(self) -> None:
        """Let it go, unless it was kept."""
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)
            self._library.take(-self._size, 0)
            self._size = 0


class DecodeCheck:
    """Decodes a frame in a process of its own, so that a broken file harms nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker = DecodeWorker(stall_s=30.0)

    def __call__(self, path: Path) -> None:
        """Decode the middle frame.

        Raises:
            RefusedError: none comes out.
        """
        request = DecodeRequest(
            path=str(path),
            sampler=Uniform(num_frames=1),
            resize=Resize(mode="stretch", height=32, width=32),
        )
        try:
            with self._lock:
                for _ in self._worker.frames(request):
                    pass
        except VidcompError as error:
            reason = "no frame of it can be decoded"
            if not isinstance(error, DecodeError):
                reason = str(error)
            raise RefusedError(
                f"a video was wanted, and {reason}: send mp4, mkv, webm or mov",
                code="invalid_file",
                param="file",
            ) from error

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._worker.close()


def _suffix(name: str) -> str:
    """What the decoder goes by; the rest of a client's name is never part of a path."""
    suffix = PurePosixPath(name.lower()).suffix
    return suffix if suffix in _SUFFIXES else ".mp4"


def _shown(name: str) -> str:
    """A file's own name, without folders and characters that cannot be seen."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in last if c.isprintable())[:200] or "video"
