"""What a writer does in a process of its own, until it is killed.

Run by ``multiprocessing`` with a fork server: one import of torch for many deaths.
"""

import os
import signal
from pathlib import Path

from store_builders import IDENTITY, tiny

from vidcomp.store import CacheWriter, SourceId, recover

OPERATIONS = [
    ("add", "a", 1),
    ("add", "b", 2),
    ("seal",),
    ("add", "a", 3),
    ("add", "c", 4),
    ("remove", "b"),
    ("add", "c", 5),
    ("seal",),
    ("add", "d", 6),
    ("remove", "c"),
]
"""A script that adds, replaces and removes, within shards and across them."""

STEPS = ("pwritev", "fsync", "rename", "replace", "link", "unlink", "ftruncate")
"""System calls that change what is on the disk."""


def state_after(count):
    """Key to seed after so many operations."""
    state = {}
    for operation, *args in OPERATIONS[:count]:
        if operation == "add":
            state[args[0]] = args[1]
        elif operation == "remove":
            del state[args[0]]
    return state


def write_until_step(path, acks, deadly_step):
    """Do the operations; die before the step of that number (a write is half done)."""
    _die_at(deadly_step)
    writer = CacheWriter(path, identity=IDENTITY)
    for i, (operation, *args) in enumerate(OPERATIONS):
        if operation == "add":
            writer.add(args[0], tiny(seed=args[1]), {"seed": args[1]})
        elif operation == "remove":
            writer.remove(args[0])
        else:
            writer.seal()
        Path(acks).write_text(str(i + 1))
    writer.close()


def recover_until_step(path, deadly_step):
    """Recover; die before the step of that number."""
    _die_at(deadly_step)
    recover(path)


def write_for_ever(path, acks, first):
    """Add records, saying so after each, until killed."""
    writer = CacheWriter(path, identity=IDENTITY, seal_bytes=60_000, sync_every=3)
    with Path(acks).open("a") as file:
        for i in range(first, first + 1_000_000):
            writer.add(f"v{i}", tiny(40, 30, seed=i), {"seed": i}, SourceId(size=i, mtime_ns=i))
            file.write(f"{i}\n")
            file.flush()


def leave_open(path, count):
    """Add records and vanish without closing."""
    writer = CacheWriter(path, identity=IDENTITY)
    for i in range(count):
        writer.add(f"v{i}", tiny(seed=i), {"seed": i})
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at(deadly_step):
    count = 0

    def watch(name, real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > deadly_step:
                if name == "pwritev":
                    fd, parts, offset = args
                    data = b"".join(bytes(part) for part in parts)
                    os.pwrite(fd, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, watch(name, getattr(os, name)))
