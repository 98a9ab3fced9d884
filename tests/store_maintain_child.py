"""What maintenance does in a process of its own, until it is killed before a chosen step."""

import json
import random
import signal
from pathlib import Path

import store_crash_child
from forkserver_children import start
from store_builders import IDENTITY, tiny

from vidcomp.store import CacheWriter
from vidcomp.store.exports.export import export
from vidcomp.store.upkeep.combine import merge
from vidcomp.store.upkeep.compact import compact
from vidcomp.store.upkeep.repair import repair


def die_in(function, step, *args):
    """Whether ``function``, of this module, was killed before its step of that number."""
    process = start(_killed, function, step, *args)
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


def write_own_keys(path, acks, name, count):
    """Add, replace and remove keys that no other process writes; note what holds in the end."""
    rng, model = random.Random(name), {}
    writer = CacheWriter(path, identity=IDENTITY, seal_bytes=20_000)
    for i in range(count):
        key = f"{name}/{rng.randrange(30)}"
        if key in model and rng.random() < 0.3:
            writer.remove(key)
            del model[key]
        else:
            model[key] = rng.randrange(1000)
            writer.add(key, tiny(20, 20, seed=model[key], assign=None), {"seed": model[key]})
        if i % 60 == 59:
            writer.close()
            writer = CacheWriter(path, identity=IDENTITY, seal_bytes=20_000)
    writer.close()
    Path(acks).write_text(json.dumps(model))


def compact_for_ever(path):
    """Compact without grace, again and again, until killed."""
    while True:
        compact(path, grace_s=0, min_live=0.9, seal_bytes=100_000)
