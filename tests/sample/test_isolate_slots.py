"""Memory that two processes share; both sides are in one here, to try any order of steps."""

import errno
import gc
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vidcomp.sample.decode import _slots
from vidcomp.sample.decode._fill import LentSlots
from vidcomp.sample.decode._slots import SlotError, open_slots

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd")

MIB = 1 << 20


@pytest.fixture
def own():
    slots = open_slots()
    yield slots
    slots.close()


@pytest.fixture
def lent(own):
    return LentSlots(os.dup(own.file))


def pixels_of(num_bytes, value):
    return torch.arange(num_bytes).add(value).to(torch.uint8)


def held_bytes(slots):
    return os.fstat(slots.file).st_blocks * 512


def pass_on(lent, own, pixels):
    """What the program gets of what the process has."""
    received = own.take(lent.send(pixels), pixels.numel())
    lent.add_free(own.free())
    return received


class Sharing(RuleBasedStateMachine):
    """A process that sends, a program that keeps some of it for any time."""

    @initialize()
    def begin(self):
        self.own = open_slots()
        self.lent = LentSlots(os.dup(self.own.file))
        self.sent = []  # (slot, what it holds)
        self.kept = []  # (received, what it must hold)
        self.count = 0

    @rule(num_bytes=st.integers(1, 3 * MIB), placed=st.booleans())
    def send(self, num_bytes, placed):
        if not self.lent.has_free:
            return
        self.count += 1
        expected = pixels_of(num_bytes, self.count)
        pixels = expected.clone()
        if placed:
            pixels = self.lent.reserve(num_bytes).copy_(expected)
            assert self.lent.holds(pixels)
        self.sent.append((self.lent.send(pixels), expected))

    @rule(num_bytes=st.integers(1, 1000))
    def reserve_for_nothing(self, num_bytes):
        if self.lent.has_free:
            self.lent.reserve(num_bytes)

    @rule()
    def receive(self):
        if self.sent:
            slot, expected = self.sent.pop(0)
            self.kept.append((self.own.take(slot, len(expected)), expected))

    @rule()
    def discard(self):
        if self.sent:
            self.own.put_back(self.sent.pop(0)[0])

    @rule(data=st.data())
    def let_go(self, data):
        if self.kept:
            self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))

    @rule()
    def tell_free(self):
        self.lent.add_free(self.own.free())

    @rule(most_bytes=st.integers(0, 2 * MIB))
    def trim(self, most_bytes):
        self.lent.trim(most_bytes)

    @rule()
    def rest(self):
        self.own.rest()

    @invariant()
    def what_is_kept_stays_as_it_was(self):
        for received, expected in self.kept:
            assert torch.equal(received, expected)

    @invariant()
    def whoever_keeps_frames_stops_nobody(self):
        if not self.sent and self.count:
            self.lent.add_free(self.own.free())
            assert self.lent.has_free

    def teardown(self):
        self.own.close()
        for received, expected in self.kept:
            assert torch.equal(received, expected)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(deadline=None, max_examples=25, stateful_step_count=40)


def test_nothing_is_copied_unless_frames_are_kept(own, lent):
    seen = [pass_on(lent, own, pixels_of(5000, n)).data_ptr() for n in range(20)]
    assert len(set(seen)) == 2  # the same slots again and again: their memory is at hand
    kept = [pass_on(lent, own, pixels_of(5000, n)) for n in range(20)]
    mapped = {own._maps.view(slot, 1).ctypes.data for slot in own._maps._maps}
    assert [t.data_ptr() in mapped for t in kept] == [True] * 6 + [False] * 14
    assert len(lent._free) == 2  # the others are for the process


def test_a_view_of_a_view_keeps_the_slot(own, lent):
    received = pass_on(lent, own, pixels_of(6000, 1))
    part = received.view(10, 600)[3:4].permute(1, 0).numpy()
    del received
    gc.collect()
    for n in range(20):
        pass_on(lent, own, pixels_of(6000, 50 + n))
    assert part.ravel().tolist() == pixels_of(6000, 1)[1800:2400].tolist()


def test_frames_may_be_dropped_in_any_thread(own, lent):
    for n in range(50):
        held = [pass_on(lent, own, pixels_of(1000, n))]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    assert len(own._lent) <= 1


@pytest.mark.parametrize("slot", [-1, 8, 10**30, "0", None, [0], True, 0.0])
def test_a_slot_that_does_not_exist_is_refused(own, slot):
    with pytest.raises(SlotError):
        own.take(slot, 10)
    with pytest.raises(SlotError):
        own.put_back(slot)


@pytest.mark.parametrize("num_bytes", [0, -1, (1 << 36) + 1])
def test_a_slot_has_a_size(own, num_bytes):
    with pytest.raises(SlotError):
        own.take(0, num_bytes)


def test_a_slot_is_announced_once(own, lent):
    slot = lent.send(pixels_of(100, 0))
    kept = own.take(slot, 100)
    with pytest.raises(SlotError, match=f"slot {slot}"):
        own.take(slot, 100)
    del kept
    with pytest.raises(SlotError):  # free, but the process has not been told
        own.put_back(slot)


def test_the_other_side_cannot_take_the_memory_away(own, lent):
    received = pass_on(lent, own, pixels_of(100_000, 0))
    for size in (0, 100, 1 << 50):
        with pytest.raises(PermissionError):
            os.ftruncate(lent._maps._file, size)
    lent._maps.empty(0)
    [lent._maps.empty(slot) for slot in range(8)]
    assert received.sum() == 0  # no longer what it was, but there


def test_memory_of_a_giant_is_given_back(own, lent):
    lent.trim(MIB)
    for _ in range(3):
        kept = [pass_on(lent, own, torch.ones(64 * MIB, dtype=torch.uint8)) for _ in range(2)]
    assert held_bytes(own) >= 128 * MIB
    del kept
    lent.add_free(own.free())
    lent.trim(2 * MIB)
    assert held_bytes(own) < 5 * MIB


def test_a_giant_slot_that_is_always_in_use_shrinks_too(own, lent):
    del_me = pass_on(lent, own, torch.ones(64 * MIB, dtype=torch.uint8))
    del del_me
    for n in range(3):
        lent.add_free(own.free())
        slot = lent.send(pixels_of(1000, n))  # the one used last
        lent.trim(MIB)
        own.put_back(slot)
    assert held_bytes(own) < 5 * MIB


def test_giants_that_are_let_go_of_at_rest_leave_nothing(own, lent):
    first, second = (pass_on(lent, own, torch.ones(40 * MIB, dtype=torch.uint8)) for _ in range(2))
    del first
    own.rest()
    assert 40 * MIB <= held_bytes(own) < 45 * MIB
    del second
    assert held_bytes(own) < 5 * MIB


def test_files_are_closed_with_the_last_frame():
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    own = open_slots()
    lent = LentSlots(os.dup(own.file))
    received = pass_on(lent, own, pixels_of(1000, 3))
    own.close()
    assert received[:3].tolist() == [3, 4, 5]
    os.close(lent._maps._file)
    lent._maps.close()
    del received, own, lent
    gc.collect()
    assert len(list(folder.iterdir())) == before


def test_without_the_means_there_are_no_slots(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "not here")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", refuse)
        assert open_slots() is None
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        assert open_slots() is None
    with monkeypatch.context() as patch:
        patch.setattr(_slots.sys, "platform", "darwin")
        assert open_slots() is None
    assert len(list(folder.iterdir())) == before
