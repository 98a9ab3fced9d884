"""Where the tables go."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from _bench import DOCS, publish

from vidcomp.pipelines.output import format_table

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
    """Print a table and put it into the docs, unless the run is a trial.

    A table of another device than the CPU has a section of its own.
    """
    on_cpu = options.device == "cpu"
    title = table.title if on_cpu else f"{table.title} ({torch.cuda.get_device_name()})"
    if options.trial:
        print(f"\n{title}\n{format_table(table.header, table.rows, digits=4)}\n{table.notes}\n")
        return
    name = f"compress_{table.name}" + "_cuda" * (not on_cpu)
    command = f"python scripts/bench_compress.py {table.name.split('_')[0]}"
    command += " --videos DIR" * table.name.startswith("quality")
    command += "" if on_cpu else f" --device {options.device}"
    shown = [["-" if value is None else value for value in row] for row in table.rows]
    publish(name, title, command, table.header, shown, table.notes)
    if table.details:
        path = DOCS / "benchmarks" / f"{name}.json"
        record = json.loads(path.read_text()) | {"details": list(table.details)}
        path.write_text(json.dumps(record, indent=1) + "\n")
