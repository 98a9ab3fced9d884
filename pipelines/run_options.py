"""How a run goes about its work; nothing here changes what comes out."""

from dataclasses import dataclass
from typing import Literal

from vidcomp.sample.decode import Backend
from vidcomp.store.room import num_cores

__all__ = ["Options"]


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
    recycle_after: int = 500
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

    @property
    def num_workers(self) -> int:
        """The resolved number of readers."""
        return self.workers or min(8, num_cores())
