"""The command ``vidcomp``: parses, calls a job, prints its result.

Results go to standard output, progress and errors to standard error.  Exit codes: 0 done; 1 fatal
or lost; 2 usage, recipe or impossible budget; 3 finished, some items failed; 4 stopped by
``--max-failures``; 5 storage; 130 or 143 stopped by a signal.
"""

import os
from typing import Any

import click

from vidcomp import __version__

from .allocator import keep_little
from .cli_cache import cache
from .evaluation.command import evaluate
from .extraction.command import extract
from .options import CONTEXT, BudgetsCommand, common, placed, recipe_options
from .streams import fill_missing_streams

__all__ = ["main"]


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="vidcomp")
def main() -> None:
    """Turn videos into a small, exact number of tokens for a language model."""
    # Read when torch loads its OpenMP: threads that wait sleep, and do not take the readers' cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    fill_missing_streams()
    keep_little()


@main.command(context_settings=CONTEXT)
@click.argument("source", type=click.Path())
@click.option("--out", required=True, help="Folder or URL of the new cache.")
@recipe_options(None)
@common
def recompress(**options: Any) -> int:
    """Give a cache's records a new budget or new stages; no video is decoded."""
    from .jobs import run_recompress

    return run_recompress(options)


@main.command(context_settings=CONTEXT)
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


@main.command(context_settings=CONTEXT, cls=BudgetsCommand)
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


@main.command(context_settings=CONTEXT)
@click.argument("words", nargs=-1, metavar="[VIDEO] QUESTION...")
@click.option("--model", required=True, help="Folder or hub id of a video language model.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option(
    "--budget",
    default="1024",
    show_default=True,
    metavar="N|P%",
    help="Tokens that the video may take in the prompt; 100% for all.",
)
@click.option(
    "--method",
    default="partition",
    show_default=True,
    help="Compressor that reaches the budget (see: vidcomp list compressors).",
)
@click.option("--start", type=float, help="Start of the range, in seconds.")
@click.option("--end", type=float, help="End of the range, in seconds.")
@click.option(
    "--cache",
    metavar="DIR",
    help="With a VIDEO: keep its tokens there, and read them next time.  With --id: read them.",
)
@click.option("--id", metavar="KEY", help="Ask about this record of the cache; no VIDEO then.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Longest answer.",
)
@placed
@common
def ask(**options: Any) -> int:
    """Ask a video language model about a VIDEO, of which it reads as many tokens as BUDGET says.

    Several QUESTIONs, or - for lines of standard input, share what the model has read of the video.
    Tokens and memory are printed before anything runs, and what cannot fit is refused.
    """
    from .ask_command import run_ask

    return run_ask(options)


@main.command(context_settings=CONTEXT)
@click.option("--model", required=True, help="Folder or hub id of a video language model.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--name", help="What clients call it.  [default: the folder's name]")
@click.option("--videos", type=click.Path(), help="Folder of videos that clients may name.")
@click.option("--data", type=click.Path(), help="Folder that keeps uploads and tokens.")
@click.option("--budget", default="1024", show_default=True, metavar="N|P%", help="For a video.")
@click.option(
    "--method",
    default="partition",
    show_default=True,
    metavar="NAME",
    help="Compressor of videos for which clients name none; none: all tokens.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--allow-host", multiple=True, help="Another name that the server goes by.")
@click.option("--token-file", type=click.Path(), help="File with the token that clients must send.")
@click.option("--allow-fetch", is_flag=True, help="Fetch videos that clients give links of.")
@placed
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


@main.command("list", context_settings=CONTEXT)
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


@main.command(context_settings=CONTEXT)
@common
def doctor(**options: Any) -> int:
    """What is installed and works here, and what to do about the rest."""
    from .doctor import run_doctor

    return run_doctor(as_json=options["as_json"])


@main.command(context_settings=CONTEXT)
@click.argument("cache")
@click.option("--clear", is_flag=True, help="Forget them: the next run tries these items again.")
@common
def errors(**options: Any) -> int:
    """What failed in the runs that made a CACHE, and why; --json tells all about each.

    The same reason is told once, with how often it came.
    """
    from .extraction.history import list_errors

    return list_errors(options["cache"], clear=options["clear"], as_json=options["as_json"])


main.add_command(cache)
main.add_command(evaluate)
main.add_command(extract)


if __name__ == "__main__":
    main()
