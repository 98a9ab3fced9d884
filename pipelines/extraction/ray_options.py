"""Options of ``vidcomp extract`` that choose an engine, and what they mean."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from vidcomp.errors import ConfigError

if TYPE_CHECKING:
    from .run_options import RayOptions

__all__ = ["engine_options", "ray_settings"]

_NAMES = {
    "ray_address": "--ray-address",
    "ray_actors": "--ray-actors",
    "ray_cpus": "--ray-cpus",
    "ray_gpus": "--ray-gpus",
    "ray_runtime_env": "--ray-runtime-env",
}


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--engine`` and all that belongs to Ray."""
    for option in (
        click.option(
            "--ray-runtime-env",
            type=click.Path(),
            metavar="FILE",
            help="YAML of Ray's runtime environment for actors; by default the nodes' own Python, "
            "where vidcomp is installed.",
        ),
        click.option(
            "--ray-gpus",
            type=click.FloatRange(min=0),
            metavar="F",
            help="GPUs of an actor.  [default: 1 with --device cuda]",
        ),
        click.option(
            "--ray-cpus",
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help="CPUs of an actor.  [default: its --workers]",
        ),
        click.option(
            "--ray-actors",
            metavar="N|MIN:MAX",
            help="Actors: MIN at the start, up to MAX while there is a backlog, even if the "
            "cluster has to grow for them; MIN: for as many as there is room for.  [default: 1:]",
        ),
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="local starts a Ray on this machine; auto is the cluster that it is a node of; "
            "host:port or ray://host:port another.  [default: local]",
        ),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Work in this process and its children, or in actors of a Ray cluster.",
        ),
    ):
        command = option(command)
    return command


def ray_settings(options: Mapping[str, Any]) -> "RayOptions":
    """What the options of the command line mean.

    Raises:
        ConfigError: options of Ray without ``--engine ray``, or a number of actors that is none.
    """
    from .run_options import RayOptions  # with torch, which --help does not wait for

    said = [flag for name, flag in _NAMES.items() if options[name] is not None]
    if said and options["engine"] != "ray":
        raise ConfigError(f"{said[0]} is an option of Ray's: add --engine ray, or leave it out")
    least, most = _actors(options["ray_actors"])
    return RayOptions(
        address=options["ray_address"] or "local",
        min_actors=least,
        max_actors=most,
        cpus=options["ray_cpus"],
        gpus=options["ray_gpus"],
        runtime_env=options["ray_runtime_env"],
    )


def _actors(text: str | None) -> tuple[int, int | None]:
    if text is None:
        return 1, None
    first, colon, last = text.partition(":")
    try:
        least = int(first)
        most = int(last) if last else None if colon else least
    except ValueError:
        least, most = 0, None
    if least < 1 or (most is not None and most < least):
        raise ConfigError(
            f"--ray-actors is a number, or the least and the most of them, got {text!r}: e.g. 4 or "
            f"2:16"
        )
    return least, most
