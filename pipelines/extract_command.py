"""The command ``vidcomp extract``: its options."""

from typing import Any

import click

from .options import CONTEXT, common, recipe_options

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
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N items.")
@click.option("--shard", metavar="I/N", help="Only part I of N (I from 0).")
@click.option("--dry-run", is_flag=True, help="Say what would be done; load and decode nothing.")
@click.option("--overwrite", is_flag=True, help="Make records anew that are already there.")
@click.option("--on-error", type=click.Choice(["skip", "raise"]), default="skip", show_default=True)
@click.option("--retry-failed", is_flag=True, help="Try items again that failed in an earlier run.")
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop after more than N failures.")
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
@click.option("--stall", type=float, default=60.0, help="Seconds without a frame until given up.")
@click.option("--device", default="cpu", show_default=True, help="Where the encoder runs.")
@click.option(
    "--batch-frames",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most frames of one pass of the encoder.",
)
@click.option("--compile", is_flag=True, help="Use torch.compile for the encoder.")
@common
def extract(**options: Any) -> int:
    """Decode, encode, compress and cache videos: files, folders, globs, @list.txt or -.

    Running the same command again does only what is missing.
    """
    from .jobs import run_extract

    return run_extract(options)
