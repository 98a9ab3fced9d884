"""Long files in ranges of one length, each an item of its own."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue

from vidcomp.data.matching import ranged_key
from vidcomp.errors import ConfigError, VidcompError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.sample.uniform import Uniform

from ..inputs import Item
from ..units import parse_seconds
from .run_options import Options

__all__ = ["parse_window", "split", "windows_of"]

_FIRST = Uniform(num_frames=1)
_SIDE = 16  # pixels of a frame that nobody looks at


def parse_window(text: str) -> float:
    """The length of a window in seconds; ``s``, ``m`` or ``h`` may follow the number.

    Raises:
        ConfigError: not such a length, or less than a millisecond.
    """
    seconds = parse_seconds(text)
    if seconds < 1e-3:
        raise ConfigError(f"a window has a length, got {text!r}: write e.g. 60 or 10m")
    return seconds


def split(items: Sequence[Item], window_s: float, options: Options) -> list[Item]:
    """The windows of every item, by its real length: its packets are read, one frame is decoded.

    A file that cannot be read stays one item, which will fail and say why.

    Args:
        items: videos and ranges of them.
        window_s: length of a window; the last one of a video ends with it.
        options: how many are read at once, where, and when one is given up.
    """
    num_workers = max(1, min(options.num_workers, len(items)))
    readers: SimpleQueue[DecodeWorker | None] = SimpleQueue()
    made = [
        DecodeWorker(stall_s=options.stall_s, recycle_after=options.recycle_after)
        if options.isolation == "process"
        else None
        for _ in range(num_workers)
    ]
    for reader in made:
        readers.put(reader)

    def cut(item: Item) -> list[Item]:
        reader = readers.get()
        try:
            return windows_of(item, _length_s(item, reader, options), window_s)
        except VidcompError:
            return [item]
        finally:
            readers.put(reader)

    try:
        with ThreadPoolExecutor(num_workers) as pool:
            return [window for windows in pool.map(cut, items) for window in windows]
    finally:
        for reader in made:
            if reader is not None:
                reader.close()


def windows_of(item: Item, length_s: float, window_s: float) -> list[Item]:
    """Items for ranges of ``window_s`` seconds of a video that is ``length_s`` long.

    They begin where the item does, and are named as ranges of its video are.
    """
    name = item.key.removesuffix(ranged_key("", item.start_s, item.end_s))
    start_s = item.start_s or 0.0
    # Up to the next millisecond, as in windows of live sources: no frame is cut off.
    stop_s = math.ceil(length_s * 1000 - 1e-6) / 1000
    if item.end_s is not None:
        stop_s = min(stop_s, item.end_s)
    if stop_s <= start_s:
        return [item]  # which will say that there is nothing
    return [
        replace(item, key=ranged_key(name, start, stop), start_s=start, end_s=stop)
        for start, stop in _ranges(start_s, stop_s, window_s)
    ]


def _ranges(start_s: float, stop_s: float, window_s: float) -> Iterator[tuple[float, float]]:
    number = 0
    while (start := start_s + number * window_s) < stop_s - 1e-6:
        number += 1
        yield start, min(start_s + number * window_s, stop_s)


def _length_s(item: Item, reader: DecodeWorker | None, options: Options) -> float:
    request = DecodeRequest(
        path=item.path,
        sampler=_FIRST,
        resize=Resize(height=_SIDE, width=_SIDE),
        on_damage="keep",
        backend=options.backend,
    )
    chunks = stream_frames(request) if reader is None else reader.frames(request)
    return max(0.0 if c.source is None else c.source.duration_s for c in chunks)
