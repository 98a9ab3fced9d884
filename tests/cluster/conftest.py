"""A toy cluster of three nodes on this machine, clips, and a way to run them through it."""

import os
from collections import Counter
from types import SimpleNamespace

import pytest
from bad_clips import promising, unending
from clips import moving_square, write_clip
from ray_helpers import node

from vidcomp.budget import Budget
from vidcomp.config import load_recipe
from vidcomp.pipelines.extraction.run_options import Options, RayOptions
from vidcomp.pipelines.inputs import expand
from vidcomp.store import open_cache
from vidcomp.store.storage import open_storage

SMALL = ["encode.resize={mode: stretch, height: 56, width: 56}"]
NUM_CLIPS = 24


@pytest.fixture(scope="session")
def toy():
    """A head without CPUs and two nodes of two CPUs each."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=node(0) | {"include_dashboard": False})
    cluster.workers = [cluster.add_node(**node(2)) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Folder of two dozen small clips."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(NUM_CLIPS):
        write_clip(folder / f"{i:02}.mp4", moving_square(8 + i % 7, seed=i))
    return folder


@pytest.fixture(scope="session")
def mixed(many, tmp_path_factory):
    """Good clips, one that crashes decord, one that is none, one that is never read."""
    folder = tmp_path_factory.mktemp("mixed")
    for path in sorted(many.iterdir())[:8]:
        (folder / path.name).write_bytes(path.read_bytes())
    promising(folder / "crash.mp4")
    (folder / "corrupt.mp4").write_bytes(b"no video" * 500)
    try:
        unending(folder / "hangs.mkv")
    except OSError:
        pytest.skip("files cannot be as large here as the one that hangs")
    return folder


@pytest.fixture
def recipe():
    return load_recipe("embedded", SMALL).with_budget(Budget.parse("20"))


@pytest.fixture
def run(toy, recipe, tmp_path):
    """``run(folder, hook, ...)``: all receipts of a run on the toy cluster, and what it left."""
    from vidcomp.pipelines.cluster import RayRunner

    out = tmp_path / "cache"

    def call(folder, hook=lambda number, runner: None, *, rounds=3, options=None, **ray):
        items = expand([str(folder)])
        ray = {"address": toy.address, "min_actors": 2, "max_actors": 2} | ray
        options = Options(engine="ray", ray=RayOptions(**ray), **{"workers": 1} | (options or {}))
        storage, receipts = open_storage(out), []
        with RayRunner(storage, recipe, options, most=len(items), rounds=rounds) as runner:
            for receipt in runner.run(items):
                receipts.append(receipt)
                hook(len(receipts), runner)
        assert Counter(r.key for r in receipts if not r.replaces) == {i.key: 1 for i in items}
        return SimpleNamespace(receipts=receipts, out=out, cache=open_cache(out), items=items)

    return call
