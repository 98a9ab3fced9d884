"""Changing a cache: remove, compact, repair, merge, export."""

from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import click

from vidcomp.errors import ConfigError
from vidcomp.store import compact, export, merge, open_cache, remove, repair
from vidcomp.store.exports.export import ExportFormat
from vidcomp.store.exports.sample import TokenType

from .output import ByteBar, print_json, printable
from .units import format_bytes, parse_bytes, parse_seconds

__all__ = ["compact_cache", "export_cache", "merge_caches", "remove_records", "repair_cache"]

_SHOWN = 100


def remove_records(
    folder: str, words: Sequence[str], patterns: Sequence[str], *, dry_run: bool, as_json: bool
) -> int:
    """``vidcomp cache rm``: 3 if there is something that it does not know."""
    keys, unmatched = _keys(folder, words, patterns)
    if not (keys or unmatched):
        raise ConfigError("no records were named: pass keys, @list.txt or --glob PATTERN")
    report = remove(folder, keys, dry_run=dry_run)
    missing = [*report.missing, *unmatched]
    if as_json:
        print_json(asdict(report) | {"missing": missing})
        return 3 if missing else 0
    does = "would remove" if dry_run else "removed"
    _list(f"{does} {{}}", report.removed)
    _list("unknown: {}", missing)
    click.echo(
        f"{does} {len(report.removed)} records with {format_bytes(report.num_bytes)}, "
        f"{len(missing)} unknown"
        + ("; compact makes the room free" if report.removed and not dry_run else "")
    )
    return 3 if missing else 0


def compact_cache(
    folder: str,
    *,
    min_live: float,
    grace: str,
    seal_bytes: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """``vidcomp cache compact``: 3 if damaged records were left where they are."""
    with ByteBar("compact", quiet=quiet) as bar:
        report = compact(
            folder,
            min_live=min_live,
            grace_s=parse_seconds(grace),
            seal_bytes=parse_bytes(seal_bytes),
            dry_run=dry_run,
            progress=bar,
        )
    code = 3 if report.bad else 0
    if as_json:
        print_json(asdict(report))
        return code
    _list(
        "damaged, left where it is (run repair): {}", [f"{k}: {v}" for k, v in report.bad.items()]
    )
    would = "would rewrite" if dry_run else "rewrote"
    click.echo(
        f"{would} {len(report.rewritten)} of {report.num_shards} shards"
        + (f" into {len(report.made)}" if not dry_run else "")
        + f", {report.num_copied} records with {format_bytes(report.bytes_copied)}"
    )
    click.echo(
        f"{'would remove' if dry_run else 'removed'} {len(report.removed)} files that were "
        f"replaced before ({format_bytes(report.bytes_freed)}); "
        f"{format_bytes(report.bytes_waiting)} wait for the grace period"
    )
    return code


def repair_cache(
    folder: str, *, force_recover: bool, dry_run: bool, as_json: bool, quiet: bool
) -> int:
    """``vidcomp cache repair``: 3 if records are missing now, or something was left."""
    with ByteBar("repair", quiet=quiet) as bar:
        report = repair(folder, force_recover=force_recover, dry_run=dry_run, progress=bar)
    code = 3 if report.bad or report.left else 0
    if as_json:
        print_json(asdict(report))
        return code
    _list("would do: {}" if dry_run else "{}", report.actions)
    _list("recovered what a writer had left: {}", report.recovered)
    _list("left: {}", report.left)
    _list("missing, extract it again: {}", report.bad)
    if not report.changed:
        click.echo("nothing to repair")
    moved = f", {len(report.quarantined)} files in quarantine" if report.quarantined else ""
    click.echo(f"{report.num_records} records can be read, {len(report.bad)} are missing{moved}")
    return code


def merge_caches(
    sources: Sequence[str], out: str, *, on_conflict: str, as_json: bool, quiet: bool
) -> int:
    """``vidcomp cache merge``: 3 if damaged records were not copied."""
    with ByteBar("merge", quiet=quiet) as bar:
        report = merge(sources, out, on_conflict=cast(Any, on_conflict), progress=bar)
    code = 3 if report.bad or report.problems else 0
    if as_json:
        print_json(asdict(report))
        return code
    _list("damaged: {}", report.problems)
    _list("not copied: {}", [f"{key}: {why}" for key, why in report.bad.items()])
    caches = "1 cache" if report.num_sources == 1 else f"{report.num_sources} caches"
    click.echo(
        f"copied {report.num_copied} records with {format_bytes(report.bytes_copied)} from "
        f"{caches} to {report.out}, which had {report.num_there}"
        + (f"; {report.num_conflicts} conflicts" if report.num_conflicts else "")
    )
    return code


def export_cache(
    folder: str, words: Sequence[str], patterns: Sequence[str], options: dict[str, Any]
) -> int:
    """``vidcomp cache export``: 3 if records could not be exported."""
    keys, unmatched = _keys(folder, words, patterns)
    if unmatched:
        raise ConfigError(f"no key matches {unmatched[0]!r}: see vidcomp cache ls")
    with ByteBar("export", quiet=options["quiet"]) as bar:
        report = export(
            folder,
            options["out"],
            format=cast(ExportFormat, options["form"]),
            keys=keys if words or patterns else None,
            dtype=cast(TokenType | None, options["dtype"]),
            shard_bytes=parse_bytes(options["shard_size"]),
            overwrite=options["overwrite"],
            progress=bar,
        )
    code = 3 if report.bad or report.problems else 0
    if options["as_json"]:
        print_json(asdict(report))
        return code
    _list("damaged: {}", report.problems)
    _list("not exported: {}", [f"{key}: {why}" for key, why in report.bad.items()])
    click.echo(
        f"{report.num_records} records in {report.out} ({report.num_written} written, the others "
        f"were there already), tokens as {report.dtype}"
    )
    return code


def _keys(
    folder: str, words: Sequence[str], patterns: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Keys that were named, listed or match; and the patterns that match none."""
    keys: dict[str, None] = {}
    for word in words:
        if word.startswith("@") and len(word) > 1:
            keys |= dict.fromkeys(_lines(Path(word[1:])))
        else:
            keys[word] = None
    unmatched = []
    known = open_cache(folder).keys() if patterns else []
    for pattern in patterns:
        found = [key for key in known if fnmatchcase(key, pattern)]
        keys |= dict.fromkeys(found)
        if not found:
            unmatched.append(pattern)
    return list(keys), unmatched


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(
            f"the list {path} cannot be read ({error.strerror}): check its path; a key that "
            f"begins with @ is named by --glob"
        ) from error
    return [line for line in text.splitlines() if line.strip()]


def _list(text: str, items: Any) -> None:
    """A line for each, as many as a person reads."""
    items = list(items)
    for item in items[:_SHOWN]:
        click.echo(text.format(printable(item)))
    if len(items) > _SHOWN:
        click.echo(f"... and {len(items) - _SHOWN} more (--json lists them all)")
