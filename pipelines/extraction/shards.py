"""A part of the items for each of several processes, which need not know of each other.

Every process makes the same list and takes its own part of it; all write to one cache.  The only
settings that vidcomp takes from the environment are these: which part a process of Slurm or
torchrun has, where the command does not say.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vidcomp.errors import ConfigError

__all__ = ["Shard", "choose_shard", "parse_shard", "shard_of_environment"]

T = TypeVar("T")

_SPECIAL_STEPS = 4_294_967_280
"""Slurm numbers steps that are not of srun (batch script, interactive shell) from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of ``count`` parts."""

    index: int
    """From 0."""
    count: int
    origin: str = "--shard"
    """What said so."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Sequence[T]) -> list[T]:
        """This part: every ``count``-th item.

        The parts are disjoint, together the whole, and differ by one item at most.  Neighbours,
        which tend to be alike in length, go to different parts; an item that is appended to the
        list changes nobody's part.
        """
        return list(items[self.index :: self.count])


def choose_shard(spec: str | None, environ: Mapping[str, str]) -> Shard | None:
    """What ``--shard`` says; where it says nothing, the part of this process of a cluster's job.

    Args:
        spec: ``i/n``, or ``none`` for all items whatever the environment says.
        environ: variables of the process.

    Returns:
        ``None`` for all items.

    Raises:
        ConfigError: neither form; or variables that make no sense.
    """
    if spec is None:
        return shard_of_environment(environ)
    if spec == "none":
        return None
    shard = parse_shard(spec)
    return shard if shard.count > 1 else None


def parse_shard(spec: str) -> Shard:
    """Of ``i/n``, i from 0.

    Raises:
        ConfigError: not of that form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", spec)
    if not match or int(match[1]) >= int(match[2]):
        raise ConfigError(
            f"a shard is i/n with i from 0 to n-1, or none, got {spec!r}: e.g. 0/4 for the first "
            f"of 4"
        )
    return Shard(index=int(match[1]), count=int(match[2]))


def shard_of_environment(environ: Mapping[str, str]) -> Shard | None:
    """The part of this process: its task of a Slurm array times its rank within that.

    The rank is torchrun's (``RANK`` of ``WORLD_SIZE``) or that of the Slurm step (``SLURM_PROCID``
    of ``SLURM_NTASKS``).  A batch script that runs the command without srun is one process, however
    many tasks the job has.

    Raises:
        ConfigError: variables that make no sense.
    """
    parts = [_array(environ), _torchrun(environ) or _step(environ)]
    known = [part for part in parts if part is not None]
    index, count = 0, 1
    for part in known:
        index, count = index * part.count + part.index, count * part.count
    if count == 1:
        return None
    origin = " and ".join(part.origin for part in known if part.count > 1)
    return Shard(index=index, count=count, origin=origin)


def _array(environ: Mapping[str, str]) -> Shard | None:
    names = [f"SLURM_ARRAY_TASK_{end}" for end in ("ID", "COUNT", "MIN")]
    if not all(environ.get(name) for name in names):
        return None
    task, count, first = (_number(environ, name) for name in names)
    step = _number(environ, "SLURM_ARRAY_TASK_STEP", 1)
    last = _number(environ, "SLURM_ARRAY_TASK_MAX", first + step * (count - 1))
    if step < 1 or (last - first) // step + 1 != count:
        raise ConfigError(
            f"the Slurm array has {count} tasks from {first} to {last}, so their numbers do not "
            f"tell which part of the videos each has: pass --shard i/n, or --shard none for all"
        )
    return _made((task - first) // step, count, "SLURM_ARRAY_TASK_ID")


def _torchrun(environ: Mapping[str, str]) -> Shard | None:
    if not (environ.get("RANK") and environ.get("WORLD_SIZE")):
        return None
    return _made(_number(environ, "RANK"), _number(environ, "WORLD_SIZE"), "RANK and WORLD_SIZE")


def _step(environ: Mapping[str, str]) -> Shard | None:
    size = next(
        (name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if environ.get(name)), None
    )
    if size is None or not environ.get("SLURM_PROCID"):
        return None
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID")
    is_of_srun = step is not None and step.isdigit() and int(step) < _SPECIAL_STEPS
    if environ.get("SLURM_JOB_ID") and not is_of_srun:
        return None
    return _made(
        _number(environ, "SLURM_PROCID"), _number(environ, size), f"SLURM_PROCID and {size}"
    )


def _made(index: int, count: int, origin: str) -> Shard:
    if not 0 <= index < count:
        raise ConfigError(
            f"{origin} say part {index} of {count}, which there is not: pass --shard i/n, or "
            f"--shard none for all"
        )
    return Shard(index=index, count=count, origin=origin)


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environ.get(name) or str(default)
    if not re.fullmatch(r"-?\d+", text.strip()):
        raise ConfigError(
            f"{name} should be a whole number, got {text!r}: pass --shard i/n, or --shard none for "
            f"all"
        )
    return int(text)
