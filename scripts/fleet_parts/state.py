"""What there is at one moment of a simulated run: events to come, videos, actors, nodes."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappush
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vidcomp.pipelines.cluster.pace import Pace

from .actor import Actor
from .backlog import Backlog, Unsealed
from .fleet import Fleet, Lives, Result
from .videos import Videos

__all__ = ["Seconds", "State", "index_of", "is_there", "stamp"]

Seconds: TypeAlias = NDArray[np.float64]


class State:
    """The whole fleet.

    Args:
        videos: what each costs.
        fleet: what there may be.
        seed: of deaths and slow nodes.
        lives: deaths that are known.
    """

    def __init__(self, videos: Videos, fleet: Fleet, seed: int, lives: Lives | None) -> None:
        number, nodes, actors = len(videos), fleet.nodes, fleet.actors
        self.videos, self.fleet = videos, fleet
        self.rng = np.random.default_rng(seed)
        self.lives = lives or self._drawn
        self.result = Result(outcome=np.zeros(number, np.uint8))
        self.events: list[tuple[float, int, Callable[..., None], tuple[int, ...]]] = []
        self.num_events = 0
        self.backlogs = [Backlog(range(number))]
        if fleet.is_static:
            self.backlogs = [Backlog(range(i, number, actors)) for i in range(actors)]
        self.open = number
        """Videos without an outcome, but for the missing ones."""
        self.missing: list[int] = []
        """Videos that have a receipt and whose record went with a node: the next round's."""
        self.noticed: deque[list[int]] = deque()
        """Videos of the dead that are not yet noticed."""
        self.deaths: dict[int, int] = {}
        """Actors that died with a video, of those with any."""
        slow = self.rng.random(nodes) < fleet.slow_share
        self.slowness = np.where(slow, fleet.slow_factor, 1.0).repeat(fleet.actors_per_node)
        self.engines = [
            Actor(fleet.readers, fleet.queue_bytes, fleet.write_s) for _ in range(actors)
        ]
        self.paces = [Pace(fleet.readers, 0.0) for _ in range(actors)]
        self.unsealed = [Unsealed() for _ in range(actors)]
        self.ready_s = [math.nan] * actors
        """Since when each actor is ready; nan: it is not."""
        self.last_s = [0.0] * actors
        """When each last had a video done."""
        self.hungry: dict[int, None] = {}
        """Actors that would take more than there is."""
        self.version = [0] * actors
        """Grows with every change of an actor, so that what was foreseen before is void."""
        self.asked_s = [math.nan] * nodes
        """Since when each node is paid for; nan: it is not there and was not asked for."""
        self.is_up = [False] * nodes
        self.node_life = [0] * nodes
        """Grows when a node goes."""

    def _drawn(self, what: str, _: int, at_s: float) -> float:
        fleet = self.fleet
        rate = fleet.node_losses_per_hour if what == "node" else fleet.crashes_per_hour
        return at_s + self.rng.exponential(3600 / rate) if rate else math.inf

    def _at(self, time_s: float, event: Callable[..., None], *numbers: int) -> None:
        if time_s < math.inf:
            self.num_events += 1
            heappush(self.events, (time_s, self.num_events, event, numbers))

    def _price(self, actor: int, part: Sequence[int]) -> tuple[Seconds, Seconds]:
        """Seconds of decoding and encoding there."""
        index, slowness = index_of(part), float(self.slowness[actor])
        return self.videos.decode_s[index] * slowness, self.videos.encode_s[index] * slowness

    def _end(self, part: Sequence[int], outcome: NDArray[np.int64] | int) -> None:
        index = np.array(part)
        assert not self.result.outcome[index].any(), "a video has two outcomes"
        self.result.outcome[index] = outcome
        self.open -= len(part)


def is_there(ready_s: float) -> bool:
    """Whether an actor is ready, or was asked for."""
    return not math.isnan(ready_s)


def stamp(ready_s: float) -> int:
    """A number for a process: when it was ready, in nanoseconds."""
    return round(1e9 * ready_s)


def index_of(part: Sequence[int]) -> slice | NDArray[np.int64]:
    """Videos as an index of arrays."""
    if isinstance(part, range):
        return slice(part.start, part.stop, part.step)
    return np.asarray(part, np.int64)
