"""What commands of ``vidcomp`` share: options, and how errors become one line and a code."""

import re
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from vidcomp.errors import BudgetError, ConfigError, StoreError, VidcompError

__all__ = ["CONTEXT", "BudgetsCommand", "chosen", "common", "exit_code", "placed", "recipe_options"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of every command."""

_BUDGET = re.compile(r"\d+(\.\d+)?%?")


class BudgetsCommand(click.Command):
    """A command whose ``--budgets`` takes all the budgets that follow it.

    Click's options take one word each, so the words are given back as so many options.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words, with an option before every budget."""
        spread: list[str] = []
        follows = False
        for place, word in enumerate(args):
            if word == "--":
                return super().parse_args(ctx, spread + args[place:])
            if follows and _BUDGET.fullmatch(word):
                if spread[-1] != "--budgets":
                    spread.append("--budgets")
            else:
                follows = word == "--budgets"
            spread.append(word)
        return super().parse_args(ctx, spread)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every command has; errors become one line and an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
    @wraps(command)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            sys.exit(command(*args, **kwargs) or 0)
        except VidcompError as error:
            if debug:
                traceback.print_exc()
            click.echo(f"vidcomp: {error}", err=True)
            sys.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("vidcomp: interrupted; what was written stays, run again to go on", err=True)
            sys.exit(130)

    return run


def recipe_options(
    default: str | None, *, budget: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--recipe``, ``--set`` and, but for commands with budgets of their own, ``--budget``."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        if budget:
            command = click.option(
                "--budget", metavar="N|P%", help="Tokens a video may keep, e.g. 196 or 10%."
            )(command)
        command = click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="A.B=C",
            help="Change one setting of the recipe; may be repeated.",
        )(command)
        return click.option(
            "--recipe",
            default=default,
            show_default=default is not None,
            metavar="NAME|FILE",
            help="A recipe that comes with vidcomp (see: vidcomp list recipes) or a YAML file.",
        )(command)

    return add


def placed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a language model runs, and in which type."""
    command = click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Type of the weights; auto: as stored.",
    )(command)
    return click.option("--device", default="cpu", show_default=True, help="Where the model runs.")(
        command
    )


def chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """Records by their keys: named, in a list, by a pattern."""
    command = click.option(
        "--glob", "patterns", multiple=True, metavar="PATTERN", help="Keys that match; repeatable."
    )(command)
    return click.argument("keys", nargs=-1, metavar="[KEY|@list.txt]...")(command)


def exit_code(error: BaseException) -> int:
    """What a command that ends by this error returns."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, ConfigError | BudgetError):
        return 2
    return 5 if isinstance(error, StoreError) else 1
