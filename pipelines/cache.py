"""Looking into a cache: list, show, verify, errors."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vidcomp.errors import StoreMissError
from vidcomp.store import open_cache, verify

from .output import format_table, print_json
from .records import ErrorLog

__all__ = ["list_errors", "list_records", "show_cache", "verify_cache"]


def list_records(folder: str, *, as_json: bool) -> int:
    """``vidcomp cache ls``."""
    cache = open_cache(folder)
    rows = []
    for key in cache.keys():  # noqa: SIM118  # not a dict
        entry = cache.info(key)
        rows.append((key, entry.num_tokens, entry.dim, entry.dtype, entry.nbytes))
    header = ("key", "tokens", "dim", "dtype", "bytes")
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        click.echo(format_table(header, rows))
        total = sum(row[4] for row in rows)
        click.echo(f"{len(rows)} records, {sum(r[1] for r in rows)} tokens, {total} bytes")
    return 0


def show_cache(folder: str, key: str | None, *, as_json: bool) -> int:
    """``vidcomp cache show``."""
    cache = open_cache(folder)
    if key is None:
        manifest = cache.manifest
        shown: dict[str, Any] = {
            "folder": str(folder),
            "records": len(cache),
            "fingerprint": manifest.fingerprint,
            "format_version": manifest.format_version,
            "recipe": manifest.identity,
            "weights": manifest.weights,
        }
    else:
        video = cache[key]
        shown = {"key": key, "video": repr(video), "meta": cache.meta(key)}
    if as_json:
        print_json(shown)
    else:
        for name, value in _flat(shown):
            click.echo(f"{name}: {value}")
    return 0


def verify_cache(folder: str, *, as_json: bool) -> int:
    """``vidcomp cache verify``."""
    report = verify(folder)
    if as_json:
        print_json(asdict(report))
    else:
        for problem in report.problems:
            click.echo(f"damaged: {problem}")
        click.echo(f"{report.num_ok} records ok, {len(report.problems)} problems")
    return 5 if report.problems else 0


def list_errors(folder: str, *, as_json: bool) -> int:
    """``vidcomp errors``."""
    if not Path(folder).is_dir():
        raise StoreMissError(f"there is no folder {folder}: pass the one given to extract --out")
    records = list(ErrorLog(Path(folder)))
    if as_json:
        print_json([asdict(record) for record in records])
        return 0
    for record in records:
        times = f" ({record.attempts} attempts)" if record.attempts > 1 else ""
        click.echo(f"{record.key}: {record.stage}: {record.message}{times}")
    click.echo(f"{len(records)} failed items")
    return 0


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [
            pair for k, v in value.items() for pair in _flat(v, f"{path}.{k}" if path else str(k))
        ]
    return [(path, value)]
