"""What maintenance does in a process of its own, until it is killed before a chosen step."""

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver

import pytest
import store_crash_child

from vidcomp.store.combine import merge
from vidcomp.store.compact import compact
from vidcomp.store.export import export
from vidcomp.store.repair import repair


def die_in(function, step, *args):
    """Whether ``function``, of this module, was killed before its step of that number."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["store_maintain_child", "store_crash_child"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # else it finds no such module
        forkserver.ensure_running()
    process = context.Process(target=_killed, args=(function, step, *args), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def compact_now(path):
    """Compact, and remove what an earlier run replaced."""
    compact(path, grace_s=0)


def _killed(function, step, *args):
    store_crash_child._die_at(step)
    function(*args)


def repair_now(path):
    """Repair."""
    repair(path)


def merge_now(sources, out):
    """Merge into small shards."""
    merge(sources, out, seal_bytes=1000)


def export_now(path, out, name):
    """Export, one record a file."""
    export(path, out, format=name, shard_bytes=1)
