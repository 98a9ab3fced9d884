"""How long batches, threads and processes of a loader live."""

import os
import pickle
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch
from data_cases import Slow, orders, readers, wait_for
from store_builders import same, tiny, write

from vidcomp.data import (
    TokenLoader,
)
from vidcomp.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_kept_batches_stay_and_dropped_ones_give_their_memory_back(tmp_path):
    videos = {f"{i:02d}": tiny(100, 700, i, assign=None) for i in range(40)}
    loader = TokenLoader(write(tmp_path, videos), 4, shuffle=True, prefetch=2)
    addresses = set()
    for _ in range(5):
        for batch in loader:
            addresses.add(batch.tokens.data_ptr())
    assert len(addresses) <= 8  # of 50 batches
    kept = []
    for epoch in range(2):
        for number, batch in enumerate(loader):
            if number % 3 == epoch:
                kept.append(batch)
            else:
                batch.tokens.zero_()
    for batch in kept:
        assert all(same(video, videos[key]) for key, video in zip(batch.keys, batch, strict=True))
    tokens = next(iter(loader)).tokens  # a part of a batch holds on to its memory, too
    before = tokens.clone()
    list(loader)
    assert torch.equal(tokens, before)


@pytest.mark.gpu
def test_pinned_batches_reach_the_gpu_as_they_are(tmp_path):
    videos = {f"{i:02d}": tiny(50 + i, 700, i, assign=None) for i in range(40)}
    loader = TokenLoader(write(tmp_path, videos), 4, shuffle=True, pin_memory=True)
    for _ in range(3):
        there = []
        for batch in loader:
            assert batch.tokens.is_pinned()
            there.append(batch.to("cuda", non_blocking=True))
        torch.cuda.synchronize()
        found = {k: v.to("cpu") for b in there for k, v in zip(b.keys, b, strict=True)}
        assert all(same(found[key], video) for key, video in videos.items())


def test_pinning_needs_a_gpu(cache):
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="pin_memory=False"):
            TokenLoader(cache, 4, pin_memory=True)


def test_no_more_is_read_ahead_than_asked_for(cache):
    dataset = Slow(cache)
    batches = iter(TokenLoader(dataset, 1, prefetch=3))
    assert dataset.num_read == 0
    next(batches)
    wait_for(lambda: dataset.num_read == 4)
    time.sleep(0.05)
    assert dataset.num_read == 4
    next(batches)
    wait_for(lambda: dataset.num_read == 5)


def _fail_within(loader):
    for _ in loader:
        raise ZeroDivisionError


def test_leaving_the_loop_ends_the_threads(cache):
    loader = TokenLoader(cache, 1)
    for _ in loader:
        assert len(readers()) == 2
        break
    wait_for(lambda: not readers())
    with pytest.raises(ZeroDivisionError):
        _fail_within(loader)
    wait_for(lambda: not readers())
    batches = iter(loader)
    next(batches)
    del batches
    wait_for(lambda: not readers())
    batches = iter(loader)
    next(batches)
    loader.close()
    assert not readers()
    assert list(batches) == []
    list(loader)
    assert not readers()


def test_a_loader_that_is_dropped_takes_all_with_it(cache):
    loader = TokenLoader(cache, 1)
    batches = iter(loader)
    next(batches)
    gone = weakref.ref(loader)
    del loader, batches
    wait_for(lambda: not readers())
    assert gone() is None


def test_two_iterations_at_once_are_two_epochs(cache):
    loader = TokenLoader(cache, 4, shuffle=True)
    wanted = orders(TokenLoader(cache, 4, shuffle=True), 2)
    pairs = list(zip(loader, loader, strict=True))
    assert [[pair[n].keys for pair in pairs] for n in (0, 1)] == wanted


def test_it_can_be_copied_between_epochs_and_in_the_middle(cache):
    loader = TokenLoader(cache, 4, shuffle=True, seed=9)
    wanted = orders(TokenLoader(cache, 4, shuffle=True, seed=9), 2)
    assert [batch.keys for batch in loader] == wanted[0]
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.dataset is copy.sampler.dataset
    assert [batch.keys for batch in copy] == wanted[1]
    running = iter(loader)
    next(running)
    assert [batch.keys for batch in pickle.loads(pickle.dumps(loader))] == wanted[1][1:]
    loader.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_it_works_in_a_forked_child(cache):
    loader = TokenLoader(cache, 2, shuffle=True)
    running = iter(loader)
    next(running)
    child = os.fork()
    if child == 0:
        # Both an iteration that was under way, and a new one.
        good = len(list(running)) == 6 and len(list(loader)) == 7
        os._exit(0 if good else 1)
    rest = list(running)
    assert os.waitpid(child, 0)[1] == 0
    assert len(rest) == 6


def run_code(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_an_iteration_that_is_held_does_not_hinder_the_end(cache):
    code = """
import sys
from vidcomp.data import TokenLoader
held = iter(TokenLoader(sys.argv[1], 1))
print(next(held).keys)
"""
    child = run_code(code, cache)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "('clip00',)\n", "")


def test_ctrl_c_ends_a_wait_at_once(cache):
    code = """
import signal, sys, threading, time
from vidcomp.data import CachedTokenDataset, TokenLoader
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
class Slow(CachedTokenDataset):
    def batch(self, indices, memory=None, *, padded=False):
        if indices[0] > 2:
            print("stuck", flush=True)
            time.sleep(8)
        return super().batch(indices, memory, padded=padded)
try:
    for batch in TokenLoader(Slow(sys.argv[1]), 1, num_threads=1):
        pass
except KeyboardInterrupt:
    print("out", flush=True)
"""
    child = run_code(code, cache)
    assert child.stdout.readline() == "stuck\n"
    time.sleep(1.5)  # now it waits; a signal on the way into a wait is seen after it
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "out\n"
    assert time.monotonic() - start < 5
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "", "")
