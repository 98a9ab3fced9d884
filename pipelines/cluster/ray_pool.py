"""Hosts in Ray's actors: one actor a host, one question open to each at any time.

Ray is told to repeat nothing and to restart nothing: the driver knows better what to do.
"""

from collections.abc import Sequence
from typing import Any

from ..inputs import Item
from .connect import Cluster
from .host import Host, Job
from .messages import Report, Started, Trouble
from .needs import Needs
from .pool import Event

__all__ = ["RayPool"]

_POLL_S = 5.0
_THREADS = 4
_MOST_WORDS = 300


class RayPool:
    """A pool of actors.

    Args:
        cluster: where they live.
        needs: resources of each.
        job: what each is told.
    """

    def __init__(self, cluster: Cluster, needs: Needs, job: Job) -> None:
        self._cluster, self._ray, self._needs, self._job = cluster, cluster.ray, needs, job
        self._actors: dict[int, Any] = {}
        self._open: dict[Any, int] = {}
        """Questions without an answer, and whom they went to."""
        self._num_started = 0
        self._class = self._ray.remote(Host).options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=_THREADS,
            scheduling_strategy="SPREAD",
        )

    def start(self) -> int:
        """Ask Ray for an actor."""
        self._num_started += 1
        actor = self._actors[self._num_started] = self._class.remote(self._job)
        self._ask(self._num_started, actor.start.remote())
        return self._num_started

    def has_room(self) -> bool:
        """Whether the resources are free now."""
        return self._needs.fit(self._ray.available_resources())

    def describe(self) -> str:
        """What an actor needs, and what the nodes have."""
        nodes = self._cluster.nodes()
        cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        free = self._ray.available_resources()
        return (
            f"an actor needs {self._needs}; {len(nodes)} nodes have {cpus:g} CPUs and {gpus:g} "
            f"GPUs, of which {free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
        )

    def lease(self, host: int, items: Sequence[Item]) -> None:
        """Send an actor items."""
        self._actors[host].lease.remote(list(items))

    def take_back(self, host: int) -> None:
        """Ask an actor for what it has not begun."""
        self._ask(host, self._actors[host].take_back.remote())

    def finish(self, host: int) -> None:
        """Let an actor end."""
        self._actors[host].finish.remote()

    def drain(self, host: int, grace_s: float) -> None:
        """Let an actor begin nothing more."""
        self._actors[host].drain.remote(grace_s)

    def kill(self, host: int) -> None:
        """End an actor; its resources are free again."""
        self._open = {ref: number for ref, number in self._open.items() if number != host}
        actor = self._actors.pop(host, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def events(self, patience_s: float) -> list[Event]:
        """Answers that have come; to each report follows the next question."""
        if not self._open:
            return []
        refs = list(self._open)
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=patience_s)
        if ready and len(refs) > 1:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return [Event(host, self._answer(ref, host)) for ref in ready for host in [self._pop(ref)]]

    def _pop(self, ref: Any) -> int:
        return self._open.pop(ref)

    def _ask(self, host: int, ref: Any) -> None:
        self._open[ref] = host

    def _answer(self, ref: Any, host: int) -> Started | Report | list[str] | Trouble:
        try:
            answer: Started | Report | list[str] | Trouble = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return _trouble(error)
        if isinstance(answer, Started) or (isinstance(answer, Report) and not answer.is_over):
            self._ask(host, self._actors[host].poll.remote(_POLL_S))
        return answer


def _trouble(error: Exception) -> Trouble:
    """What has befallen an actor, in one sentence: Ray's own tell of ids and ports."""
    text = str(error)
    if "No module named 'vidcomp" in text:
        return Trouble(
            kind="ConfigError",
            message="vidcomp is not installed on a node of the cluster: install it there (the same "
            "version as here), or name an environment that has it with --ray-runtime-env",
        )
    words = " ".join(line for line in text.splitlines() if not line.startswith("\t")).split()
    return Trouble(
        kind=type(error).__name__.split("(")[0],
        message=" ".join(words)[:_MOST_WORDS],
        is_blameless=bool(getattr(error, "preempted", False)),
    )
