"""Killed at any moment, whatever changes the store at once: nothing committed is lost or torn."""

import random
import shutil
import signal
import time

import forkserver_children
import pytest
import store_survival_child as child
from store_builders import IDENTITY

from vidcomp.store import CacheWriter, compact, open_cache, verify


@pytest.fixture
def start():
    """Starts a function of ``store_survival_child`` in a process of its own."""
    return forkserver_children.start


def killed_again_and_again(start, tmp_path, form, rounds, seed):
    """Kill a writer and a compaction beside it at random moments; look each time; how many."""
    rng = random.Random(seed)
    path, acks = tmp_path / "store", tmp_path / "acks"
    for round_ in range(rounds):
        writer = start(child.churn, path, acks, seed * 100 + round_, form)
        tidier = start(child.compact_for_ever, path, form)
        before = acks.stat().st_size if acks.exists() else 0
        deadline = time.monotonic() + 60
        while (not acks.exists() or acks.stat().st_size < before + 400) and (
            time.monotonic() < deadline
        ):
            assert writer.is_alive()
            time.sleep(0.001)
        time.sleep(rng.random() * 0.25)
        for process in rng.sample([writer, tidier], 2):
            assert process.is_alive(), f"{process} ended by itself with {process.exitcode}"
            process.kill()
            time.sleep(rng.random() * 0.01)
            process.join()
        look(path, acks, form)
    return rounds


def look(path, acks, form):
    """What was sealed can be read at once, what was done after the next writer has begun."""
    sealed, done, step = child.story(acks)
    if (path / "store.json").exists():
        visible = child.seeds(open_cache(path), form)
        ever = {line.split()[3] for line in acks.read_text().splitlines()}
        assert {str(seed) for seed in visible.values()} <= ever
        touched = {k for k in sealed.keys() | done.keys() if sealed.get(k) != done.get(k)}
        touched |= {step[1]} if step else set()
        lost = {k for k, v in sealed.items() if k not in touched and visible.get(k) != v}
        assert not lost
    with CacheWriter(path, identity=IDENTITY, settings=child.FORMS[form]):
        pass
    found = child.seeds(open_cache(path), form)
    after = child.told(done, step) if step else done
    assert found in (done, after)
    if step and found != done:
        with acks.open("a") as file:
            file.write(f"did {step[0]} {step[1]} {step[2]}\n")
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])


@pytest.mark.parametrize("form", child.FORMS)
def test_killed_at_random_moments_beside_a_compaction(start, tmp_path, form):
    assert killed_again_and_again(start, tmp_path, form, 5, 1) == 5


@pytest.mark.slow
@pytest.mark.parametrize("form", child.FORMS)
def test_killed_at_fifty_random_moments_beside_a_compaction(start, tmp_path, form):
    assert killed_again_and_again(start, tmp_path, form, 50, 2) == 50


STATES = [{}, {"a": 1}, {"a": 1, "b": 2}, {"a": 3, "b": 2}, {"a": 3}, {"a": 3, "c": 4}]


def killed_before_steps(start, tmp_path, form, stride):
    """Die before every ``stride``-th step of writing, removing, a snapshot and two compactions."""
    deaths = 0
    while True:
        path = tmp_path / str(deaths)
        process = start(child.all_steps, path, form, deaths)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if (path / "store.json").exists():
            assert child.seeds(open_cache(path), form) in STATES
        with CacheWriter(path, identity=IDENTITY, settings=child.FORMS[form]):
            pass
        found = child.seeds(open_cache(path), form)
        assert found in STATES
        report = verify(path)
        assert (report.problems, report.pending) == ([], [])
        compact(path, grace_s=0, min_live=1.0)
        assert child.seeds(open_cache(path), form) == found
        assert verify(path).ok
        shutil.rmtree(path)
        if process.exitcode == 0:
            assert found == STATES[-1]
            return deaths
        deaths += stride


@pytest.mark.parametrize("form", ["int8", "zstd"])
def test_killed_before_some_steps_of_everything(start, tmp_path, form):
    assert killed_before_steps(start, tmp_path, form, 9) > 60


@pytest.mark.slow
@pytest.mark.parametrize("form", child.FORMS)
def test_killed_before_every_step_of_everything(start, tmp_path, form):
    assert killed_before_steps(start, tmp_path, form, 1) > 60
