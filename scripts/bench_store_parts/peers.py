"""Shuffled samples per second of our loader and of the peers', each in a process of its own."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_store_parts.report import report
from bench_store_parts.stores import Corpus
from bench_store_parts.synthetic import sizes
from bench_store_parts.timing import quartiles

__all__ = ["bench_peers"]

_PEERS = {"litdata": "LitData", "webdataset": "WebDataset", "mds": "MosaicML streaming"}
_WORKER = Path(__file__).resolve().parents[1] / "bench_peers" / "worker.py"
_WORKERS = 2


def bench_peers(options: argparse.Namespace, folder: Path) -> None:
    """A table of samples per second and of the ratios to ours, round by round."""
    pythons = {"vidcomp": Path(sys.executable)} | installed(options.peers)
    rows = []
    for size in sizes(options.large, options.small, options.size):
        corpus = Corpus.make(size, folder)
        own = {name: corpus.raw.parent / name for name in pythons} | {"vidcomp": corpus.cache}
        found = race(pythons, corpus.raw, own, options)
        rows += [(size.name, *row) for row in compare(found)]
        for name in pythons.keys() & _PEERS.keys():
            shutil.rmtree(own[name])
    if len(pythons) > 1:
        publish_peers(rows, options)


def publish_peers(rows: list[tuple[Any, ...]], options: argparse.Namespace) -> None:
    """The table."""
    report(
        options,
        "peers --peers DIR",
        "shuffled samples per second, against the peers",
        ("records", "loader", "version", "samples/s", "x raw", "we are x as fast", "by raw"),
        rows,
        "Each loader is its package's own recommended one, in a process and an environment of its "
        f"own (`scripts/bench_peers/setup.sh DIR`), with {_WORKERS} workers (ours: threads, and "
        "hashes checked), batches of 8 packed end to end into tensors, shuffled, processes kept "
        "from epoch to epoch, a first epoch not counted; the same samples from local files in the "
        "page cache; bfloat16 goes through the peers as int16, which all of them can hold. x raw: "
        "against the raw control (see random reads) before and after it in the same process. We "
        "are x as fast: medians of the rounds' ratios of samples/s, and of x raw. "
        f"{options.passes} epochs a round, {options.rounds} rounds in turning order.",
    )


def installed(root: Path | None) -> dict[str, Path]:
    """The Python of each peer that has an environment; says which has none."""
    found = {name: (root or Path("/nonexistent")) / name / "bin" / "python" for name in _PEERS}
    for name, python in found.items():
        if not python.exists():
            print(
                f"left out {_PEERS[name]}: no environment for it; run `sh scripts/bench_peers/"
                f"setup.sh DIR {name}` and pass --peers DIR",
                file=sys.stderr,
            )
    return {name: python for name, python in found.items() if python.exists()}


def race(
    pythons: dict[str, Path], raw: Path, own: dict[str, Path], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """What every worker answered in every round; one works at a time, in turning order."""
    names = list(pythons)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            workers[name] = Worker(name, pythons[name], raw, own[name], options.passes)
        for turn in range(options.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                found[name].append(workers[name].round())
    finally:
        for worker in workers.values():
            worker.close()
    return found


class Worker:
    """A peer's process, waiting between its rounds."""

    def __init__(self, name: str, python: Path, raw: Path, own: Path, passes: int) -> None:
        arguments = [name, str(raw), str(own), "--passes", str(passes), "--workers", str(_WORKERS)]
        self.name, self._log = name, own.with_suffix(".log").open("w+")
        self._process = subprocess.Popen(
            [str(python), str(_WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.version = self._answer()["version"]

    def round(self) -> dict[str, Any]:
        """One round; its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        return {**self._answer(), "version": self.version}

    def close(self) -> None:
        """End it, whatever it is at."""
        try:
            self._process.communicate(timeout=20)  # its input ends, so does it
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"{self.name} ended: {self._log.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compare(found: dict[str, list[dict[str, Any]]]) -> list[tuple[Any, ...]]:
    """A row for each loader: version, samples/s, x raw, and how much faster we are."""
    speed = {n: [one["samples"] / one["loader_s"] for one in all_] for n, all_ in found.items()}
    by_raw = {n: [one["raw_s"] / one["loader_s"] for one in all_] for n, all_ in found.items()}
    rows = []
    for name, rounds in found.items():
        row = (_PEERS.get(name, name), rounds[0]["version"], statistics.median(speed[name]))
        ratios = [
            quartiles([a / b for a, b in zip(values["vidcomp"], values[name], strict=True)])[1]
            for values in (speed, by_raw)
        ]
        rows.append((*row, statistics.median(by_raw[name]), *ratios))
    return rows
