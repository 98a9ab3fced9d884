"""What lives in an actor, without an actor: leases in, reports out, records committed."""

import os
import threading
import time
from dataclasses import replace

import pytest

from vidcomp.config import load_recipe
from vidcomp.pipelines.cluster.host import Feed, Host, Job
from vidcomp.pipelines.cluster.messages import Started, Trouble
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.inputs import Item, expand
from vidcomp.store import open_cache
from vidcomp.store.storage import open_storage


@pytest.fixture
def job(recipe, tmp_path):
    options = Options(workers=2, isolation="thread")
    storage = open_storage(tmp_path / "cache")
    return Job(storage=storage, recipe=recipe, options=options, folder=os.getcwd())  # noqa: PTH109


@pytest.fixture
def hosts():
    """Starts hosts that end with the test."""
    started = []

    def start(job):
        host = Host(job)
        started.append(host)
        assert isinstance(host.start(), Started)
        return host

    yield start
    for host in started:
        host.drain(0.0)
        read(host, until=lambda report: report.is_over)


def read(host, until, seconds=60):
    """Receipts by key up to the report that ``until`` holds of, and that report."""
    found, end = {}, time.monotonic() + seconds
    while True:
        report = host.poll(0.5)
        for receipt in report.receipts:
            assert receipt.key not in found
            found[receipt.key] = receipt.status
        if until(report):
            return found, report
        assert time.monotonic() < end


def read_all(host, items):
    found = {}
    while len(found) < len(items):
        found |= read(host, lambda report: bool(report.receipts))[0]
    return found


def test_receipts_come_while_the_host_waits_for_more(hosts, job, many):
    items = expand([str(many)])
    host = hosts(job)
    for lease in (items[:3], items[3:4], items[4:9]):
        host.lease(lease)
        assert read_all(host, lease) == {item.key: "ok" for item in lease}
    host.finish()
    rest, last = read(host, lambda report: report.is_over)
    assert not rest
    assert (last.num_begun, last.trouble) == (9, None)
    assert len(open_cache(job.storage)) == 9


def test_items_that_are_there_have_receipts_too(hosts, job, many):
    items = expand([str(many)])[:4]
    first = hosts(job)
    first.lease(items)
    read_all(first, items)
    first.finish()
    read(first, lambda report: report.is_over)
    second = hosts(job)
    second.lease(items)
    assert read_all(second, items) == {item.key: "cached" for item in items}


def test_records_become_visible_though_nothing_more_comes(hosts, job, many):
    items = expand([str(many)])[:2]
    host = hosts(replace(job, seal_s=0.5))
    host.lease(items)
    read_all(host, items)
    end = time.monotonic() + 30
    while len(open_cache(job.storage)) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_drained_host_drops_what_it_has_not_begun_and_commits(hosts, job, many):
    items = expand([str(many)])
    host = hosts(replace(job, options=replace(job.options, workers=1)))
    host.lease(items)
    before, _ = read(host, lambda report: bool(report.receipts))
    host.drain(30.0)
    after, last = read(host, lambda report: report.is_over)
    done = before | after
    assert last.num_begun == len(done)
    assert set(open_cache(job.storage).keys()) == set(done)


def test_what_was_not_begun_can_be_taken_back(hosts, job, many):
    items = expand([str(many)])
    host = hosts(replace(job, options=replace(job.options, workers=1)))
    host.lease(items)
    kept = {item.key for item in items} - set(host.take_back())
    host.finish()
    done, _ = read(host, lambda report: report.is_over)
    assert set(done) == kept


def test_what_ends_the_worker_is_told_in_words(hosts, job, many, tmp_path):
    host = hosts(replace(job, options=replace(job.options, on_error="raise")))
    host.lease([Item(key="none", path=str(tmp_path / "none.mp4"))])
    _, last = read(host, lambda report: report.is_over)
    assert last.trouble.kind == "DecodeError"
    assert "none.mp4" in last.trouble.message


def test_a_host_that_cannot_start_says_why(job, tmp_path):
    recipe = load_recipe("siglip2-196", [f"encode.model={tmp_path / 'nowhere'}"])
    found = Host(replace(job, recipe=recipe)).start()
    assert isinstance(found, Trouble)
    assert found.kind == "ConfigError"


def test_a_feed_hands_every_item_to_one_taker():
    feed, taken = Feed(), []
    takers = [threading.Thread(target=lambda: taken.extend(feed)) for _ in range(3)]
    for taker in takers:
        taker.start()
    for start in range(0, 60, 5):
        feed.put([Item(key=str(i), path="") for i in range(start, start + 5)])
    feed.close(drop=False)
    for taker in takers:
        taker.join(10)
        assert not taker.is_alive()
    assert sorted(int(item.key) for item in taken) == list(range(60))
    assert feed.num_begun == 60
