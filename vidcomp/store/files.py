"""Small files of a store: read whole, replaced atomically, created once; errors in one sentence."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vidcomp.errors import StoreCorruptError, StoreError

__all__ = [
    "TEMPORARY",
    "AdvisedError",
    "create_once",
    "explained",
    "list_names",
    "open_file",
    "read_file",
    "replace_file",
    "sync_folder",
    "write_all",
]

TEMPORARY = ".tmp-"
"""Beginning of names that readers ignore."""

_ADVICE = {
    errno.ENOSPC: "free some space and run again, nothing committed is lost",
    errno.EDQUOT: "free some of the quota and run again, nothing committed is lost",
    errno.EACCES: "choose a folder you may use, or change its permissions",
    errno.EPERM: "choose a folder you may use, or change its permissions",
    errno.EROFS: "choose a folder that is not mounted read-only",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.EEXIST: "a file stands where a folder is needed: choose another path",
    errno.EISDIR: "a folder stands where a file is needed: choose another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class AdvisedError(OSError):
    """An OSError that knows its reason and what to do better than its number tells."""

    def __init__(self, number: int, reason: str, advice: str) -> None:
        super().__init__(number, reason)
        self.advice = advice

    def __reduce__(self) -> tuple[object, ...]:
        # An OSError would be made anew from number and reason alone.
        return _restored, (type(self), self.errno, self.strerror, self.advice)


@contextmanager
def explained(wanted: str) -> Iterator[None]:
    """Turn an OSError into one sentence.

    Args:
        wanted: what failed, e.g. ``write the cache in out/``.

    Raises:
        StoreError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, AdvisedError):
            reason, advice = str(error.strerror), error.advice
        else:
            reason = os.strerror(error.errno) if error.errno else str(error)
            advice = _ADVICE.get(error.errno or 0, "check the disk and the path")
        raise StoreError(f"cannot {wanted} ({reason}): {advice}") from error


def list_names(folder: Path, suffix: str) -> list[str]:
    """Sorted names in ``folder`` that end with ``suffix``, without it; hidden ones left out.

    So are links that lead nowhere: their files are as lost as if they had no name.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(
                entry.name.removesuffix(suffix)
                for entry in found
                if entry.name.endswith(suffix)
                and not entry.name.startswith(".")
                and not (entry.is_symlink() and not Path(entry).exists())
            )
    except FileNotFoundError:
        return []


def open_file(path: Path, *, write: bool = False) -> int:
    """A descriptor of a file.

    Args:
        path: of the file.
        write: for writing too; a link is then refused, as it may lead out of the store.

    Raises:
        StoreCorruptError: it is a folder, a pipe (which would be waited for), or another thing.
        OSError: it cannot be opened.
    """
    names = ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK", *(["O_NOFOLLOW"] if write else []))
    flags = os.O_RDWR if write else os.O_RDONLY
    for name in names:
        flags |= getattr(os, name, 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        fd = -1
    if fd >= 0 and stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    if fd >= 0:
        os.close(fd)
    raise StoreCorruptError(
        f"{path} should be a file of a token cache, but is a folder, a link, a pipe or a device: "
        f"remove it, then run verify"
    )


def read_file(path: Path, most: int | None = None) -> bytearray:
    """All bytes of a small file, in a buffer that may be viewed by tensors.

    Args:
        path: of the file.
        most: bytes that such a file can have.

    Raises:
        StoreCorruptError: it is no file, or a larger one.
        OSError: it cannot be read.
    """
    with os.fdopen(open_file(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            data = _zeros(size, most)
        except MemoryError as error:
            raise StoreCorruptError(
                f"{path} has {size} bytes, more than such a file can have or this machine has "
                f"memory for: run verify"
            ) from error
        view, done = memoryview(data), 0
        while done < len(data):
            count = file.readinto(view[done:])
            if not count:
                break
            done += count
    return data if done == len(data) else data[:done]


def replace_file(path: Path, data: bytes | bytearray) -> None:
    """Write a file so that others see all of it or none, and that it survives a power cut."""
    temporary = _write_temporary(path, data)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_once(path: Path, data: bytes | bytearray) -> bool:
    """``replace_file``, unless ``path`` is there already; whether this call made it."""
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        # Some file systems know no hard links; exclusive creation is then the best there is.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        return _create_exclusively(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut, where the system can."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, parts: Sequence[memoryview | bytes | bytearray], offset: int) -> int:
    """Write buffers one after another at ``offset``; returns the byte after the last."""
    pending = [memoryview(part) for part in parts if len(part)]
    while pending:
        if hasattr(os, "pwritev"):
            count = os.pwritev(fd, pending[:512], offset)
        else:
            os.lseek(fd, offset, os.SEEK_SET)
            count = os.write(fd, pending[0])
        offset += count
        while pending and count >= len(pending[0]):
            count -= len(pending.pop(0))
        if count:
            pending[0] = pending[0][count:]
    return offset


def _zeros(size: int, most: int | None) -> bytearray:
    if most is not None and size > most:
        raise MemoryError(f"{size} bytes, at most {most}")
    return bytearray(size)


def _restored(kind: type[AdvisedError], number: int, reason: str, advice: str) -> AdvisedError:
    error = kind.__new__(kind, number, reason)
    AdvisedError.__init__(error, number, reason, advice)
    return error


def _write_temporary(path: Path, data: bytes | bytearray) -> Path:
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb", buffering=0) as file:
            write_all(file.fileno(), [data], 0)
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def _create_exclusively(path: Path, data: bytes | bytearray) -> bool:
    try:
        with path.open("xb", buffering=0) as file:
            write_all(file.fileno(), [data], 0)
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True
