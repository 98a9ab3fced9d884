"""What an actor asks its cluster for: readers, CPUs, GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidcomp.errors import ConfigError

from ..extraction.run_options import Options

__all__ = ["Needs", "resolve"]

_MOST_READERS = 8
_READERS = 4
"""If nothing is known of the nodes, as they are yet to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one actor."""

    workers: int
    """Videos it decodes at once, each in a process."""
    cpus: float
    """That Ray reserves for it."""
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def fit(self, node: Mapping[str, float]) -> bool:
        """Whether a node with these resources could hold such an actor."""
        return node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus


def resolve(options: Options, nodes: Sequence[Mapping[str, float]], *, can_grow: bool) -> Needs:
    """What actors need, from what was asked for and from what the nodes have.

    Without ``workers`` an actor decodes as many videos at once as it has CPUs, at most 8: all of
    the largest node's if the encoder runs on the CPU, else the GPU's share of them.

    Args:
        options: of the run.
        nodes: resources of each, by Ray's names: ``CPU``, ``GPU``.
        can_grow: whether more nodes may come.

    Raises:
        ConfigError: a device by number; or no node could ever hold such an actor.
    """
    on_gpu = options.device.startswith("cuda")
    if ":" in options.device:
        raise ConfigError(
            f"Ray gives every actor GPUs of its own, got device={options.device!r}: say "
            f"{options.device.split(':')[0]!r}"
        )
    ray = options.ray
    gpus = (1.0 if on_gpu else 0.0) if ray.gpus is None else ray.gpus
    if on_gpu and not gpus:
        raise ConfigError("actors with --device cuda need GPUs, got 0: leave --ray-gpus out")
    workers = options.workers or _readers(options, nodes, gpus, alone=not can_grow)
    cpus = float(workers) if ray.cpus is None else ray.cpus
    needs = Needs(workers=workers, cpus=cpus, gpus=gpus)
    if not can_grow and not any(needs.fit(node) for node in nodes):
        has = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise ConfigError(
            f"an actor needs {needs} and this machine has {has}: ask for less with --workers, "
            f"--ray-cpus or --ray-gpus, or name a cluster with --ray-address"
        )
    return needs


def _readers(
    options: Options, nodes: Sequence[Mapping[str, float]], gpus: float, *, alone: bool
) -> int:
    """Videos decoded at once where nobody said."""
    if options.ray.cpus:
        return max(1, min(_MOST_READERS, int(options.ray.cpus)))
    usable = [node for node in nodes if node.get("GPU", 0) >= gpus and node.get("CPU", 0) >= 1]
    if not usable:
        return _READERS
    if gpus:
        share = max(node["CPU"] * min(1.0, gpus / node["GPU"]) for node in usable)
    else:
        share = max(node["CPU"] for node in usable)
        if alone:
            share /= options.ray.min_actors
    return max(1, min(_MOST_READERS, int(share)))
