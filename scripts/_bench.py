"""What the benchmarks share: interleaved rounds, medians, a JSON file and a table in the docs."""

import argparse
import json
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from vidcomp.pipelines.output import format_table
from vidcomp.store.room import num_cores

DOCS = Path(__file__).resolve().parents[1] / "docs"


def cpu_s() -> float:
    """CPU seconds of this process and of its ended children so far, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each case in each round; all cases run once a round, in turning order."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for round_ in range(rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            started = clock()
            cases[name]()
            seconds[name].append(clock() - started)
    return seconds


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over the rounds of slow / fast, each pair from one round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def machine() -> dict[str, object]:
    """Where the numbers come from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        "cores": num_cores(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: int) -> None:
    """An H.264 file of [H, W, 3] uint8 pictures."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=fps, options={"preset": "veryfast", "g": "50"})
        stream.pix_fmt = "yuv420p"
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))


def publish(
    name: str,
    title: str,
    command: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: str,
) -> None:
    """Print a table, and put it into ``docs/benchmarks.md`` and ``docs/benchmarks/<name>.json``."""
    shown = [[_number(v) if isinstance(v, float) else v for v in row] for row in rows]
    print(f"\n{title}\n{format_table(header, shown)}\n{notes}\n")
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    record = {"title": title, "command": command, "machine": machine(), "header": list(header)}
    record |= {"rows": [list(row) for row in rows], "notes": notes}
    (DOCS / "benchmarks" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    _put_section(name, _markdown(title, command, header, rows, notes))


def publish_on(
    options: argparse.Namespace,
    name: str,
    title: str,
    command: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: str,
    details: Sequence[object] = (),
) -> None:
    """``publish``, with "-" for ``None``, unless ``options.trial``, where it is only printed.

    A table of another ``options.device`` than the CPU has a section of its own.  ``details`` are
    for the JSON only.
    """
    on_cpu = options.device == "cpu"
    title = title if on_cpu else f"{title} ({torch.cuda.get_device_name()})"
    if options.trial:
        print(f"\n{title}\n{format_table(header, rows, digits=4)}\n{notes}\n")
        return
    name += "_cuda" * (not on_cpu)
    command += "" if on_cpu else f" --device {options.device}"
    shown = [["-" if value is None else value for value in row] for row in rows]
    publish(name, title, command, header, shown, notes)
    if details:
        path = DOCS / "benchmarks" / f"{name}.json"
        record = json.loads(path.read_text()) | {"details": list(details)}
        path.write_text(json.dumps(record, indent=1) + "\n")


def _markdown(
    title: str, command: str, header: Sequence[str], rows: Sequence[Sequence[object]], notes: str
) -> str:
    def line(values: Sequence[object]) -> str:
        shown = (_number(v) if isinstance(v, float) else str(v) for v in values)
        return "| " + " | ".join(shown) + " |"

    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    table = "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
    return f"## {title}\n\n{table}\n\n{notes}\n\n`{command}` ({where})\n"


def _number(value: float) -> str:
    """Three digits that matter, never with an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _put_section(name: str, text: str) -> None:
    page = DOCS / "benchmarks.md"
    old = page.read_text() if page.exists() else "# Benchmarks\n"
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    block = f"{start}\n{text}{end}\n"
    pattern = re.compile(re.escape(start) + r".*?" + re.escape(end) + "\n", re.DOTALL)
    page.write_text(pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old}\n{block}")
