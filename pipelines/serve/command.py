"""``vidcomp serve``: loads a model and answers until it is told to stop."""

import contextlib
import ipaddress
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidcomp.budget import Budget
from vidcomp.errors import ConfigError, MissingExtraError

from .limits import Limits

if TYPE_CHECKING:
    from .app import Server
    from .guards import Guard

__all__ = ["run_serve"]

_STOP_S = 5
"""Answers under way when the server is told to stop have so long to end."""


def run_serve(options: dict[str, Any]) -> int:
    """Serve a model.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not there.
        ConfigError: options that cannot be used, or a model that cannot be loaded.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(
            f"the server needs {error.name}, which is not installed: pip install 'vidcomp[serve]'"
        ) from error
    limits = _limits(options)
    token = _token(options["token_file"])
    hosts = _hosts(options["host"], options["allow_host"])
    if token is None and not _is_near(options["host"]):
        raise ConfigError(
            f"a server that other machines reach at {options['host']} needs a token: pass "
            f"--token-file FILE, or stay with --host 127.0.0.1"
        )
    with _data(options["data"]) as data:
        served, guard = _build(options, limits, token, hosts, data)
        config = uvicorn.Config(
            guard,
            host=options["host"],
            port=options["port"],
            log_level="warning" if options["quiet"] else "info",
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_STOP_S,
            server_header=False,
            lifespan="on",
        )
        server = uvicorn.Server(config)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.run()
        finally:
            served.close()  # a second interrupt ends uvicorn before it says so itself
    return 0 if server.started else 1


def _build(
    options: dict[str, Any],
    limits: Limits,
    token: str | None,
    hosts: frozenset[str] | None,
    data: Path,
) -> "tuple[Server, Guard]":
    from vidcomp.encode.vision import quiet
    from vidcomp.llm.model import VideoLLM

    from .app import Server, make_app
    from .backend import LLMBackend, stage_of
    from .library import Library
    from .shelf import Choice

    default = Choice(method=options["method"], budget=options["budget"])
    if default.method is not None and default.method != "none":
        stage_of(default.method)
        Budget.parse(str(default.budget))
    else:
        default = Choice()
    folder = None if options["videos"] is None else Path(options["videos"])
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"a folder of videos was wanted, got {folder}: pass one that is there")
    with quiet():
        llm = VideoLLM.load(
            options["model"],
            device=options["device"],
            dtype=options["dtype"],
            revision=options["revision"],
        )
    name = options["name"] or Path(options["model"]).name
    server = Server(
        backend=LLMBackend(llm, name, limits),
        library=Library(data / "uploads", folder, limits),
        limits=limits,
        default=default,
        may_fetch=options["allow_fetch"],
        token=token,
        hosts=hosts,
    )
    server.shelf.keep_in(data / "cache", server.backend.identity, server.backend.dtype)
    return server, make_app(server)


def _limits(options: dict[str, Any]) -> Limits:
    return replace(
        Limits(),
        upload_bytes=options["max_upload_mb"] << 20,
        stored_bytes=options["max_stored_mb"] << 20,
        waiting=options["queue"],
        connections=options["connections"],
        new_tokens=options["max_new_tokens"],
    )


def _token(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the token file {path} cannot be read ({error}): name another"
        ) from error
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"a token of at least 16 letters and digits was wanted in {path}, got another: make "
            f"one with python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def _hosts(host: str, others: tuple[str, ...]) -> frozenset[str] | None:
    """Names that the server answers to; ``None`` for all, where others can reach it."""
    if _is_near(host) or others:
        return frozenset({host, "localhost", "127.0.0.1", "::1", *others})
    return None


def _is_near(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _data(path: str | None) -> Iterator[Path]:
    """The folder of uploads and tokens; without one of the user's, it goes at the end."""
    if path is not None:
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder {folder} cannot be made ({error}): name another"
            ) from error
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vidcomp-serve-") as made:
        click.echo(
            "uploads and tokens are kept until the server stops; --data keeps them", err=True
        )
        yield Path(made)
