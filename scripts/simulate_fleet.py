"""A fleet of machines works through millions of videos: how long, how much wasted, what it costs.

    python scripts/simulate_fleet.py --measure                         # what a video costs here
    python scripts/simulate_fleet.py --publish storage fleet picture   # for the docs
    python scripts/simulate_fleet.py --actors 64 --losses 0.05         # one run, its result printed

Every video is followed through readers, queue, encoder and writer of its machine; around that,
leases or fixed parts, starts, losses, crashes, files that hang, slow nodes, an autoscaler.  Costs
of videos come from ``--measure`` (CPU seconds of one core, the recipe ``embedded``).  Not measured,
and so given by arguments whose values are examples: frames a second of the device
(``--frames-per-s``; 0 takes the measured encoder on one core), lengths of the videos (lognormal, on
request fitted to a CSV file), how often things fail, and prices.  Ten million videos take some 20 s
of one core and 0.6 GB.
"""

import argparse
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
from _bench import DOCS, publish
from fleet_parts.costs import Costs, load_costs, save_costs
from fleet_parts.fleet import DONE, FAILED, LOST, Fleet
from fleet_parts.measure import measure
from fleet_parts.simulation import simulate
from fleet_parts.tables import (
    EXAMPLE,
    FLEET_HEADER,
    STORAGE_HEADER,
    bound_s,
    draw,
    fleet_rows,
    storage_rows,
)
from fleet_parts.videos import Corpus, fitted, make_videos, read_lengths

COSTS = DOCS / "benchmarks" / "fleet_costs.json"


def main() -> None:
    """Measure, publish, or run once."""
    options = parsed()
    if options.measure:
        save_costs(measure(), options.costs)
        print(options.costs.read_text())
        return
    costs = load_costs(options.costs)
    corpus, frames_per_s = corpus_of(options), options.frames_per_s or None
    fleet = fleet_of(options, costs)
    if "storage" in options.publish:
        publish_storage(costs)
    if "fleet" in options.publish:
        publish_fleet(options, costs, corpus, fleet)
    rng = np.random.default_rng(options.seed)
    if "picture" in options.publish:
        number = min(options.videos, 1_000_000)
        videos = make_videos(number, costs, corpus, frames_per_s=frames_per_s, rng=rng)
        path = DOCS / "images" / "fleet.png"
        print(draw(videos, fleet, (8, 16, 32, 64, 128, 256), path, options.seed))
    if options.publish:
        return
    videos = make_videos(options.videos, costs, corpus, frames_per_s=frames_per_s, rng=rng)
    result = simulate(videos, fleet, seed=options.seed)
    told = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "outcome"}
    told |= {"done": result.count(DONE), "failed": result.count(FAILED), "lost": result.count(LOST)}
    told |= {"bound_s": bound_s(videos, fleet), "node_hours": result.node_s / 3600}
    told |= {"readers_busy": result.decode_s / (fleet.readers * result.actor_s)}
    told |= {"encoders_busy": result.encode_s / result.actor_s}
    prices = dict(price.split("=") for price in options.price)
    told |= {f"cost_{name}": result.node_s / 3600 * float(p) for name, p in prices.items()}
    print(json.dumps({"fleet": asdict(fleet), "corpus": asdict(corpus), "result": told}, indent=1))


def publish_storage(costs: Costs) -> None:
    """The table of bytes."""
    publish(
        "fleet_storage",
        "Bytes of a cache by recipe, in GB per million videos",
        "python scripts/simulate_fleet.py --publish storage",
        STORAGE_HEADER,
        storage_rows(costs),
        "Computed from the format, shard headers and index included; a test compares it with "
        "caches that were written.  `pytorchvideo-mvit`: a video of 17 s or more; `video-llm`: 30 "
        "s of 640 x 360, three levels of deepstack features with it.",
    )


def publish_fleet(options: argparse.Namespace, costs: Costs, corpus: Corpus, fleet: Fleet) -> None:
    """The table of runs."""
    device = "one core"
    if options.frames_per_s:
        device = f"{options.frames_per_s:g} frames/s (an example: no device was measured)"
    publish(
        "fleet",
        f"A simulated fleet of {fleet.actors} nodes over {options.videos:,} videos",
        "python scripts/simulate_fleet.py --publish fleet",
        FLEET_HEADER,
        fleet_rows(
            options.videos, costs, corpus, fleet, options.frames_per_s or None, options.seed
        ),
        f"Costs of a video as measured (`benchmarks/fleet_costs.json`, recipe `{costs.recipe}`); "
        f"{fleet.readers} readers a node; encoder: {device}; "
        f"lengths lognormal with median {corpus.median_s:g} s and sigma {corpus.sigma:g}, sizes "
        f"{', '.join(map(str, costs.decode))} lines in equal parts, {corpus.corrupt:.1%} of the "
        f"files corrupt, {corpus.crashes:.2%} crash and {corpus.hangs:.2%} hang their reader: "
        f"examples.  A slow node takes {fleet.slow_factor:g} times as long.  Bound: start, and the "
        f"work shared evenly.  Every video had exactly one outcome in every run.  Seed "
        f"{options.seed}.",
    )


def corpus_of(options: argparse.Namespace) -> Corpus:
    """The videos as the arguments say."""
    median_s, sigma = options.median_s, options.sigma
    if options.lengths is not None:
        median_s, sigma = fitted(read_lengths(options.lengths))
        print(f"lengths: lognormal, median {median_s:.1f} s, sigma {sigma:.2f}")
    return Corpus(
        median_s=median_s,
        sigma=sigma,
        corrupt=options.corrupt,
        crashes=options.crashing,
        hangs=options.hanging,
    )


def fleet_of(options: argparse.Namespace, costs: Costs) -> Fleet:
    """The machines as the arguments say."""
    return replace(
        EXAMPLE,
        actors=options.actors,
        actors_per_node=options.actors_per_node,
        min_actors=options.min_actors,
        ramp_s=options.ramp_s,
        readers=options.readers,
        is_static=options.shards,
        lease=options.lease,
        node_losses_per_hour=options.losses,
        crashes_per_hour=options.crashes,
        slow_share=options.slow,
        node_start_s=options.node_start_s,
        actor_start_s=options.actor_start_s,
        write_s=costs.write_s,
        commit_s=costs.commit_s,
    )


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--measure", action="store_true", help="measure what a video costs here, and write --costs")
    parts = ("storage", "fleet", "picture")
    add("--publish", nargs="+", choices=parts, default=[], help="write tables, picture of the docs")
    add("--costs", type=Path, default=COSTS, help="file of measured costs")
    add("--videos", type=lambda text: int(float(text)), default=10_000_000)
    add("--seed", type=int, default=0)
    add("--frames-per-s", type=float, default=2000.0, help="of a device; 0: one core, as measured")
    add("--lengths", type=Path, help="CSV file with a column seconds, to fit a lognormal to")
    add("--median-s", type=float, default=60.0, help="median length of a video")
    add("--sigma", type=float, default=1.0, help="of the logarithm of the length")
    add("--corrupt", type=float, default=0.005, help="share of files that give an error")
    add("--crashing", type=float, default=1e-4, help="share of files that end their reader")
    add("--hanging", type=float, default=1e-4, help="share of files that hang their reader")
    add("--actors", type=int, default=EXAMPLE.actors, help="engines, one device each")
    add("--actors-per-node", type=int, default=1)
    add("--min-actors", type=int, help="there from the beginning; by default all")
    add("--ramp-s", type=float, default=0.0, help="between nodes that an autoscaler adds")
    add("--readers", type=int, default=EXAMPLE.readers, help="videos that an actor decodes at once")
    add("--shards", action="store_true", help="fixed parts (--shard i/n) in place of leases")
    add("--lease", type=int, help="videos of a lease, kept to its end; by default as --engine ray")
    add("--losses", type=float, default=0.0, help="share of the nodes that is lost in an hour")
    add("--crashes", type=float, default=0.0, help="of an actor's process in an hour")
    add("--slow", type=float, default=0.0, help="share of nodes that take twice as long")
    add("--node-start-s", type=float, default=EXAMPLE.node_start_s)
    add("--actor-start-s", type=float, default=EXAMPLE.actor_start_s)
    add(
        "--price",
        action="append",
        default=[],
        metavar="NAME=X",
        help="of a node's hour; repeatable",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
