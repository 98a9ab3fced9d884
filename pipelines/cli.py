"""The command ``vidcomp``: parses, calls a job, prints its result.

Results go to standard output, progress and errors to standard error.  Exit codes: 0 done; 1 fatal
or lost; 2 usage, recipe or impossible budget; 3 finished, some items failed; 4 stopped by
``--max-failures``; 5 storage; 130 interrupted.
"""

import os
from typing import Any

import click

from vidcomp import __version__

from .evaluate_command import evaluate
from .options import BudgetsCommand, chosen, common, recipe_options

__all__ = ["main"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="vidcomp")
def main() -> None:
    """Turn videos into a small, exact number of tokens for a language model."""
    # Read when torch loads its OpenMP: threads that wait sleep, and do not take the readers' cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command(context_settings=_CONTEXT)
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


@main.command(context_settings=_CONTEXT)
@click.argument("source", type=click.Path())
@click.option("--out", required=True, help="Folder or URL of the new cache.")
@recipe_options(None)
@common
def recompress(**options: Any) -> int:
    """Give a cache's records a new budget or new stages; no video is decoded."""
    from .jobs import run_recompress

    return run_recompress(options)


@main.command(context_settings=_CONTEXT)
@click.argument("source")
@click.option("--out", required=True, type=click.Path(), help="Picture to write, e.g. map.png.")
@recipe_options("embedded")
@click.option("--start", type=float, help="Start of the range, in seconds.")
@click.option("--end", type=float, help="End of the range, in seconds.")
@common
def show(**options: Any) -> int:
    """Draw frames with their token map: a VIDEO, or a cached record as DIR#KEY."""
    from .jobs import run_show

    return run_show(options)


@main.command(context_settings=_CONTEXT, cls=BudgetsCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="VIDEO...")
@click.option(
    "--budgets",
    multiple=True,
    default=["2%", "5%", "10%", "25%"],
    show_default="2% 5% 10% 25%",
    metavar="N|P%...",
    help="Tokens a video may keep; as many as follow, e.g. --budgets 5% 10%.",
)
@click.option(
    "--methods",
    multiple=True,
    default=["all"],
    show_default="all",
    metavar="NAME,...",
    help="Compressors, with settings after colons: evs,tome:scope=frame.",
)
@recipe_options("embedded", budget=False)
@click.option("--start", type=float, help="Start of the range of every video, in seconds.")
@click.option("--end", type=float, help="End of the range, in seconds.")
@click.option("--out", type=click.Path(), help="Folder for compare.json and compare.png.")
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Calls of which the median time counts.",
)
@click.option("--device", default="cpu", show_default=True, help="Where all runs.")
@common
def compare(**options: Any) -> int:
    """Quality and time of compressors on VIDEOs: files, folders, globs, @list.txt or -.

    The recipe's sampler and encoder make the tokens.  Distortion is the squared error of the video
    rebuilt from its tokens, over its variance; coverage the share of patches that some token is
    like.  With one budget the table shows all that is measured.
    """
    from .compare_output import run_compare

    return run_compare(options)


@main.group(context_settings=_CONTEXT)
def cache() -> None:
    """Look into a cache and look after it.  CACHE is a folder or a URL such as s3://bucket/name."""


@cache.command("ls", context_settings=_CONTEXT)
@click.argument("cache")
@common
def cache_ls(**options: Any) -> int:
    """List the records: key, tokens, width, type, bytes."""
    from .cache import list_records

    return list_records(options["cache"], as_json=options["as_json"])


@cache.command("show", context_settings=_CONTEXT)
@click.argument("cache")
@click.argument("key", required=False)
@common
def cache_show(**options: Any) -> int:
    """Show the recipe and counts of a cache, or one record's tokens and provenance."""
    from .cache import show_cache

    return show_cache(options["cache"], options["key"], as_json=options["as_json"])


@cache.command("verify", context_settings=_CONTEXT)
@click.argument("cache")
@click.option("--quick", is_flag=True, help="Check index and headers; do not read the records.")
@common
def cache_verify(**options: Any) -> int:
    """Check every record against its hash; exit code 5 if any is damaged."""
    from .cache import verify_cache

    return verify_cache(options.pop("cache"), **options)


@cache.command("rm", context_settings=_CONTEXT)
@click.argument("cache")
@chosen
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@common
def cache_rm(**options: Any) -> int:
    """Remove records; exit code 3 if some keys are unknown.  Compact makes the room free."""
    from .cache_edit import remove_records

    return remove_records(
        options["cache"],
        options["keys"],
        options["patterns"],
        dry_run=options["dry_run"],
        as_json=options["as_json"],
    )


@cache.command("compact", context_settings=_CONTEXT)
@click.argument("cache")
@click.option(
    "--min-live",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Rewrite shards of which a smaller share is still valid.",
)
@click.option(
    "--grace",
    default="24h",
    show_default=True,
    help="How long replaced files stay for readers that have them open; 0 if there are none.",
)
@click.option("--seal-bytes", default="256MB", show_default=True, help="Size of new shards.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@common
def cache_compact(**options: Any) -> int:
    """Free the room of replaced and removed records; gather small shards.  Others may work on."""
    from .cache_edit import compact_cache

    return compact_cache(options.pop("cache"), **options)


@cache.command("repair", context_settings=_CONTEXT)
@click.argument("cache")
@click.option(
    "--force-recover",
    is_flag=True,
    help="Also commit what writers on other machines left.  Make sure that none of them lives: it "
    "would lose what it has not committed.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@common
def cache_repair(**options: Any) -> int:
    """Put right what is damaged; records that cannot be read become missing, nothing is deleted."""
    from .cache_edit import repair_cache

    return repair_cache(options.pop("cache"), **options)


@cache.command("merge", context_settings=_CONTEXT)
@click.argument("sources", nargs=-1, required=True, metavar="CACHE...")
@click.option("--out", required=True, metavar="CACHE", help="New, or there already.")
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "first", "last"]),
    default="error",
    show_default=True,
    help="Keys whose records differ.",
)
@common
def cache_merge(**options: Any) -> int:
    """Copy the records of caches of one recipe into one."""
    from .cache_edit import merge_caches

    return merge_caches(options.pop("sources"), options.pop("out"), **options)


@cache.command("export", context_settings=_CONTEXT)
@click.argument("cache")
@chosen
@click.option("--out", required=True, type=click.Path(), help="Folder of the files.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["safetensors", "npy", "webdataset", "parquet"]),
    default="safetensors",
    show_default=True,
)
@click.option(
    "--dtype",
    type=click.Choice(["stored", "float32", "float16", "bfloat16"]),
    help="Of float tokens.  [default: stored for safetensors, else float32]",
)
@click.option("--shard-size", default="256MB", show_default=True, help="Of tar and Parquet files.")
@click.option("--overwrite", is_flag=True, help="Replace files that are not of this export.")
@common
def cache_export(**options: Any) -> int:
    """Write records (by default all) as files for other programs."""
    from .cache_edit import export_cache

    return export_cache(options["cache"], options["keys"], options["patterns"], options)


@main.command(context_settings=_CONTEXT)
@click.option("--model", required=True, help="Folder or hub id of a video language model.")
@click.option("--name", help="What clients call it.  [default: the folder's name]")
@click.option("--videos", type=click.Path(), help="Folder of videos that clients may name.")
@click.option("--data", type=click.Path(), help="Folder that keeps uploads and tokens.")
@click.option("--budget", default="1024", show_default=True, metavar="N|P%", help="For a video.")
@click.option(
    "--method",
    default="evs",
    show_default=True,
    metavar="NAME",
    help="Compressor of videos for which clients name none; none: all tokens.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--allow-host", multiple=True, help="Another name that the server goes by.")
@click.option("--token-file", type=click.Path(), help="File with the token that clients must send.")
@click.option("--allow-fetch", is_flag=True, help="Fetch videos that clients give links of.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
)
@click.option("--max-upload-mb", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--max-stored-mb", type=click.IntRange(min=1), default=20480, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option(
    "--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Most that wait."
)
@click.option("--connections", type=click.IntRange(min=1), default=512, show_default=True)
@common
def serve(**options: Any) -> int:
    """Answer questions about videos over HTTP, as OpenAI's interface does, with a page to chat.

    A video is uploaded or named, compressed once, and read once for all questions about it.
    """
    from .serve.command import run_serve

    return run_serve(options)


@main.command("list", context_settings=_CONTEXT)
@click.argument(
    "kind",
    type=click.Choice(
        ["recipes", "samplers", "selectors", "encoders", "compressors", "projectors"]
    ),
)
@click.option("-v", "--verbose", is_flag=True, help="Show the settings too.")
@common
def list_(**options: Any) -> int:
    """What there is of a KIND, with a line about each."""
    from .listing import run_list

    return run_list(options["kind"], verbose=options["verbose"], as_json=options["as_json"])


@main.command(context_settings=_CONTEXT)
@common
def doctor(**options: Any) -> int:
    """What is installed and works here, and what to do about the rest."""
    from .doctor import run_doctor

    return run_doctor(as_json=options["as_json"])


@main.command(context_settings=_CONTEXT)
@click.argument("folder")
@common
def errors(**options: Any) -> int:
    """The items of a cache's runs that failed, and why."""
    from .cache import list_errors

    return list_errors(options["folder"], as_json=options["as_json"])


main.add_command(evaluate)


if __name__ == "__main__":
    main()
