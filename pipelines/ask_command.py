"""``vidcomp ask`` as the command line gives it: words in, answers on standard output."""

import sys
from typing import Any

import click

from .ask import Question, ask
from .output import print_json

__all__ = ["run_ask"]


def run_ask(options: dict[str, Any]) -> int:
    """``vidcomp ask``."""
    words = list(options["words"])
    video = None if options["id"] is not None or not words else words.pop(0)
    job = Question(
        questions=_questions(words),
        video=video,
        model=options["model"],
        cache=options["cache"],
        id=options["id"],
        start_s=options["start"],
        end_s=options["end"],
        budget=options["budget"],
        method=options["method"],
        device=options["device"],
        dtype=options["dtype"],
        revision=options["revision"],
        max_new_tokens=options["max_new_tokens"],
    )

    def tell(line: str) -> None:
        if not options["quiet"]:
            click.echo(line, err=True)

    asked = ask(job, tell)
    if options["as_json"]:
        print_json(asked.to_json(job))
        return 0
    for text, answer in zip(job.questions, asked.answers, strict=True):
        if len(job.questions) > 1:
            click.echo(f"> {text}")
        click.echo(answer.text)
    return 0


def _questions(words: list[str]) -> list[str]:
    """The questions; ``-`` stands for the lines of standard input."""
    found: list[str] = []
    for word in words:
        found += [line.strip() for line in sys.stdin if line.strip()] if word == "-" else [word]
    return found
