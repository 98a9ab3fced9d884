"""What is simulated, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["DONE", "FAILED", "LOST", "Fleet", "Lives", "Result"]

DONE, FAILED, LOST = 1, 2, 3
"""What became of a video; 0 until it is known."""

Lives = Callable[[str, int, float], float]
"""When the ``"node"`` or the ``"actor"`` of that number, begun at that time, dies; may be never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Machines, how work reaches them, and what goes wrong; times in seconds."""

    actors: int
    """Engines, each with one encoder (a GPU, or cores): the most that there may be."""
    actors_per_node: int = 1
    min_actors: int | None = None
    """Those that are there from the beginning and to the end; by default all."""
    ramp_s: float = 0.0
    """Between one node that the autoscaler adds and the next."""
    readers: int = 8
    """Videos that an actor decodes at once (``--workers``)."""
    queue_bytes: int = 512 << 20
    is_static: bool = False
    """Each actor has its own fixed part (``--shard i/n``), and no one else takes from it."""
    lease: int | None = None
    """Videos given out together, an actor having up to two such leases and keeping them to the
    end; ``None``: as the driver of ``--engine ray`` does it, some seconds' worth by the measured
    pace, ever less towards the end, and what an actor has not begun may be taken back."""
    max_attempts: int = 3
    """Actors that may die with a video before it is given up."""
    write_s: float = 0.0
    commit_s: float = 0.0
    seal_s: float = 120.0
    """Between commits; a node that is lost takes with it what was written since the last."""
    reply_s: float = 0.2
    """Until an actor that asks for work has it."""
    node_start_s: float = 120.0
    actor_start_s: float = 20.0
    """Process, model, readers."""
    detect_s: float = 10.0
    """Until a death is noticed."""
    idle_s: float = 60.0
    """After which a node without work is given back."""
    node_losses_per_hour: float = 0.0
    """Of each node: 0.05 are 5 % of the nodes in an hour."""
    crashes_per_hour: float = 0.0
    """Of each actor."""
    slow_share: float = 0.0
    """Share of the nodes that are slow."""
    slow_factor: float = 2.0
    """How many times longer everything takes there."""

    @property
    def nodes(self) -> int:
        """The most that there may be."""
        return -(-self.actors // self.actors_per_node)

    @property
    def min_nodes(self) -> int:
        """Those that are there from the beginning and to the end."""
        least = self.actors if self.min_actors is None or self.is_static else self.min_actors
        return -(-least // self.actors_per_node)

    def actors_of(self, node: int) -> range:
        """The actors of a node."""
        per = self.actors_per_node
        return range(node * per, min((node + 1) * per, self.actors))


@dataclass(slots=True, kw_only=True)
class Result:
    """What a simulated run came to."""

    makespan_s: float = 0.0
    """From asking for the first node to the last commit."""
    node_s: float = 0.0
    """Paid for, over all nodes: from asking for each to giving it back."""
    actor_s: float = 0.0
    """Over all actors, from being ready to being ended."""
    decode_s: float = 0.0
    """Readers were busy, over all."""
    encode_s: float = 0.0
    """Encoders were busy, over all."""
    wasted_decode_s: float = 0.0
    """Of it for videos that had to be done again."""
    wasted_encode_s: float = 0.0
    tail_s: float = 0.0
    """Mean over the actors from their last video to the end of the run."""
    node_losses: int = 0
    crashes: int = 0
    videos_again: int = 0
    """Times that a video was begun anew, or handed to another, because an actor died."""
    rounds: int = 1
    """Passes over what was missing."""
    outcome: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """By video: ``DONE``, ``FAILED`` or ``LOST``."""

    def count(self, outcome: int) -> int:
        """Videos that became that."""
        return int((self.outcome == outcome).sum())
