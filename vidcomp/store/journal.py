"""The journal of a shard being written: whose it is, what is in it, whether its writer lives."""

import errno
import json
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import ALIGN, FORMAT_VERSION, MAX_HEADER_BYTES, hexdigest
from vidcomp.store.disk.header import dumps
from vidcomp.store.disk.layout import Layout
from vidcomp.store.disk.shard import check_generation, check_key, row_from_json, row_text
from vidcomp.store.disk.types import Row
from vidcomp.store.files import TEMPORARY, open_file, read_file, write_all

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

__all__ = [
    "Journal",
    "claim",
    "create",
    "is_elsewhere",
    "is_locked",
    "line",
    "read",
    "record_line",
    "removal_line",
    "with_new_owner",
]

KIND = "vidcomp-journal"

_LEAST_LINE = 18


@dataclass(frozen=True)
class Journal:
    """A journal as far as it can be trusted."""

    name: str
    data_start: int
    """First byte of the data in the part."""
    owner: dict[str, Any]
    """Which store it belongs to, and who wrote it where."""
    rows: tuple[Row, ...]
    """Records and removals in the order they were written; a key may occur more than once."""
    num_bad: int
    """Lines that are damaged; one that was cut while it was written is none."""

    @property
    def copies(self) -> bool:
        """Whether nothing is lost with it: its records are copies of others."""
        return self.owner.get("copies") is True


def line(value: Mapping[str, Any]) -> bytes:
    """One line: check, space, JSON."""
    return _stamped(dumps(value))


def record_line(row: Row) -> bytes:
    """The line of a record."""
    assert row.layout is not None  # noqa: S101  # only removals have none
    return _stamped(f'{{"row":{row_text(row, 0, 0)},"layout":{row.layout.text}}}')


def removal_line(row: Row) -> bytes:
    """The line of a removal."""
    return line({"removed": [row.key, row.generation]})


def create(path: Path, store: str, data_start: int, *, copies: bool = False) -> int:
    """Make the journal of a new shard, locked; returns its descriptor.

    It gets its name only once it is locked and says whose it is, so nobody finds it half made.

    Args:
        path: of the journal.
        store: id of the store.
        data_start: first byte of the data in the part.
        copies: the part holds copies of records that stay where they are until it is committed.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        _lock(fd)
        first = {"kind": KIND, "format": FORMAT_VERSION, "name": path.stem, "store": store}
        first |= {"copies": True} if copies else {}
        write_all(fd, [line({**first, "data_start": data_start, **_owner()})], 0)
        temporary.rename(path)
    except BaseException:
        os.close(fd)
        with suppress(OSError):
            temporary.unlink()
        raise
    return fd


def read(path: Path) -> Journal:
    """The lines that are whole.

    Raises:
        StoreCorruptError: the first line is not.
        OSError: the file cannot be read.
    """
    data = bytes(read_file(path, MAX_HEADER_BYTES))
    *lines, _ = _lines(data)  # a last line without end is being written
    parsed = [_parse(raw) for raw in lines]
    owner = parsed[0] if parsed else None
    if (
        owner is None
        or owner.get("kind") != KIND
        or owner.get("name") != path.stem
        or type(start := owner.get("data_start")) is not int
        or not ALIGN <= start <= MAX_HEADER_BYTES + ALIGN
        or start % ALIGN
        or type(version := owner.get("format", 0)) is not int
        or version > FORMAT_VERSION
    ):
        raise StoreCorruptError(
            f"journal {path.stem} does not say what it is: its shard cannot be recovered, remove "
            f"it and its part"
        )
    rows = [row for value in parsed[1:] if value and (row := _row(value, path.stem))]
    return Journal(path.stem, start, owner, tuple(rows), len(parsed) - 1 - len(rows))


def claim(path: Path, store: str, *, force: bool = False) -> int | None:
    """Lock the journal of a writer that is surely dead; ``None`` if it may be alive.

    Args:
        path: of the journal.
        store: id of the store; the journal of another one is left alone.
        force: believe that writers of other machines are dead, unless their lock is seen.

    Returns:
        A descriptor; close it to give the journal back.
    """
    try:
        fd = open_file(path, write=True)
    except FileNotFoundError:
        return None
    try:
        locked = _lock(fd)
        if (
            locked is not False
            and _is_same(fd, path)
            and _may_judge(read(path).owner, store, locked, force)
        ):
            return fd
    except (OSError, StoreCorruptError):
        os.close(fd)
        raise
    os.close(fd)
    return None


def is_locked(path: Path) -> bool:
    """Whether a living writer holds the journal; ``False`` where there are no locks."""
    fd = open_file(path, write=True)
    try:
        return _lock(fd) is False
    finally:
        os.close(fd)


def is_elsewhere(owner: Mapping[str, Any]) -> bool:
    """Whether it was written on another machine, where a living writer cannot be seen."""
    here = _machine()
    return any(owner.get(name) != here[name] for name in ("host", "machine"))


def with_new_owner(data: bytes, name: str, store: str) -> bytes | None:
    """A journal whose first line is damaged, with one that calls its writer dead.

    Its records have checks of their own, so they can be trusted all the same.

    Args:
        data: the journal.
        name: of its commit.
        store: id of the store.

    Returns:
        The journal with another first line; ``None`` if no record in it is whole.
    """
    _, _, rest = data.partition(b"\n")
    parsed = [value for raw in _lines(data) if (value := _parse(raw))]
    starts = [row.offset for v in parsed if (row := _row(v, name)) and not row.removed]
    if not starts:
        return None
    first = {"kind": KIND, "format": FORMAT_VERSION, "name": name, "store": store}
    # No line tells where the data began; what lies before the first record becomes the header's.
    owner = {**_owner(), "boot": "", "data_start": min(starts)}
    return line({**first, **owner}) + rest


def _stamped(text: str) -> bytes:
    data = text.encode()
    return f"{hexdigest(data)} ".encode() + data + b"\n"


def _lines(data: bytes) -> list[bytes]:
    """The lines of a journal; none if they are so many that most must be empty."""
    return data.split(b"\n") if data.count(b"\n") <= len(data) // _LEAST_LINE + 1 else [b""]


def _parse(raw: bytes) -> dict[str, Any] | None:
    check, _, text = raw.partition(b" ")
    if check != hexdigest(text).encode():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _row(value: Mapping[str, Any], name: str) -> Row | None:
    writer = name.partition("-")[0]
    try:
        if "removed" in value:
            key, generation = value["removed"]
            return Row(check_key(key), check_generation(generation), writer)
        return row_from_json(value["row"], name, [Layout.parse(value["layout"])], [writer])
    except (KeyError, TypeError, ValueError, StoreCorruptError):
        return None


def _lock(fd: int) -> bool | None:
    """Take the lock: whether we have it now, ``None`` where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
            raise
        return None
    return True


def _is_same(fd: int, path: Path) -> bool:
    """Whether nobody finished and removed the journal before we had the lock."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _may_judge(owner: Mapping[str, Any], store: str, locked: bool | None, force: bool) -> bool:
    """Whether the owner is surely dead, given that nobody else has its lock.

    Only on the machine where it ran does a free lock prove that; where locks do nothing (some
    network file systems), its process must be seen to be gone.
    """
    here = _owner()
    if owner.get("store", store) != store:  # an older store had this URL, too
        return False
    if any(owner.get(name) != here[name] for name in ("host", "machine")):
        return force
    if owner.get("boot") != here["boot"]:
        return True
    return bool(locked) or (owner.get("pids") == here["pids"] and not _is_running(owner))


def _is_running(owner: Mapping[str, Any]) -> bool:
    if os.name != "posix":  # elsewhere, signal 0 is no question
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return True
    return True


def _owner() -> dict[str, Any]:
    """Where this process runs; ``pids`` tells containers of one machine apart."""
    with suppress(OSError):
        return {**_machine(), "pid": os.getpid(), "pids": str(Path("/proc/self/ns/pid").readlink())}
    return {**_machine(), "pid": os.getpid(), "pids": ""}


@lru_cache(maxsize=1)
def _machine() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "machine": _text("/etc/machine-id") or f"{uuid.getnode():012x}",
        "boot": _text("/proc/sys/kernel/random/boot_id"),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
