"""How results are printed: tables for people, JSON for programs."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import click

from .units import format_bytes, format_seconds

if TYPE_CHECKING:
    from .extraction.summary import Receipt, Summary

__all__ = [
    "ByteBar",
    "format_plan",
    "format_summary",
    "format_table",
    "json_text",
    "print_json",
    "printable",
]

_MOST_FAILURES = 20
"""That are printed one by one."""


_SURROGATES = re.compile("[\ud800-\udfff]")


def print_json(value: Any) -> None:  # any JSON value
    """One JSON value on standard output."""
    click.echo(json_text(value, indent=1))


def json_text(value: Any, indent: int | None = None) -> str:  # any JSON value
    """JSON that can be printed: halves of characters, as in undecodable file names, are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Text on one line that every terminal takes: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ByteBar:
    """A bar of bytes on standard error; off when that is no terminal, or when ``quiet``."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=what, unit="B", unit_scale=True, disable=True if quiet else None, leave=False
        )

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` bytes of ``total`` are."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, digits: int = 1) -> str:
    """Columns as wide as their longest entry; numbers to the right, ``None`` as a dash.

    Fractions have ``digits`` places after the point.
    """
    cells = [[_cell(value, digits) for value in row] for row in rows]
    right = [
        all(isinstance(v, int | float | None) for v in column) for column in zip(*rows, strict=True)
    ]
    right = right or [False] * len(header)
    width = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]

    def line(values: Sequence[str]) -> str:
        parts = [
            value.rjust(w) if r else value.ljust(w)
            for value, w, r in zip(values, width, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * w for w in width]), *map(line, cells)])


def format_summary(summary: "Summary") -> str:
    """The result table, the failures with their reasons, and one line of counts."""
    header = ("clip", "duration s", "frames", "patch tokens", "tokens", "factor", "s", "status")
    parts = []
    if summary.rows:
        parts.append(format_table(header, [_row(row) for row in summary.rows]))
    shown = summary.failures[:_MOST_FAILURES]
    parts += [printable(f"failed: {f['key']}: {f['error']}") for f in shown]
    if (rest := summary.failed + summary.failed_before - len(shown)) > 0:
        parts.append(f"... and {rest} more failed: vidcomp errors {summary.store}")
    lost = summary.missing[:_MOST_FAILURES]
    parts += [printable(f"lost: {key}: it has no record, and no error") for key in lost]
    parts.append(_counts(summary))
    return "\n".join(parts)


def format_plan(report: dict[str, Any]) -> str:
    """The counts and estimates of ``extract --dry-run`` in one or two lines."""
    text = (
        f"{report['todo']} to do, {report['cached']} already cached, {report['failed_before']} "
        f"failed before (add --retry-failed to try them again)"
    )
    if report["duplicates"]:
        text += f"; {report['duplicates']} of the {report['rows']} rows repeat another"
    if not report["todo"]:
        return text
    text += f"\nto read: {format_bytes(report['input_bytes'])}"
    if report["estimated_bytes"] is not None:
        text += f"; to write: about {format_bytes(report['estimated_bytes'])}"
    if report["estimated_seconds"] is not None:
        text += f"; time: about {format_seconds(report['estimated_seconds'])}, as earlier runs"
    return text


def _row(row: "Receipt") -> tuple[Any, ...]:
    return (
        row.key,
        row.duration_s,
        row.frames,
        row.tokens_in,
        row.tokens_out,
        row.reduction_factor,
        row.seconds,
        row.status,
    )


def _cell(value: object, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _counts(summary: "Summary") -> str:
    counts = f"{summary.done} done, {summary.cached} already cached, {summary.failed} failed"
    if summary.failed_before:
        counts += f", {summary.failed_before} failed before (--retry-failed tries them again)"
    if summary.stopped:
        counts += "; stopped by --max-failures"
    if summary.interrupted:
        counts += f"; stopped by {summary.interrupted}, {summary.lost} not begun (run again)"
    elif summary.stopped:
        counts += f", {summary.lost} not begun or not finished"
    elif summary.lost:
        counts += f"; {summary.lost} lost (run again)"
    if summary.planned == summary.cached:
        counts = f"nothing to do: all {summary.cached} are already cached"
    return f"{counts} in {summary.seconds:.1f} s -> {summary.store}"
