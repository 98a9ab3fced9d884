"""``vidcomp evaluate``: its options."""

from typing import Any

import click

from ..options import CONTEXT, BudgetsCommand, common, placed

__all__ = ["evaluate"]

_FORMATS = (
    "activitynet_qa",
    "egoschema",
    "longvideobench",
    "mlvu",
    "msvd_qa",
    "mvbench",
    "nextqa",
    "plain",
    "videomme",
)


@click.command(
    cls=BudgetsCommand,
    context_settings=CONTEXT,
)
@click.argument("annotations", nargs=-1, required=True, metavar="ANNOTATIONS...")
@click.option("--videos", required=True, type=click.Path(), help="Folder that the videos lie in.")
@click.option("--model", required=True, metavar="ID|DIR", help="Hub id or folder of a video LLM.")
@click.option("--out", required=True, type=click.Path(), help="Folder of answers and results.")
@click.option(
    "--budgets",
    multiple=True,
    default=["10%", "25%"],
    show_default="10% 25%",
    metavar="N|P%...",
    help="Tokens a video may keep; as many as follow, e.g. --budgets 5% 10%.",
)
@click.option(
    "--methods",
    multiple=True,
    default=["tome"],
    show_default="tome",
    metavar="NAME,...",
    help="Compressors, with settings after colons: evs,tome:scope=frame; or none.",
)
@click.option(
    "--baselines",
    multiple=True,
    default=["full,blind,uniform_frames"],
    show_default="full,blind,uniform_frames",
    metavar="NAME,...",
    help="All tokens, no video, fewer frames with as many tokens; or none.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="Of the annotations.  [default: what the columns look like]",
)
@click.option("--answers", type=click.Path(), help="Right answers, where they are a file apart.")
@click.option("--names", type=click.Path(), help="Other names of videos: JSON, or pairs of words.")
@click.option("--whole", is_flag=True, help="Show whole videos even if parts of them are named.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N questions.")
@click.option(
    "--num-frames",
    type=click.IntRange(min=1),
    help="Evenly spaced frames of a video.  [default: as the model's own processor chooses]",
)
@click.option("--permutations", is_flag=True, help="Average over rotations of the options.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Most tokens of a free answer.",
)
@placed
@click.option("--revision", help="Of the model on the hub.")
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop after more than N failures.")
@click.option("--picture/--no-picture", default=True, show_default=True, help="Draw accuracy.png.")
@common
def evaluate(**options: Any) -> int:
    """How well a model answers ANNOTATIONS from fewer tokens: files of a benchmark, or its folder.

    Options are scored by the probabilities of their letters, free answers by equality.  Every
    method is held against the run with all tokens, question by question.  Answers are written as
    they come: the same command again asks only what is missing.
    """
    from .output import run_evaluate

    return run_evaluate(options)
