"""Actors and nodes that die, files that kill, records that vanish: every row ends exactly once."""

import json
import os
import shutil
import signal

import pytest
from ray_helpers import assert_all_there, assert_end, children_of, node

from vidcomp.config import load_recipe
from vidcomp.errors import ConfigError
from vidcomp.pipelines.cluster import RayRunner
from vidcomp.pipelines.extraction.run_options import Options, RayOptions
from vidcomp.pipelines.inputs import expand
from vidcomp.store.storage import open_storage

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


def once(number, action):
    """A hook that acts when so many receipts have come."""
    return lambda count, runner: action(runner) if count == number else None


def test_a_run_without_faults_is_whole(run, many):
    actors = []
    result = run(many, once(1, lambda runner: actors.extend(runner.actors)))
    assert_all_there(result)
    assert len(actors) == 2
    assert len({info.pid for info in actors}) == 2
    assert len({path.name.split("-")[0] for path in (result.out / "shards").iterdir()}) == 2
    assert_end([info.pid for info in actors])
    again = run(many)
    assert {receipt.status for receipt in again.receipts} == {"cached"}


def test_an_actor_that_is_killed_is_replaced_and_its_items_are_done(run, many):
    killed = []

    def kill(runner):
        pid = runner.actors[0].pid
        killed.extend([pid, *children_of(pid)])
        os.kill(pid, signal.SIGKILL)

    result = run(many, once(3, kill))
    assert_all_there(result)
    assert len(killed) >= 2  # its decode process too
    assert_end(killed)


def test_a_node_that_goes_costs_nothing(toy, run, many):
    extra = toy.add_node(**node(2))
    toy.wait_for_nodes()
    killed = []

    def kill(runner):
        killed.extend(pid for info in runner.actors for pid in (info.pid, *children_of(info.pid)))
        toy.remove_node(extra, allow_graceful=False)

    # Three actors of two CPUs each: one on every node.
    result = run(many, once(3, kill), min_actors=3, max_actors=3, cpus=2)
    assert_all_there(result)
    assert_end(killed)


def test_files_that_crash_or_hang_a_decoder_are_blamed_alone(run, mixed):
    result = run(mixed, options={"backend": "decord", "stall_s": 2.0})
    ends = {receipt.key: receipt for receipt in result.receipts}
    bad = {"crash.mp4", "corrupt.mp4", "hangs.mkv"}
    assert {key for key, receipt in ends.items() if receipt.status == "failed"} == bad
    assert sorted(result.cache.keys()) == sorted(ends.keys() - bad)
    records = [json.loads(path.read_text()) for path in (result.out / "errors").iterdir()]
    assert {record["key"] for record in records} == bad
    assert "SIGABRT" in ends["crash.mp4"].message
    assert "no progress for 2 s" in ends["hangs.mkv"].message


def lose_what_an_actor_wrote(runner):
    """The actor is killed, and its journal goes with it, as on a machine that vanishes."""
    wal = runner._storage.wal
    for info in runner.actors:
        os.kill(info.pid, signal.SIGKILL)
    assert_end([info.pid for info in runner.actors])
    assert list(wal.iterdir())
    shutil.rmtree(wal)
    wal.mkdir()


def test_records_that_vanish_are_made_again(run, many):
    result = run(many, once(10, lose_what_an_actor_wrote))
    assert_all_there(result)


def test_records_that_vanish_for_good_are_lost(run, many):
    result = run(many, once(10, lose_what_an_actor_wrote), rounds=0)
    lost = [receipt for receipt in result.receipts if receipt.status == "lost"]
    assert lost
    assert all(receipt.replaces == "ok" for receipt in lost)
    assert len(result.cache) == len(result.items) - len(lost)
    assert not {receipt.key for receipt in lost} & set(result.cache.keys())


def test_actors_that_cannot_start_end_the_run_with_their_own_error(toy, tmp_path, many):
    recipe = load_recipe("siglip2-196", [f"encode.model={tmp_path / 'nowhere'}"])
    options = Options(engine="ray", workers=1, ray=RayOptions(address=toy.address, min_actors=2))
    with pytest.raises(ConfigError, match="nowhere"):
        RayRunner(open_storage(tmp_path / "cache"), recipe, options, most=len(expand([str(many)])))


def test_a_drained_run_keeps_what_it_has_begun(toy, recipe, many, tmp_path):
    items = expand([str(many)])
    options = Options(engine="ray", workers=1, ray=RayOptions(address=toy.address))
    keys = []
    with RayRunner(open_storage(tmp_path / "c"), recipe, options, most=len(items)) as runner:
        for receipt in runner.run(items):
            keys.append(receipt.key)
            if len(keys) == 3:
                runner.drain()
    from vidcomp.store import open_cache

    assert 3 <= len(keys) <= len(items)
    assert set(keys) == set(open_cache(tmp_path / "c").keys())
