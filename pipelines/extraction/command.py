"""The command ``vidcomp extract``: its options."""

from typing import Any

import click

from ..options import CONTEXT, common, recipe_options
from .ray_options import engine_options

__all__ = ["extract"]


@click.command(context_settings=CONTEXT)
@click.argument("inputs", nargs=-1)
@click.option("--out", required=True, help="Folder of the cache, or s3://bucket/name.")
@recipe_options("embedded")
@click.option("--manifest", type=click.Path(), help="csv, tsv, jsonl or parquet table of videos.")
@click.option("--column", default="path", show_default=True, help="Its column with the path.")
@click.option("--id-column", help="Its column with the record's key.")
@click.option("--start", type=float, help="Start of the range, in seconds.")
@click.option("--end", type=float, help="End of the range, in seconds.")
@click.option(
    "--window",
    metavar="SECONDS",
    help="A record for every so many seconds (60, 10m, 1h) of each video.  [default with --live: "
    "60]",
)
@click.option(
    "--live",
    is_flag=True,
    help="Follow the inputs until they end: rtsp:// and other addresses, named pipes, files that "
    "are being written.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the first N rows of the inputs, done or not.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Only part I of N (I from 0), or none.  [default: that of this task of Slurm or torchrun]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; load and decode nothing.")
@click.option("--overwrite", is_flag=True, help="Make records anew that are already there.")
@click.option(
    "--on-error",
    type=click.Choice(["skip", "raise"]),
    default="skip",
    show_default=True,
    help="Of a video that fails: keep a record of it and go on, or end the run.",
)
@click.option("--retry-failed", is_flag=True, help="Try items again that failed in an earlier run.")
@click.option(
    "--max-failures",
    metavar="N|P%",
    help="Stop after more than N failures; or when they are more than P% of all rows, judged from "
    "20 rows on.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    help="Videos decoded at once; 0: one a core, at most 8.",
)
@click.option(
    "--isolation",
    type=click.Choice(["process", "thread"]),
    default="process",
    show_default=True,
    help="Read in child processes (a crash is one file's error) or in this one.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "decord", "pyav", "torchcodec"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--identity",
    type=click.Choice(["stat", "content"]),
    default="stat",
    show_default=True,
    help="Recognise a changed file by size and time, or by its bytes too.",
)
@click.option(
    "--stall",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds without progress after which a file is given up.",
)
@click.option(
    "--grace",
    default="30s",
    show_default=True,
    help="Time that videos in work get when the run is stopped by Ctrl-C or SIGTERM.",
)
@click.option(
    "--recycle-after",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Replace a child process after N videos.",
)
@click.option(
    "--log-file",
    type=click.Path(),
    help="Append each event as a line of JSON; {shard}, {host}, {pid} and {run} are replaced.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the encoder runs.")
@click.option(
    "--batch-frames",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most frames of one pass of the encoder.",
)
@click.option("--compile", is_flag=True, help="Use torch.compile for the encoder.")
@engine_options
@common
def extract(**options: Any) -> int:
    """Decode, encode, compress and cache videos: files, folders, globs, @list.txt or -.

    Running the same command again does only what is missing.  Ctrl-C once finishes what has begun,
    twice stops at once; what was written stays.

    Exit codes: 0 all done; 1 the run failed, or items were lost; 2 wrong options; 3 done, but some
    videos failed (see: vidcomp errors); 4 stopped by --max-failures; 5 the cache cannot be read or
    written; 130 Ctrl-C; 143 SIGTERM.
    """
    from ..jobs import run_extract

    return run_extract(options)
