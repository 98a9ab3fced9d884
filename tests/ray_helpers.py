"""What tests on a toy cluster look at: records, nodes, processes."""

import time
from pathlib import Path

from vidcomp.store import verify


def node(cpus):
    """Arguments of a node with so many CPUs."""
    return {"num_cpus": cpus, "object_store_memory": 80 << 20}


def assert_all_there(result):
    """Every item is a record once, and the store is sound."""
    assert {receipt.status for receipt in result.receipts} <= {"ok", "cached"}
    assert sorted(result.cache.keys()) == sorted(item.key for item in result.items)
    assert not verify(result.out).problems


def children_of(pid):
    """Processes that a process has started, and theirs."""
    found, parents = [], {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                text = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(text[1]), []).append(int(place.name))
    todo = [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_end(pids, seconds=20):
    """All of these processes end within so many seconds."""
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.1)
