"""The simulated fleet agrees with its slow twin, loses no video, and obeys what must hold."""

import math
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.fleet import SlowFleet

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from fleet_parts.fleet import DONE, FAILED, LOST, Fleet  # noqa: E402
from fleet_parts.simulation import simulate  # noqa: E402
from fleet_parts.videos import CORRUPT, GOOD, HANGS, Videos  # noqa: E402

sys.path.remove(str(SCRIPTS))


def videos_of(rng, number, *, encode=0.4, broken=0.1):
    """Heavy-tailed decoding, some files broken."""
    kind = rng.choice([GOOD, CORRUPT, HANGS], size=number, p=[1 - broken, broken / 2, broken / 2])
    decode_s = rng.lognormal(0, 1, number) * np.where(kind == HANGS, 7, 1)
    good = kind == GOOD
    encode_s = np.where(good, encode * rng.uniform(0.5, 1.5, number), 0.0)
    sizes = np.where(good, rng.integers(1, 6, number), 0)
    return Videos(decode_s, encode_s, sizes, kind.astype(np.uint8))


def deaths(salt, per_s):
    """The same deaths for whoever asks, in whatever order: by name, number and time of birth."""
    drawn = {}

    def lives(what, number, at_s):
        key = (salt, what, number, round(at_s, 6))
        if key not in drawn:
            seed = zlib.crc32(repr(key).encode())
            drawn[key] = math.inf
            if per_s:
                drawn[key] = at_s + np.random.default_rng(seed).exponential(1 / per_s)
        return drawn[key]

    return lives


@given(
    seed=st.integers(0, 10_000),
    number=st.integers(1, 120),
    actors=st.integers(1, 5),
    readers=st.integers(1, 4),
    lease=st.sampled_from([1, 3, 10, None]),
    room=st.integers(3, 30),
    per_s=st.sampled_from([0.0, 0.01, 0.04]),
)
@settings(max_examples=150, deadline=None)
def test_it_agrees_with_the_slow_twin(seed, number, actors, readers, lease, room, per_s):
    rng = np.random.default_rng(seed)
    videos = videos_of(rng, number)
    fleet = Fleet(
        actors=actors,
        readers=readers,
        queue_bytes=room,
        is_static=lease is None,
        lease=lease,
        write_s=0.05,
        commit_s=0.3,
        seal_s=5.0,
        node_start_s=3.0,
        actor_start_s=1.5,
        detect_s=0.7,
        idle_s=1e9,
    )
    lives = deaths(seed, per_s)
    fast = simulate(videos, fleet, lives=lives)
    slow = SlowFleet(videos, fleet, lives).run()
    assert fast.outcome.tolist() == slow.outcome
    assert (fast.rounds, fast.videos_again) == (slow.rounds, slow.again)
    assert fast.makespan_s == pytest.approx(slow.now + fleet.commit_s, abs=1e-6)
