"""Looking into a cache: list, show, verify."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from typing import Any

import click

from vidcomp.store import RecordInfo, TokenCache, open_cache, verify

from .output import ByteBar, json_text, print_json, printable

__all__ = ["list_records", "show_cache", "verify_cache"]

_HEADER = ("key", "tokens", "dim", "dtype", "bytes")
_SORTED = 100_000
"""Larger caches are listed in the order of their index: sorting would need all of it in memory."""
_MEASURED = 1000
_PROBLEMS = 100


def list_records(folder: str, *, as_json: bool) -> int:
    """``vidcomp cache ls``."""
    cache = open_cache(folder)
    if as_json:
        _print_rows_as_json(_rows(cache))
        return 0
    count = num_tokens = num_bytes = 0
    rows = _rows(cache)
    first = list(islice(rows, _MEASURED))
    width = [max(len(_cell(row[i])) for row in [_HEADER, *first]) for i in range(len(_HEADER))]
    click.echo(_line(_HEADER, width))
    click.echo(_line(["-" * w for w in width], width))
    for row in chain(first, rows):
        click.echo(_line(row, width))
        count, num_tokens, num_bytes = count + 1, num_tokens + row[1], num_bytes + row[4]
    click.echo(f"{count} records, {num_tokens} tokens, {num_bytes} bytes")
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
            "store": manifest.settings.dump(),
        }
    else:
        video = cache[key]
        shown = {"key": key, "video": repr(video), "meta": cache.meta(key)}
    if as_json:
        print_json(shown)
    else:
        for name, value in _flat(shown):
            click.echo(f"{name}: {printable(str(value))}")
    return 0


def verify_cache(folder: str, *, quick: bool, as_json: bool, quiet: bool) -> int:
    """``vidcomp cache verify``."""
    with ByteBar("verify", quiet=quiet) as bar:
        report = verify(folder, deep=not quick, progress=bar)
    if as_json:
        print_json(asdict(report))
    else:
        for problem in report.problems[:_PROBLEMS]:
            click.echo(f"damaged: {printable(problem)}")
        if len(report.problems) > _PROBLEMS:
            click.echo(f"... and {len(report.problems) - _PROBLEMS} more (--json lists them all)")
        click.echo(f"{report.num_ok} records ok, {len(report.problems)} problems")
    return 5 if report.problems else 0


def _rows(cache: TokenCache) -> Iterator[tuple[str, int, int, str, int]]:
    entries: Iterator[RecordInfo] = cache.entries()
    if len(cache) <= _SORTED:
        entries = iter(sorted(entries, key=lambda entry: entry.key))
    return ((e.key, e.num_tokens, e.dim, e.dtype, e.nbytes) for e in entries)


def _print_rows_as_json(rows: Iterator[tuple[Any, ...]]) -> None:
    """A JSON array, one row a line, without having all of them at once."""
    before = "["
    for row in rows:
        click.echo(f"{before}\n{json_text(dict(zip(_HEADER, row, strict=True)))}", nl=False)
        before = ","
    click.echo("[]" if before == "[" else "\n]")


def _line(row: Any, width: list[int]) -> str:
    """Columns; the key to the left, numbers to the right."""
    key, *rest = map(_cell, row)
    cells = [cell.rjust(w) for cell, w in zip(rest, width[1:], strict=True)]
    return "  ".join([key.ljust(width[0]), *cells])


def _cell(value: object) -> str:
    return printable(str(value))


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [
            pair for k, v in value.items() for pair in _flat(v, f"{path}.{k}" if path else str(k))
        ]
    return [(path, value)]
