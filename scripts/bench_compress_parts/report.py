"""Where the tables go."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

from _bench import publish_on

__all__ = ["Table", "publish_table"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table and how it was made."""

    name: str
    """The part first: ``time``, ``quality_distortion``."""
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: str
    details: Sequence[object] = field(default_factory=list)
    """More, for the JSON only."""


def publish_table(options: argparse.Namespace, table: Table) -> None:
    """Print a table and put it into the docs; see ``publish_on``."""
    command = f"python scripts/bench_compress.py {table.name.split('_')[0]}"
    command += " --videos DIR" * table.name.startswith("quality")
    publish_on(
        options,
        f"compress_{table.name}",
        table.title,
        command,
        table.header,
        table.rows,
        table.notes,
        table.details,
    )
