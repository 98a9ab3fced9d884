"""How near the job comes to what the hardware allows, and how it scales."""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from _bench import interleaved, median_ratio, publish
from _extract_cases import WAIT_S, decoding, encoding, job_of, looping
from _extract_clips import RECIPE, Blind, Waiting, make_corpus, with_encoder

from vidcomp.api import prepare
from vidcomp.config import Recipe
from vidcomp.pipelines.extraction.engine import Engine
from vidcomp.pipelines.inputs import expand

__all__ = ["bench_engine", "bench_workers", "decode_on_demand"]


def bench_engine(options: argparse.Namespace, scratch: Path) -> None:
    """Wall of the job over what the hardware allows, with an encoder that waits as a device."""
    plain = prepare(Recipe(**RECIPE))
    prepared = with_encoder(plain, Waiting(plain.encoder, WAIT_S))
    items = expand([str(make_corpus(scratch, count=60))])
    workers = 2
    with Engine(workers=workers) as engine:
        cases = {
            "loop": looping(prepared, items, scratch),
            "job": job_of(engine, prepared, items, scratch),
            "decode": decoding(prepared, items),
            "encode": encoding(prepared, items),
        }
        cases["job"]()  # the readers start
        seconds = interleaved(cases, rounds=options.rounds)
    bound = [max(d / workers, e) for d, e in zip(seconds["decode"], seconds["encode"], strict=True)]
    ratios = sorted(j / b for j, b in zip(seconds["job"], bound, strict=True))
    loop, job, decode, encode = (statistics.median(seconds[name]) for name in cases)
    gain = median_ratio(seconds["loop"], seconds["job"])
    publish(
        "engine",
        "60 clips of 480x270 and 3 to 6 s, 2 decode workers, an encoder that waits "
        f"{WAIT_S} s a clip: wall seconds",
        "python scripts/bench_extract.py engine",
        ("loop", "decode", "encode", "job", "job / bound", "smallest", "largest", "loop / job"),
        [(loop, decode, encode, job, statistics.median(ratios), ratios[0], ratios[-1], gain)],
        "bound = max(decode / workers, encode), each measured alone in the same round; readers are "
        f"warm, each file is scanned anew; medians of {options.rounds} interleaved rounds.",
    )


def bench_workers(options: argparse.Namespace, scratch: Path) -> None:
    """Wall of the job with one and two readers, beside processes that only decode."""
    plain = prepare(Recipe(**RECIPE))
    prepared = with_encoder(plain, Blind(plain.encoder))
    folder = make_corpus(scratch, count=60)
    items = expand([str(folder)])
    with Engine(workers=1) as one, Engine(workers=2) as two, _Decoders(folder, 2) as decoders:
        cases = {
            "1 worker": job_of(one, prepared, items, scratch),
            "2 workers": job_of(two, prepared, items, scratch),
            "1 process": lambda: decoders.decode(1),
            "2 processes": lambda: decoders.decode(2),
        }
        for case in cases.values():
            case()
        seconds = interleaved(cases, rounds=options.rounds)
    names = list(cases)
    rows = []
    for first, second, what in (
        (names[0], names[1], "the job, an encoder that costs nothing"),
        (names[2], names[3], "processes that decode, nothing else"),
    ):
        medians = (statistics.median(seconds[name]) for name in (first, second))
        rows.append((what, *medians, median_ratio(seconds[first], seconds[second])))
    share = statistics.median(
        (a / b) / (c / d) for a, b, c, d in zip(*(seconds[n] for n in names), strict=True)
    )
    publish(
        "workers",
        "60 clips of 480x270 and 3 to 6 s, bound by decoding: wall seconds with 1 and 2 readers",
        "python scripts/bench_extract.py workers",
        ("what", "one", "two", "scales"),
        rows,
        f"The job scales {share:.2f} times as well as independent processes do on this machine in "
        f"the same round; medians of {options.rounds} interleaved rounds, each file scanned anew.",
    )


class _Decoders:
    """Processes that share nothing and decode their part of a folder when told."""

    def __init__(self, folder: Path, count: int) -> None:
        script = Path(__file__).with_name("bench_extract.py")
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(script), "--decode", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for _ in range(count)
        ]

    def __enter__(self) -> "_Decoders":
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.communicate()

    def decode(self, count: int) -> None:
        """All clips, dealt out to so many processes."""
        for i, process in enumerate(self._processes[:count]):
            assert process.stdin is not None
            process.stdin.write(f"{i} {count}\n")
        for process in self._processes[:count]:
            assert process.stdout is not None
            assert process.stdout.readline()


def decode_on_demand(folder: Path) -> None:
    """What such a process does."""
    torch.set_num_threads(1)
    prepared = prepare(Recipe(**RECIPE))
    items = expand([str(folder)])
    for line in sys.stdin:
        part, count = map(int, line.split())
        decoding(prepared, items[part::count])()
        print("done", flush=True)
