"""Records of runs: what was asked for, by whom and with what, and what came of it.

``runs/<id>/run.json`` lies in the store, on an object store too.  It is written before the first
item is begun, refreshed once a minute, and completed at the end: one that is neither complete nor
fresh is of a run that was cut.  A run that found nothing to do leaves none.
"""

import hashlib
import json
import logging
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vidcomp.config import Recipe
from vidcomp.errors import StoreError
from vidcomp.store.disk.format import FORMAT_VERSION
from vidcomp.store.files import explained
from vidcomp.store.storage import Storage

from ..options import exit_code
from .provenance import git_commit, machine, process_started, versions, without_secrets
from .records import now, put, read_all
from .run_options import Options
from .shards import Shard
from .summary import Summary, sentence
from .watching import Watcher

if TYPE_CHECKING:
    from .planning import Plan
    from .worker import Runner

__all__ = ["RunRecord", "new_run_id", "read_runs", "seconds_per_item"]

_log = logging.getLogger(__name__)

_FORMAT = 1
_SILENT_S = 600.0
"""After which a run that somebody else's machine began is taken for cut."""
_STATES = {0: "done", 3: "done", 4: "stopped", 130: "interrupted", 143: "interrupted"}


class RunRecord(Watcher):
    """Writes the record of one run.

    Args:
        storage: of the store.
        recipe: everything that decides the tokens.
        recipe_name: as the user named it.
        options: how to run; with the run's name.
        shard: the part of the inputs that this run has.
    """

    def __init__(
        self,
        storage: Storage,
        recipe: Recipe,
        recipe_name: str,
        options: Options,
        shard: Shard | None,
    ) -> None:
        self._storage, self._recipe = storage, recipe
        self._name, self._options, self._shard = recipe_name, options, shard
        self._record: dict[str, Any] = {}
        self._is_begun = False
        self._started = now()
        self._seconds_before = time.perf_counter()

    def planned(self, plan: "Plan", summary: Summary) -> None:
        """Take what was planned."""
        self._summary, self._planned = summary, plan.counts()

    def begun(self, runner: "Runner") -> None:
        """Write it: from here on there is work.

        Raises:
            StoreError: the store cannot be written.
        """
        self._loaded = time.perf_counter()
        self._record = self._first_entries(runner)
        self._write()
        self._is_begun = True

    def beat(self) -> None:
        """Refresh it."""
        self._record["so_far"] = self._summary.counts()
        self._refresh()

    def ended(self, error: BaseException | None) -> None:
        """Complete it, however the run ended."""
        if not self._is_begun:
            return
        self._record.pop("so_far", None)
        summary = self._summary
        code = summary.exit_code if error is None else exit_code(error)
        self._record["ended"] = now()
        self._record["summary"] = {
            **summary.counts(),
            "exit_code": code,
            "error": "" if error is None else _sentence(error),
            "seconds": round(time.perf_counter() - self._seconds_before, 3),
            "work_seconds": round(time.perf_counter() - self._loaded, 3),
            "waits": summary.waits,
            "missing": summary.missing,
        }
        self._refresh()

    def _first_entries(self, runner: "Runner") -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "id": self._options.run_id,
            "started": self._started,
            "updated": self._started,
            "argv": [without_secrets(arg) for arg in sys.argv],
            "planned": self._planned,
            "shard": None if self._shard is None else asdict(self._shard),
            "options": _without(asdict(self._options), "run_id"),
            "recipe": _recipe_entry(self._recipe, self._name) | {"fingerprint": runner.fingerprint},
            "weights": dict(runner.weights),
            "store": {"path": str(self._storage.path), "format": FORMAT_VERSION},
            "versions": versions(),
            "git_commit": git_commit(),
            "machine": machine(self._options.device),
        }

    def _refresh(self) -> None:
        self._record["updated"] = now()
        try:
            self._write()
        except StoreError as error:  # the tokens matter more
            _log.warning("the record of this run is not complete: %s", error)

    def _write(self) -> None:
        name = f"runs/{self._options.run_id}/run.json"
        with explained(f"write the record of this run to {self._storage.path}"):
            put(self._storage, name, self._record)


def new_run_id() -> str:
    """A name that sorts by time and is no other run's, on any machine."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"


def read_runs(storage: Storage, newest: int | None = None) -> Iterator[dict[str, Any]]:
    """Records of runs, the newest first, each with its ``state``.

    ``state`` is running, cut (it ended without a word), done, stopped (by its limit of failures),
    interrupted or failed.

    Args:
        storage: of the store.
        newest: only so many.

    Raises:
        StoreError: the store cannot be read.
    """
    with explained(f"read the records of runs of {storage.path}"):
        names = storage.folders("runs")[::-1][:newest]
        for record in read_all(storage, names, lambda name: _read(storage, name)):
            if record is not None:
                yield record | {"state": _state(record)}


def seconds_per_item(runs: Iterator[dict[str, Any]]) -> float | None:
    """Seconds of work that one run took for an item, over these runs; ``None`` if none did any."""
    seconds, items = 0.0, 0
    for run in runs:
        summary = run.get("summary") or {}
        if summary.get("done"):
            seconds += summary.get("work_seconds", 0.0)
            items += summary["done"] + summary.get("failed", 0)
    return seconds / items if items else None


def _read(storage: Storage, name: str) -> dict[str, Any] | None:
    """``None`` for a folder that is no run's, or that was just begun."""
    try:
        record = json.loads(storage.read(f"runs/{name}/run.json"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("id") == name else None


def _state(record: dict[str, Any]) -> str:
    if summary := record.get("summary"):
        return _STATES.get(summary.get("exit_code"), "failed")
    return "running" if _is_running(record) else "cut"


def _is_running(record: dict[str, Any]) -> bool:
    where = record.get("machine") or {}
    if where.get("host") == socket.gethostname() and where.get("process_started") is not None:
        return bool(process_started(where.get("pid", 0)) == where["process_started"])
    try:
        last = datetime.fromisoformat(record["updated"])
    except (KeyError, ValueError):
        return False
    return (datetime.now(UTC) - last).total_seconds() < _SILENT_S


def _without(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in entries.items() if k != name}


def _recipe_entry(recipe: Recipe, name: str) -> dict[str, Any]:
    settings = recipe.dump()
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    encode = settings.get("encode") or {}
    return {
        "name": name,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "model": encode.get("model"),
        "revision": encode.get("revision"),
        "settings": settings,
    }


def _sentence(error: BaseException) -> str:
    return sentence(error) if isinstance(error, Exception) else type(error).__name__
