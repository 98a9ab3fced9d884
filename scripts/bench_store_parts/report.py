"""Where the tables go."""

import argparse
from collections.abc import Sequence

from _bench import publish

from vidcomp.pipelines.output import format_table

__all__ = ["report"]


def report(
    options: argparse.Namespace,
    command: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: str,
) -> None:
    """Print a table, and publish it unless the run is only a trial.

    Args:
        options: of the run.
        command: the part, and what arguments it needs.
        title: what is measured.
        header: of the columns.
        rows: of the table.
        notes: how it was measured.
    """
    title = f"The token cache: {title}"
    if options.trial:
        shown = [[f"{v:.3g}" if isinstance(v, float) else v for v in row] for row in rows]
        print(f"\n{title}\n{format_table(header, shown)}\n{notes}\n")
        return
    name = f"store_{command.split()[0]}"
    publish(name, title, f"python scripts/bench_store.py {command}", header, rows, notes)
