"""What a video costs the job beyond the work itself: time, and memory that does not come back."""

import argparse
import statistics
from pathlib import Path

import numpy as np
from _bench import interleaved, publish
from _extract_cases import decoding, encoding, job_of
from _extract_clips import RECIPE, Blind, make_corpus, make_tiny, with_encoder
from _memory import Peak

from vidcomp.api import prepare
from vidcomp.config import Recipe
from vidcomp.pipelines.allocator import keep_little
from vidcomp.pipelines.extraction.engine import Engine
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.worker import Worker
from vidcomp.pipelines.inputs import Item, expand
from vidcomp.store.storage import open_storage

__all__ = ["bench_flat", "bench_overhead"]

_TINY, _FLAT = 500, 2000
"""Videos of each part."""
_STEP = 100


def bench_overhead(options: argparse.Namespace, scratch: Path) -> None:
    """What a video costs beyond decoding and encoding it, with videos that cost little."""
    plain = prepare(Recipe(**RECIPE))
    blind = with_encoder(plain, Blind(plain.encoder))
    items = expand([str(make_tiny(scratch, _TINY))])
    rows = []
    for name, prepared, workers, recycle_after in (
        ("none", blind, 1, 10**6),
        ("none", blind, 2, 10**6),
        ("dct", plain, 1, 10**6),
        ("dct", plain, 2, 10**6),
        ("dct", plain, 1, _TINY),
    ):
        with Engine(workers=workers, recycle_after=recycle_after) as engine:
            cases = {
                "job": job_of(engine, prepared, items, scratch),
                "decode": decoding(prepared, items),
                "encode": encoding(prepared, items),
            }
            cases["job"]()
            seconds = interleaved(cases, rounds=options.rounds)
        each = {n: 1000 * statistics.median(s) / len(items) for n, s in seconds.items()}
        beyond = statistics.median(
            1000 * (job - max(decode / workers, encode)) / len(items)
            for job, decode, encode in zip(*seconds.values(), strict=True)
        )
        replaced = "never" if recycle_after > _TINY else f"after {_TINY}"
        rows.append((name, workers, replaced, *each.values(), beyond))
    publish(
        "overhead",
        f"{_TINY} videos of three frames of 64x64: milliseconds a video",
        "python scripts/bench_extract.py overhead",
        ("encoder", "workers", "replaced", "job", "decode", "encode", "job - bound"),
        rows,
        "bound = max(decode / workers, encode), each measured alone in the same round; what the "
        "job does beyond it: messages, threads, compression, records, commits, and, in the last "
        "row, a fresh reader each round.  Readers are warm, each file is scanned anew; medians of "
        f"{options.rounds} interleaved rounds.",
    )


def bench_flat(_: argparse.Namespace, scratch: Path) -> None:
    """Memory that the job and its readers keep, over many videos."""
    keep_little()  # as the command does
    files = expand([str(make_corpus(scratch, count=12)), str(make_tiny(scratch, 100))])
    items = [Item(key=f"{i:05}", path=files[i % len(files)].path) for i in range(_FLAT)]
    recipe = Recipe(**{**RECIPE, "sample": {"name": "uniform", "num_frames": 8}})
    settings = Options(workers=2, recycle_after=10 * _FLAT)  # else fresh readers would hide it
    kept: dict[str, list[float]] = {"job": [], "readers, mean": []}
    peaks = []
    with Worker(open_storage(scratch / "flat"), recipe, settings) as worker:
        for start in range(0, _FLAT, _STEP):
            with Peak("cpu") as peak:
                receipts = list(worker.run(items[start : start + _STEP]))
            assert all(receipt.status == "ok" for receipt in receipts)
            peaks.append(peak.mib)
            del receipts
            with Peak("cpu"):  # gives back what is free
                kept["job"].append(own_mb(Path("/proc/self")))
            readers = children()
            kept["readers, mean"].append(sum(map(own_mb, readers)) / len(readers))
    rows = []
    half = _FLAT // _STEP // 2
    videos = np.arange(_STEP, _FLAT + 1, _STEP)
    for name, values in kept.items():
        slope = 1000 * float(np.polyfit(videos[half:], values[half:], 1)[0])
        rows.append((name, values[half // 2 - 1], values[half - 1], values[-1], slope))
    publish(
        "flat",
        f"Memory over {_FLAT} videos: what processes keep while they rest, MB",
        "python scripts/bench_extract.py flat",
        ("process", f"after {_FLAT // 4}", f"after {_FLAT // 2}", f"after {_FLAT}", "MB / 1000"),
        rows,
        f"Looked at after every {_STEP} videos; the last column is the slope of a line through the "
        f"second half.  At work the job took at most {max(peaks[:half]):.0f} MB more in the first "
        f"half and {max(peaks[half:]):.0f} MB in the second.  Readers are not replaced here; by "
        "default they are after two thousand.",
    )


def own_mb(process: Path) -> float:
    """Resident memory that belongs to a process alone, and what it shares by memory files."""
    status = (process / "status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) / 1024


def children() -> list[Path]:
    """Processes that this one started."""
    me = Path("/proc/self").readlink().name
    stats = {stat.parent: stat.read_text() for stat in Path("/proc").glob("[0-9]*/stat")}
    return [path for path, stat in stats.items() if stat.rpartition(")")[2].split()[1] == me]
