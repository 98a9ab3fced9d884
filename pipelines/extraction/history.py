"""What runs left in a cache besides tokens: ``vidcomp errors`` and ``vidcomp cache runs``."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from vidcomp.errors import StoreMissError
from vidcomp.store import open_storage
from vidcomp.store.files import explained
from vidcomp.store.manifest import read_manifest
from vidcomp.store.storage import Storage

from ..output import format_table, print_json, printable
from ..units import format_seconds
from .records import ErrorLog, ErrorRecord
from .runs import read_runs

__all__ = ["list_errors", "list_runs", "reason"]

_KEYS = 5
"""Of a reason that many items share."""
_HEADER = ("run", "state", "part", "rows", "done", "cached", "failed", "lost", "time", "host")


def list_errors(folder: str, *, clear: bool, as_json: bool) -> int:
    """``vidcomp errors``."""
    log = ErrorLog(_storage(folder, "errors"))
    if clear:
        count = log.clear()
        if as_json:
            print_json({"cleared": count})
        else:
            click.echo(f"forgot {count} failed items: the next run tries them again")
        return 0
    if as_json:
        print_json([asdict(record) for record in log])
        return 0
    groups = _grouped(log)
    count = sum(len(group.keys) for group in groups)
    for group in groups:
        for line in _lines(group):
            click.echo(printable(line))
    kinds = f", {len(groups)} reasons (--json tells all about each)" if count else ""
    click.echo(f"{count} failed items{kinds}")
    return 0


def list_runs(folder: str, *, newest: int, as_json: bool) -> int:
    """``vidcomp cache runs``."""
    runs = read_runs(_storage(folder, "runs"), newest)
    if as_json:
        print_json(list(runs))
        return 0
    rows = [_row(run) for run in runs]
    if rows:
        click.echo(format_table(_HEADER, rows))
    more = f" (the newest; --limit N for more than {newest})" if len(rows) == newest else ""
    click.echo(f"{len(rows)} runs{more}")
    return 0


def reason(record: ErrorRecord) -> str:
    """What failures of one kind have in common: the message without the file's name."""
    text = record.message
    for name in sorted({record.path, record.key}, key=len, reverse=True):
        if name:
            text = text.replace(name, "FILE")
    return f"{record.stage}: {text}"


def _storage(folder: str, what: str) -> Storage:
    """The store of a folder or URL that there is."""
    storage = open_storage(folder)
    if isinstance(storage.path, Path) and not storage.path.is_dir():
        raise StoreMissError(f"there is no folder {folder}: pass the one given to extract --out")
    with explained(f"read {what} of {storage.path}"):
        is_there = bool(storage.names(what, ".json") or storage.folders(what))
    if not is_there:
        read_manifest(storage)  # tells if there is no cache
    return storage


@dataclass(slots=True)
class _Group:
    """Failures of one reason."""

    first: ErrorRecord
    keys: list[str] = field(default_factory=list)
    """Each with its number of attempts, if there were several."""


def _grouped(records: Iterable[ErrorRecord]) -> list[_Group]:
    """Records of one reason together, numbers in it not looked at; the most frequent first."""
    groups: dict[str, _Group] = {}
    for record in records:
        group = groups.setdefault(re.sub(r"\d+", "0", reason(record)), _Group(record))
        times = f" ({record.attempts} attempts)" if record.attempts > 1 else ""
        group.keys.append(f"{record.key}{times}")
    for group in groups.values():
        group.keys.sort()
    return sorted(groups.values(), key=lambda group: (-len(group.keys), group.keys[0]))


def _lines(group: _Group) -> list[str]:
    first, keys = group.first, group.keys
    if len(keys) == 1:
        times = keys[0].removeprefix(first.key)
        return [f"{first.key}: {first.stage}: {first.message}{times}"]
    lines = [f"{len(keys)} x {reason(first)}", *(f"    {key}" for key in keys[:_KEYS])]
    if len(keys) > _KEYS:
        lines.append(f"    ... and {len(keys) - _KEYS} more")
    return lines


def _row(run: dict[str, Any]) -> tuple[Any, ...]:
    """Counts of the end, else those of a minute ago, else what was planned."""
    planned, shard = run.get("planned") or {}, run.get("shard") or {}
    counts = run.get("summary") or run.get("so_far") or {}
    seconds = (run.get("summary") or {}).get("seconds")
    return (
        run["id"],
        run["state"],
        f"{shard['index']}/{shard['count']}" if shard else "all",
        planned.get("rows"),
        counts.get("done"),
        counts.get("cached", planned.get("cached")),
        counts.get("failed"),
        counts.get("lost") if run["state"] != "running" else None,
        None if seconds is None else format_seconds(seconds),
        (run.get("machine") or {}).get("host", ""),
    )
