"""The simulated fleet agrees with its slow twin, loses no video, and obeys what must hold."""

import itertools
import math
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.fleet import SlowFleet
from safetensors import safe_open

from vidcomp.config import identity, load_recipe, recipe_names
from vidcomp.store import CacheWriter, SourceId
from vidcomp.types import Grid, VideoTokens

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from fleet_parts.costs import fit_decode, load_costs  # noqa: E402
from fleet_parts.fleet import DONE, FAILED, LOST, Fleet  # noqa: E402
from fleet_parts.simulation import simulate  # noqa: E402
from fleet_parts.storage import EXAMPLES, Shape, bytes_per_video  # noqa: E402
from fleet_parts.tables import bound_s, cases, fleet_row  # noqa: E402
from fleet_parts.videos import (  # noqa: E402
    CORRUPT,
    GOOD,
    HANGS,
    Corpus,
    Videos,
    fitted,
    make_videos,
)

sys.path.remove(str(SCRIPTS))

COSTS = SCRIPTS.parent / "docs" / "benchmarks" / "fleet_costs.json"
QUICK = Fleet(actors=4, readers=2, node_start_s=3.0, actor_start_s=1.0, write_s=0.01, commit_s=0.1)


def videos_of(rng, number, *, encode=0.4, broken=0.1):
    """Heavy-tailed decoding, some files broken."""
    kind = rng.choice([GOOD, CORRUPT, HANGS], size=number, p=[1 - broken, broken / 2, broken / 2])
    decode_s = rng.lognormal(0, 1, number) * np.where(kind == HANGS, 7, 1)
    good = kind == GOOD
    encode_s = np.where(good, encode * rng.uniform(0.5, 1.5, number), 0.0)
    sizes = np.where(good, rng.integers(1, 6), 0)  # as many frames of every video
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


FLEETS = {
    "seed": st.integers(0, 10_000),
    "number": st.integers(1, 120),
    "actors": st.integers(1, 5),
    "readers": st.integers(1, 4),
    "lease": st.sampled_from([1, 3, 10, None]),
}


def both(seed, videos, fleet, per_s):
    """The fast simulation's result, and the slow twin after its run."""
    lives = deaths(seed, per_s)
    return simulate(videos, fleet, lives=lives), SlowFleet(videos, fleet, lives).run()


def fleet_of(actors, readers, lease, room):
    return Fleet(
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
        reply_s=0.0,
        idle_s=1e9,
    )


@given(**FLEETS, room=st.sampled_from([3, 7, 1000]), per_s=st.sampled_from([0.0, 0.01, 0.04]))
@settings(max_examples=400, deadline=None)
def test_it_agrees_with_the_slow_twin(seed, number, actors, readers, lease, room, per_s):
    videos = videos_of(np.random.default_rng(seed), number, broken=0.0)
    fleet = fleet_of(actors, readers, lease, room)
    fast, slow = both(seed, videos, fleet, per_s)
    assert fast.outcome.tolist() == slow.outcome
    assert (fast.rounds, fast.videos_again) == (slow.rounds, slow.again)
    assert fast.makespan_s == pytest.approx(slow.now + fleet.commit_s, abs=1e-6)


@given(**FLEETS)
@settings(max_examples=100, deadline=None)
def test_broken_files_change_no_more_than_the_order(seed, number, actors, readers, lease):
    """Of two readers that end near a broken file, who takes the next video is not kept."""
    videos = videos_of(np.random.default_rng(seed), number, broken=0.1)
    fleet = fleet_of(actors, readers, lease, room=1000)
    fast, slow = both(seed, videos, fleet, per_s=0.0)
    assert fast.outcome.tolist() == slow.outcome
    most = videos.decode_s.max() + videos.encode_s.max() + fleet.write_s
    assert fast.makespan_s == pytest.approx(slow.now + fleet.commit_s, abs=most)


@given(
    seed=st.integers(0, 1000),
    number=st.integers(1, 200),
    actors=st.integers(1, 6),
    per_node=st.integers(1, 3),
    least=st.sampled_from([None, 1]),
    lease=st.sampled_from([None, 4]),
    is_static=st.booleans(),
    rate=st.sampled_from([0.0, 30.0]),
)
@settings(max_examples=400, deadline=None)
def test_every_video_has_one_outcome_whatever_happens(
    seed, number, actors, per_node, least, lease, is_static, rate
):
    videos = videos_of(np.random.default_rng(seed), number)
    fleet = replace(
        QUICK,
        actors=actors,
        actors_per_node=per_node,
        min_actors=least,
        ramp_s=2.0,
        lease=lease,
        is_static=is_static,
        node_losses_per_hour=rate,
        crashes_per_hour=rate,
        slow_share=0.3,
        idle_s=2.0,
        seal_s=4.0,
    )
    result = simulate(videos, fleet, seed=seed)
    counts = [result.count(outcome) for outcome in (DONE, FAILED, LOST)]
    assert sum(counts) == number
    assert ((result.outcome == DONE) <= videos.is_good).all()
    assert ((result.outcome == FAILED) <= ~videos.is_good).all()
    assert counts[2] == 0 or (rate and not is_static)
    # What was busy is what was kept and what was wasted; nothing is busy longer than it is there.
    factor = fleet.slow_factor
    kept = float(videos.decode_s[result.outcome != LOST].sum())
    spent = result.decode_s - result.wasted_decode_s
    assert kept * (1 - 1e-9) <= spent <= kept * factor * (1 + 1e-9)
    assert result.decode_s <= fleet.readers * result.actor_s * (1 + 1e-9)
    assert result.encode_s - result.wasted_encode_s <= result.actor_s * (1 + 1e-9)
    assert result.actor_s <= fleet.actors_per_node * result.node_s
    assert result.node_s <= fleet.nodes * result.makespan_s * (1 + 1e-9)
    assert bool(result.videos_again) <= bool(result.node_losses + result.crashes)


@pytest.mark.parametrize("lease", [None, 8])
@pytest.mark.parametrize("encode", [0.1, 2.0])
def test_an_undisturbed_run_comes_near_what_no_run_can_beat(lease, encode):
    videos = videos_of(np.random.default_rng(0), 4000, encode=encode, broken=0)
    fleet = replace(QUICK, lease=lease, write_s=0.0, commit_s=0.0, queue_bytes=1000)
    result = simulate(videos, fleet)
    longest = float((videos.decode_s + videos.encode_s).max())
    assert bound_s(videos, fleet) <= result.makespan_s
    assert result.makespan_s <= 1.03 * bound_s(videos, fleet) + longest


@pytest.mark.parametrize("is_static", [False, True])
def test_more_machines_are_never_slower_but_for_one_video(is_static):
    videos = videos_of(np.random.default_rng(1), 1500, broken=0)
    longest = float((videos.decode_s + videos.encode_s).max())
    fleets = [replace(QUICK, actors=count, is_static=is_static) for count in (1, 2, 4, 8, 16, 32)]
    seconds = [simulate(videos, fleet).makespan_s for fleet in fleets]
    assert all(more <= fewer + longest for fewer, more in itertools.pairwise(seconds))
    assert seconds[0] > 6 * seconds[3]


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    videos = videos_of(np.random.default_rng(2), 600)
    fleet = replace(QUICK, node_losses_per_hour=20.0, crashes_per_hour=20.0, slow_share=0.5)
    runs = [simulate(videos, fleet, seed=seed) for seed in (3, 3, 4)]
    told = [(run.makespan_s, run.decode_s, run.videos_again, run.node_s) for run in runs]
    assert told[0] == told[1] != told[2]


def test_leases_spread_what_fixed_parts_leave_on_slow_machines():
    videos = videos_of(np.random.default_rng(5), 3000, broken=0)
    fleet = replace(QUICK, actors=8, slow_share=0.3)
    leases, parts = (simulate(videos, replace(fleet, is_static=s), seed=1) for s in (False, True))
    assert leases.makespan_s < 0.8 * parts.makespan_s
    assert leases.tail_s < 0.3 * parts.tail_s


def test_large_leases_that_are_kept_make_the_others_wait():
    videos = videos_of(np.random.default_rng(6), 3000, broken=0)
    seconds = [simulate(videos, replace(QUICK, lease=n)).makespan_s for n in (8, 700)]
    assert seconds[0] < 0.9 * seconds[1]


def test_an_autoscaler_pays_for_less_and_takes_longer():
    videos = videos_of(np.random.default_rng(7), 2000, broken=0)
    fleet = replace(QUICK, actors=8, idle_s=1.0)
    grown = replace(fleet, min_actors=1, ramp_s=20.0)
    all_there, few_first = simulate(videos, fleet), simulate(videos, grown)
    assert few_first.makespan_s > all_there.makespan_s
    assert few_first.node_s < all_there.node_s * 1.02


def test_a_hanging_file_costs_two_waits_and_two_processes():
    costs = load_costs(COSTS)
    corpus = Corpus(corrupt=0.0, crashes=0.0, hangs=1.0, stall_s=60.0)
    rng = np.random.default_rng(0)
    videos = make_videos(5, costs, corpus, frames_per_s=None, rng=rng)
    assert (videos.kind == HANGS).all()
    assert videos.decode_s == pytest.approx(2 * (60.0 + costs.child_start_s))


def test_the_lognormal_of_lengths_is_found_again():
    lengths = 40 * np.exp(0.7 * np.random.default_rng(0).standard_normal(200_000))
    median, sigma = fitted(lengths)
    assert median == pytest.approx(40, rel=0.01)
    assert sigma == pytest.approx(0.7, rel=0.01)


def test_decoding_costs_by_length_until_all_of_it_is_decoded():
    cost = fit_decode({8.0: 0.9, 32.0: 3.3, 128.0: 5.1, 512.0: 5.1})
    assert (cost.per_item_s, cost.per_second_s, cost.full_s) == pytest.approx((0.1, 0.1, 50.0))
    assert cost.of(np.array([8.0, 32.0, 1000.0])) == pytest.approx([0.9, 3.3, 5.1])


def test_the_published_cases_run_and_their_rows_fit_the_header():
    from fleet_parts.tables import FLEET_HEADER

    rng = np.random.default_rng(0)
    videos = make_videos(3000, load_costs(COSTS), Corpus(), frames_per_s=2000.0, rng=rng)
    for case in cases(replace(QUICK, actors=16)):
        row = fleet_row(case, videos, simulate(videos, case.fleet))
        assert len(row) == len(FLEET_HEADER)
        assert row[4] >= 1.0  # hours over the bound


# -- bytes ---------------------------------------------------------------------------------------


def written(folder, shape, number, seal_bytes):
    """Bytes of a cache with so many records of that shape."""
    grid, width = Grid(*shape.grid), () if shape.dim is None else (shape.dim,)
    recipe = load_recipe("embedded")
    store = recipe.store.model_copy(
        update={
            "codec": "none" if shape.packed is None else "zstd",
            "assign": shape.assign,
            "extras": tuple(shape.extras),
        }
    )
    torch.manual_seed(0)
    tokens = torch.randn(shape.tokens, *width) if width else torch.randint(8192, (shape.tokens,))
    video = VideoTokens(
        tokens=tokens,
        positions=torch.rand(shape.tokens, 3),
        spans=torch.rand(shape.tokens, 2),
        mass=torch.ones(shape.tokens),
        grid=grid,
        assign=torch.zeros(grid.num_patches, dtype=torch.int64) if shape.assign else None,
        extras={k: torch.zeros(shape.tokens, w).bfloat16() for k, w in shape.extras.items()},
    )
    with CacheWriter(
        folder, identity=identity(recipe), weights={}, settings=store, seal_bytes=seal_bytes
    ) as writer:
        for i in range(number):
            writer.add(f"folder/of/videos/{i:08}.mp4", video, {}, SourceId(size=9, mtime_ns=10**18))
    shard = next((folder / "shards").iterdir())
    with safe_open(shard, "pt") as file:
        name = next(name for name in file.keys() if name.endswith("mp4/meta"))  # noqa: SIM118
        meta = len(bytes(file.get_tensor(name).tolist()).rstrip())
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")), meta


@pytest.mark.parametrize(
    ("shape", "number", "seal_bytes"),
    [
        (replace(EXAMPLES["embedded"], tokens=196), 1500, 8 << 20),
        (Shape(tokens=512, dim=256, grid=(8, 8, 8)), 60, 8 << 20),
        (
            Shape(tokens=300, dim=64, grid=(4, 10, 10), assign=True, extras={"keys": 32}),
            300,
            8 << 20,
        ),
        (replace(EXAMPLES["dvae-ids"]), 60, 8 << 20),
    ],
    ids=["embedded", "wide", "assign and extras", "ids"],
)
def test_the_bytes_of_a_cache_are_those_that_are_told(tmp_path, shape, number, seal_bytes):
    if shape.packed is not None and sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd")
    held, meta = written(tmp_path / "cache", shape, number, seal_bytes)
    told = bytes_per_video(shape, meta_nbytes=meta, seal_bytes=seal_bytes)
    assert held == pytest.approx(number * told["total"], rel=0.02)


@pytest.mark.parametrize("name", recipe_names())
def test_the_shapes_of_recipes_are_those_of_their_files(name):
    recipe, shape = load_recipe(name), EXAMPLES[name]
    assert shape.assign == recipe.store.assign
    assert (shape.packed is not None) == (recipe.store.codec == "zstd")
    assert bool(shape.extras) == bool(recipe.store.extras)
    frames = getattr(recipe.sample, "num_frames", None)
    if recipe.project is not None:
        assert shape.dim == recipe.project.dim_out
        per_frame = getattr(recipe.project, "tokens_per_frame", None)
        assert shape.tokens == (frames * per_frame if per_frame else recipe.project.num_latents)
    elif recipe.compress is not None:
        patches = math.prod(shape.grid)
        assert shape.tokens == recipe.compress.budget.resolve(patches, shape.grid[0], 60.0)


@pytest.mark.slow
def test_costs_are_measured_and_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from fleet_parts.costs import save_costs
    from fleet_parts.measure import measure

    costs = measure(heights=(96, 144), repeats=(1, 2), rounds=1, num_tiny=20)
    save_costs(costs, tmp_path / "costs.json")
    assert replace(load_costs(tmp_path / "costs.json"), details={}) == replace(costs, details={})
    assert (costs.recipe, costs.num_frames, costs.frame_bytes) == ("embedded", 32, 3 * 224 * 224)
    assert costs.decode[144].of(np.array([8.0])) > 1e-3
    assert 1e-5 < costs.encode_per_frame_s < 1
    assert 300 < costs.meta_nbytes < 3000
    assert min(costs.compress_s, costs.write_s, costs.commit_s) > 0
