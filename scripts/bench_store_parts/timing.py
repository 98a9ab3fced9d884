"""Rounds in turning order, and ratios to a control taken round by round."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Case", "as_rows", "evict", "quartiles", "ready", "rounds_of", "speeds"]

Case: TypeAlias = Callable[[], Callable[[], object]]
"""Gets ready, which is not timed, and returns what is timed."""


def ready(run: Callable[[], object]) -> Case:
    """A case with nothing to do beforehand."""
    return lambda: run


def rounds_of(cases: Mapping[str, Case], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each case in each round; all cases run once a round, in turning order.

    Args:
        cases: by name.
        rounds: that count.
        warm: rounds before them that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(warm + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run = cases[name]()
            started = time.perf_counter()
            run()
            used = time.perf_counter() - started
            del run  # what it holds open or mapped goes before the next case
            if turn >= warm:
                seconds[name].append(used)
    return seconds


def speeds(
    seconds: Mapping[str, Sequence[float]], control: str
) -> dict[str, tuple[float, float, float]]:
    """How many times as fast as the control each case was: median, lower and upper quartile."""
    out = {}
    for name, used in seconds.items():
        ratios = [c / u for c, u in zip(seconds[control], used, strict=True)]
        low, middle, high = quartiles(ratios)
        out[name] = (middle, low, high)
    return out


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def evict(paths: Iterable[Path]) -> None:
    """Drop files from the page cache; nobody may have them mapped, or their pages stay."""
    for path in paths:
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def as_rows(
    ratios: Mapping[str, tuple[float, float, float]], *before: Any
) -> list[tuple[Any, ...]]:
    """Rows of a table: what came before, the case, median and quartiles."""
    return [(*before, name, *values) for name, values in ratios.items()]
