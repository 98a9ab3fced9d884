"""The commands ``vidcomp cache ...``."""

from typing import Any

import click

from .options import CONTEXT, chosen, common

__all__ = ["cache"]


@click.group(context_settings=CONTEXT)
def cache() -> None:
    """Look into a cache and look after it.  CACHE is a folder or a URL such as s3://bucket/name."""


@cache.command("ls", context_settings=CONTEXT)
@click.argument("cache")
@common
def cache_ls(**options: Any) -> int:
    """List the records: key, tokens, width, type, bytes."""
    from .cache import list_records

    return list_records(options["cache"], as_json=options["as_json"])


@cache.command("show", context_settings=CONTEXT)
@click.argument("cache")
@click.argument("key", required=False)
@common
def cache_show(**options: Any) -> int:
    """Show the recipe and counts of a cache, or one record's tokens and provenance."""
    from .cache import show_cache

    return show_cache(options["cache"], options["key"], as_json=options["as_json"])


@cache.command("runs", context_settings=CONTEXT)
@click.argument("cache")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="Only the newest N.",
)
@common
def cache_runs(**options: Any) -> int:
    """List the runs of extract that wrote to a cache: running, done, cut, stopped, failed."""
    from .extraction.history import list_runs

    return list_runs(options["cache"], newest=options["limit"], as_json=options["as_json"])


@cache.command("verify", context_settings=CONTEXT)
@click.argument("cache")
@click.option("--quick", is_flag=True, help="Check index and headers; do not read the records.")
@common
def cache_verify(**options: Any) -> int:
    """Check every record against its hash; exit code 5 if any is damaged."""
    from .cache import verify_cache

    return verify_cache(options.pop("cache"), **options)


@cache.command("rm", context_settings=CONTEXT)
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


@cache.command("compact", context_settings=CONTEXT)
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


@cache.command("repair", context_settings=CONTEXT)
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


@cache.command("merge", context_settings=CONTEXT)
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


@cache.command("export", context_settings=CONTEXT)
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
