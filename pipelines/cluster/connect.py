"""Ray itself: loaded, connected to, left again."""

import importlib
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidcomp.errors import ConfigError, MissingExtraError, VidcompError

from ..extraction.run_options import RayOptions

__all__ = ["Cluster"]

_OBJECTS_BYTES = 128 << 20
"""Shared memory of a Ray of our own: only descriptors and receipts pass through it."""
_LOCAL = "local"
_REACH_S = 10.0


class Cluster:
    """A connection to Ray; closing it ends what it has started and no more.

    A Ray that the program is connected to already is used as it is, and left so.

    Args:
        options: which cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster at the address, or the environment's file cannot be read.
    """

    def __init__(self, options: RayOptions) -> None:
        # Ray reads it when it is loaded; nothing is sent unless the user has asked for it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self.ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise MissingExtraError(
                f"--engine ray needs Ray, which is not installed ({error}): "
                f"pip install 'vidcomp[ray]'"
            ) from error
        self._is_ours = not self.ray.is_initialized()
        self.can_grow = options.address != _LOCAL or not self._is_ours
        """Whether nodes may be added."""
        if self._is_ours:
            self._connect(options)

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        if self._is_ours:
            self.ray.shutdown()

    def nodes(self) -> list[dict[str, float]]:
        """Resources of each node that is alive."""
        return [dict(node["Resources"]) for node in self.ray.nodes() if node["Alive"]]

    def _connect(self, options: RayOptions) -> None:
        given: dict[str, Any] = {}
        _check_reachable(options.address)
        if options.runtime_env is not None:
            given["runtime_env"] = _read_environment(options.runtime_env)
        if options.address == _LOCAL:
            given |= {"include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
        if not options.address.startswith("ray://"):
            given |= {"log_to_driver": False, "configure_logging": False}
        # Ray speaks of every actor that ends; what ends is replaced, or told by us.
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        try:
            self.ray.init(address=options.address, logging_level=logging.CRITICAL, **given)
        except (ImportError, ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            with suppress(Exception):
                self.ray.shutdown()
            if "ray[client]" in str(error):
                raise MissingExtraError(
                    "an address ray:// needs Ray's client, which is not installed: pip install "
                    "'ray[client]', or run on a node of the cluster with --ray-address auto"
                ) from error
            reason = " ".join(str(error).split())[:300]
            if urlsplit(f"//{options.address.rpartition('/')[2]}").port:
                reason += "; a cluster that asks for a token needs RAY_AUTH_MODE=token here"
            raise _no_cluster(options.address, reason) from error
        except Exception as error:
            raise VidcompError(
                f"Ray cannot be started at {options.address!r} ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}): see its logs in /tmp/ray"
            ) from error


def _no_cluster(address: str, reason: object) -> ConfigError:
    return ConfigError(
        f"there is no Ray cluster at {address!r} ({reason}): start one with 'ray start --head', "
        f"correct --ray-address, or leave it out to use this machine alone"
    )


def _check_reachable(address: str) -> None:
    """Whether somebody listens there; Ray itself would ask for minutes.

    Raises:
        ConfigError: nobody does.
    """
    found = urlsplit(address if "://" in address else f"//{address}")
    try:
        if found.hostname and found.port:
            socket.create_connection((found.hostname, found.port), _REACH_S).close()
    except (OSError, ValueError) as error:  # ValueError: a port that is no number
        raise _no_cluster(address, error) from error


def _read_environment(path: str) -> dict[str, Any]:
    """A runtime environment of Ray, from a YAML or JSON file."""
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"the environment of Ray's actors cannot be read from {path} "
            f"({' '.join(str(error).split())}): correct it"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} should hold settings of Ray's runtime environment such as pip or env_vars, "
            f"got {type(found).__name__}: correct it"
        )
    return found
