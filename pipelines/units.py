"""Sizes and times as people write them: ``256MB``, ``1GiB``, ``24h``."""

import re

from vidcomp.errors import ConfigError

__all__ = ["format_bytes", "format_seconds", "parse_bytes", "parse_seconds"]

_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_bytes(text: str) -> int:
    """A number of bytes; ``k``, ``m``, ``g`` and ``t`` mean powers of 1024, ``b`` may follow.

    Raises:
        ConfigError: not such a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise ConfigError(f"a size is a number with k, m, g or t, got {text!r}: write e.g. 256MB")
    return int(float(found[1]) * _BYTES[found[2]])


def parse_seconds(text: str) -> float:
    """A number of seconds; ``s``, ``m``, ``h``, ``d`` or ``w`` may follow.

    Raises:
        ConfigError: not such a time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if found is None:
        raise ConfigError(f"a time is a number with s, m, h, d or w, got {text!r}: write e.g. 24h")
    return float(found[1]) * _SECONDS[found[2]]


def format_bytes(count: int) -> str:
    """``count`` in the unit in which it has at most four digits before the point."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """A time in seconds, minutes or hours, whichever tells it in few digits."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
