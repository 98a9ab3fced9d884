"""How a run goes about its work; nothing here changes what comes out."""

from dataclasses import dataclass, field
from typing import Literal

from vidcomp.sample.decode import Backend
from vidcomp.store.room import num_cores

__all__ = ["Options", "RayOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Where actors run, and how many."""

    address: str = "local"
    """``local``: a Ray of this run's own, on this machine; ``auto``: the cluster that this machine
    is a node of; else that of a cluster, ``host:port`` or ``ray://host:port``."""
    min_actors: int = 1
    """Asked for at the start, and kept while there is work."""
    max_actors: int | None = None
    """Asked for while there is a backlog, though the cluster may have to grow for them; ``None``:
    as many as it has room for."""
    cpus: float | None = None
    """That Ray reserves for an actor; ``None``: one for each video it decodes at once."""
    gpus: float | None = None
    """That Ray reserves for an actor; ``None``: one if the device is a GPU."""
    runtime_env: str | None = None
    """YAML or JSON file with Ray's runtime environment of the actors; by default the nodes' own,
    in which vidcomp is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, never what comes out."""

    workers: int = 0
    """Videos decoded at once; 0: one a core, at most 8."""
    isolation: Literal["process", "thread"] = "process"
    backend: Backend = "auto"
    device: str = "cpu"
    compile: bool = False
    batch_frames: int = 64
    """Most frames of one pass of the encoder; they may come from several videos."""
    stall_s: float = 60.0
    """Seconds without progress after which a file is given up."""
    recycle_after: int = 2000
    """Videos after which a child process is replaced."""
    grace_s: float = 30.0
    """Seconds that videos in flight get when the run is asked to stop."""
    content_identity: bool = False
    """Recognise a changed file by its bytes too, not by size and time only."""
    overwrite: bool = False
    retry_failed: bool = False
    on_error: Literal["skip", "raise"] = "skip"
    max_failures: int | None = None
    """Stop after more than this many failures."""
    max_failure_share: float | None = None
    """Stop after failures of a larger share of the planned rows than this."""
    run_id: str = ""
    """Name of the run, which its records tell; made by the run if there is none."""

    engine: Literal["local", "ray"] = "local"
    """Where the work is done: in this process and its children, or by actors."""
    ray: RayOptions = field(default_factory=RayOptions)
    """Of the engine ``ray``."""

    @property
    def num_workers(self) -> int:
        """The resolved number of readers."""
        return self.workers or min(8, num_cores())
